"""One run from its configuration to its outcome: prepare the text, build the model, train it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from components.decoder import Decoder
from lab.accounting.costs import costs
from lab.accounting.peaks import peak
from lab.accounting.utilization import Utilization
from lab.data.synthetic.synthetic_data import load
from lab.records import TOKENIZER, Progress
from lab.training import environment
from lab.training.experiment import Experiment
from lab.training.fit import Conclude, Procedure, fit
from lab.training.parallel.world import World
from lab.training.progress.outcome import Outcome
from lab.training.recipes.base import run_options
from lab.training.recipes.teacher import Teacher

__all__ = ["Outcome", "Progress", "train"]


def train(
    experiment: Experiment,
    folder: Path,
    *,
    trained: Mapping[str, Teacher] | None = None,
    report: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    world: World | None = None,
    conclude: Conclude | None = None,
) -> Outcome:
    """Train an experiment in a run folder, or go on with what is there.

    Writes tokenizer/, metrics.jsonl, TensorBoard events and checkpoints/, and summary.json once the run has finished
    or diverged. A run that was interrupted at any moment, `kill -9` included, goes on from its newest whole checkpoint
    and ends with the weights of one that was not, bit for bit on the same machine, libraries and number of threads.

    Args:
        experiment: what to train.
        folder: the run folder; made if it is missing.
        trained: identity → run, for every run that the experiment refers to.
        report: called with the progress at the start, at the end, and at most a few times a second in between.
        stop: asked after every step; on True the run writes a checkpoint and ends as preempted.
        world: the processes that train the run together, each of which calls this: see `lab.training.fit.fit`.
        conclude: what remains to be done once the run is finished, before that is written down.
    Raises:
        ValueError: the experiment cannot be trained, such as a model with fewer tokens than its text, or a teacher with
            others; or the folder holds a run of something else.
    """
    text = load(experiment.data)
    if experiment.model.vocab_size < text.vocab_size:
        raise ValueError(
            f"model.vocab_size: {experiment.model.vocab_size:,} is too small for the text's {text.vocab_size:,} tokens"
        )
    module = experiment.recipe.module(trained or {}, text.encoder)
    world = world or World()
    # Before there is a model, so that what measuring needs is no part of the run's peak of memory.
    utilization = utilization_of(experiment, trained or {}, world) if world.first else None
    if world.first:
        text.keep_tokenizer(folder / TOKENIZER)
    model = Decoder.initialized(experiment.model, experiment.seed, kernel=experiment.train.kernel)
    procedure = Procedure(
        train=experiment.train,
        validation=experiment.validation,
        optimizer=experiment.optimizer,
        schedule=experiment.schedule,
        seed=experiment.seed,
        data_seed=experiment.data_seed,
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


def utilization_of(experiment: Experiment, trained: Mapping[str, Teacher], world: World) -> Utilization:
    """What turns the run's speed here into its MFU; on a CPU it may measure for a moment.

    Args:
        trained: as for `train`.
    """
    recipe = experiment.recipe
    context = experiment.train.context
    flops = costs(experiment.model, context).flops_per_token
    for option in run_options(type(recipe)):
        used: Any = trained[getattr(recipe, option)].model
        forward = costs(used.architecture, context).forward_flops_per_token
        flops += recipe.flops_in_step(option, forward)
    dtype = torch.bfloat16 if experiment.train.precision == "bf16-mixed" else torch.float32
    device = environment.device_of(experiment.train.accelerator, world)
    return Utilization(flops, peak(device, dtype), world.size)
