"""Loads the runs that a run needs, each from the verified last checkpoint of a finished run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lab.dispatch.control import dependencies
from lab.records import TOKENIZER, RunFolder
from lab.refusals import RequestError

if TYPE_CHECKING:
    from lab.training.recipes.teacher import Teacher


def load_needed(run: RunFolder) -> dict[str, Teacher]:
    """Identity → run, of every run that this one needs.

    Each is loaded with the components that it was made with; this run's own have to be loaded afterwards.

    Raises:
        RequestError: one is not there, has not finished, or has lost its last checkpoint.
    """
    needs = dependencies.of(run)
    if not needs:
        return {}
    from lab.composition import extensions
    from lab.composition.frozen.freeze import load_experiment
    from lab.composition.frozen.reload import kernel_for_device, relocated
    from lab.training import environment
    from lab.training.recipes import teacher

    standing = dependencies.standing(run)
    if standing.reason is not None:
        raise RequestError(standing.reason)
    options = run.config["train"]
    device = environment.device_of(options["accelerator"]).type
    loaded = {}
    for need in needs:
        found = dependencies.find(run, need)
        assert found is not None, "or it would not stand ready"
        with extensions.of_run(found.path, found.record):
            experiment = load_experiment(relocated(found.config, found.path / TOKENIZER))
            kernel = kernel_for_device(experiment, device, mask_documents=options["mask_documents"])
            loaded[need.identity] = _measured(teacher.load(found, experiment, kernel=kernel), found)
    return loaded


def _measured(teacher: Teacher, run: RunFolder) -> Teacher:
    """A teacher that no training of the lab's measured, with the loss that `lab eval RUN perplexity` found."""
    from lab.evaluation import results_store

    found = results_store.load(run, "perplexity") if teacher.val_loss is None else None
    if found is None or found.evaluator != "perplexity" or found.identity != teacher.identity:
        return teacher
    return replace(teacher, val_loss=found.metrics["loss"], measured_on=found.data_digest)
