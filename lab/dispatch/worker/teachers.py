"""Loads the teachers of a run: finished runs that it needs, each from its verified last checkpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lab.dispatch.control import dependencies
from lab.records import TOKENIZER, RunFolder
from lab.refusals import RequestError

if TYPE_CHECKING:
    from lab.training.recipes.teacher import Teacher


def load_teachers(run: RunFolder) -> dict[str, Teacher]:
    """Identity → teacher, for every run that this one needs.

    A teacher is loaded with the components that it was made with, so load this run's own components afterwards.

    Raises:
        RequestError: a needed run is not there, has not finished, or has lost its last checkpoint.
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
    teachers = {}
    for need in needs:
        needed = dependencies.find(run, need)
        assert needed is not None, "its standing is ready"
        with extensions.of_run(needed.path, needed.record):
            experiment = load_experiment(relocated(needed.config, needed.path / TOKENIZER))
            kernel = kernel_for_device(experiment, device, mask_documents=options["mask_documents"])
            teachers[need.identity] = _with_loss(teacher.load(needed, experiment, kernel=kernel), needed)
    return teachers


def _with_loss(teacher: Teacher, run: RunFolder) -> Teacher:
    """The teacher; one whose training measured no loss takes it from `lab eval RUN perplexity`, if that was run."""
    from lab.evaluation import results_store

    result = results_store.load(run, "perplexity") if teacher.val_loss is None else None
    if result is None or result.evaluator != "perplexity" or result.identity != teacher.identity:
        return teacher
    return replace(teacher, val_loss=result.metrics["loss"], measured_on=result.data_digest)
