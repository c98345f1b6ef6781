"""Train one run from its configuration: prepare the data, build the model, fit it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from components.decoder import Decoder
from components.registry import OptionError
from lab.accounting.costs import costs
from lab.accounting.peaks import peak
from lab.accounting.utilization import Utilization
from lab.data.synthetic.synthetic_data import load
from lab.records import TOKENIZER, Progress
from lab.refusals import RequestError
from lab.training import environment
from lab.training.experiment import Experiment
from lab.training.fit import Conclude, Procedure, fit
from lab.training.parallel.world import World
from lab.training.progress.outcome import Outcome
from lab.training.progress.phase_clock import part
from lab.training.recipes.base import run_options
from lab.training.recipes.own_parameters import initialized
from lab.training.recipes.teacher import Teacher

__all__ = ["Outcome", "Progress", "train"]


def train(
    experiment: Experiment,
    folder: Path,
    *,
    teachers: Mapping[str, Teacher] | None = None,
    report: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    world: World | None = None,
    conclude: Conclude | None = None,
    text_digest: str | None = None,
) -> Outcome:
    """Train an experiment in a run folder, or resume the run in it.

    Writes tokenizer/, metrics.jsonl, TensorBoard events and checkpoints/, and summary.json when the run has finished or
    diverged. An interrupted run, even after `kill -9`, resumes from its newest complete checkpoint. Its final weights
    are bitwise those of an uninterrupted run on the same machine, with the same libraries and number of threads.

    Args:
        experiment: the configuration.
        folder: the run folder; created if missing.
        teachers: identity → loaded run, for every run that the experiment refers to.
        report: called with the progress at the start, at the end, and at most a few times a second in between.
        stop: called after every step; on True the run writes a checkpoint and ends as preempted.
        world: the processes that train the run together. Each of them calls this function; see `lab.training.fit.fit`.
        conclude: completes the summary of a finished run before it is written.
        text_digest: the digest of the text with which the run was planned; None to take the text as it is.

    Returns:
        How the run ended, with its summary.

    Raises:
        RequestError: the text has changed since the run was planned.
        ValueError: the experiment can't be trained, for example because the vocabulary of the model or the tokenizer
            of a teacher doesn't fit the text; or the folder has a run on other text.
    """
    with part("start-up/data"):
        text = load(experiment.data)
    if text_digest is not None and text.digest != text_digest:
        raise RequestError(
            f"its text has changed since it was planned: the digest was {text_digest[:12]}…, here it is "
            f"{text.digest[:12]}…",
            kind="conflict",
            file="config.yaml",
            key="data",
            fix="bring the text back, or plan the run again with `lab submit` or `lab train`",
        )
    if experiment.model.vocab_size < text.vocab_size:
        raise OptionError(
            "model.vocab_size",
            f"{experiment.model.vocab_size:,} is too small for the text's {text.vocab_size:,} tokens",
        )
    make = experiment.recipe.module(teachers or {}, text.encoder)
    module = initialized(make, experiment.seed, experiment.model.init, experiment.model.n_layers)
    world = world or World()
    # Before the model exists, so that the memory of this measurement doesn't count as the run's.
    with part("start-up/peak"):
        utilization = utilization_of(experiment, teachers or {}, world) if world.first else None
    if world.first:
        text.keep_tokenizer(folder / TOKENIZER)
    with part("start-up/model"):
        model = Decoder.initialized(experiment.model, experiment.seed, kernel=experiment.train.kernel)
    procedure = Procedure(
        train=experiment.train,
        validation=experiment.validation,
        optimizer=experiment.optimizer,
        schedule=experiment.schedule,
        seed=experiment.seed,
        data_seed=experiment.data_seed,
        evaluations=len(experiment.evaluate),
    )
    return fit(
        model,
        text,
        procedure,
        folder,
        module=module,
        report=report,
        stop=stop,
        world=world,
        utilization=utilization,
        conclude=conclude,
    )


def utilization_of(experiment: Experiment, teachers: Mapping[str, Teacher], world: World) -> Utilization:
    """Converts the run's speed on this machine to MFU. On a CPU, this may measure the peak for a moment.

    Args:
        teachers: as in `train`.
    """
    recipe = experiment.recipe
    context = experiment.train.context
    flops = costs(experiment.model, context).flops_per_token
    for option in run_options(type(recipe)):
        teacher: Any = teachers[getattr(recipe, option)].model
        forward = costs(teacher.architecture, context).forward_flops_per_token
        flops += recipe.flops_in_step(option, forward)
    dtype = torch.bfloat16 if experiment.train.precision == "bf16-mixed" else torch.float32
    device = environment.device_of(experiment.train.accelerator, world)
    return Utilization(flops, peak(device, dtype), world.size)
