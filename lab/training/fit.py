"""Train a model, from its newest complete checkpoint if there is one."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Trainer

from components.language_model import LanguageModel
from components.native.library import announcing
from components.registry import OptionError
from lab.accounting.utilization import Utilization
from lab.data.batches import count_windows
from lab.data.synthetic.synthetic_data import SyntheticData
from lab.records import Progress, RunFolder, Summary
from lab.training import environment
from lab.training.checkpoints import verified
from lab.training.checkpoints.lightning_io import VerifiedCheckpointIO
from lab.training.compilation import Compiler
from lab.training.data.batches import StepBatches, Text, training_batches, validator
from lab.training.module import NextToken
from lab.training.optimizers.optimizer import Optimizer
from lab.training.optimizers.schedule import Schedule
from lab.training.options import Train, Validation
from lab.training.parallel.group import Group, connected
from lab.training.parallel.strategies import strategy_of
from lab.training.parallel.world import World
from lab.training.progress.outcome import Outcome, Stopped
from lab.training.progress.recorder import Recorder
from lab.training.progress.summary import summarize
from lab.training.step_callback import StepCallback

Conclude = Callable[[Summary], Summary]
"""Called with the summary of a finished run before it is written; returns the complete summary. May raise `Stopped`."""

_LIGHTNING_PRECISION: dict[str, Literal["32-true", "bf16-mixed"]] = {"fp32": "32-true", "bf16-mixed": "bf16-mixed"}


@dataclass(frozen=True, kw_only=True)
class Procedure:
    """How to train, apart from the model, the data and the recipe.

    Attributes:
        train, validation, optimizer, schedule: as in the experiment.
        seed: the random seed of the model, such as of dropout.
        data_seed: the random seed of the order of the data.
        evaluations: number of evaluations that follow training, for the progress.
    """

    train: Train
    validation: Validation
    optimizer: Optimizer
    schedule: Schedule
    seed: int
    data_seed: int
    evaluations: int = 0


def fit(
    model: LanguageModel,
    text: Text | SyntheticData,
    procedure: Procedure,
    folder: Path,
    *,
    module: Callable[..., NextToken] = NextToken,
    report: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    world: World | None = None,
    utilization: Utilization | None = None,
    conclude: Conclude | None = None,
) -> Outcome:
    """Train a model, tokens [B, T] to logits [B, T, V], in place, as `lab.training.loop.train` describes.

    On a synthetic task, the loss is the mean over the targets of its items.

    With several processes, each calls this function with the same arguments except for its rank. The first one writes
    all files and reports progress. If any of them stops, all stop after the same step. A checkpoint doesn't depend on
    the number of processes, which may differ in the next attempt. Losses and weights equal those of a single process,
    except for the order of sums and for dropout (see `NextToken`). A run that is interrupted and resumed with the same
    number of processes gives bitwise the same result. Afterwards each process has the whole model, or its shard of it
    with fsdp.

    Args:
        module: builds the recipe's Lightning module; has the parameters of `NextToken`.
        report: called with the progress.
        stop: called after every step; True stops the run.
        world: the processes that train the run together; this process alone by default.
        utilization: converts speed to MFU; None for no MFU. Only the first process needs it.
        conclude: completes the summary of a finished run. Only the first process needs it.

    Raises:
        ValueError: the folder has a run on other text or beyond the budget, the schedule doesn't fit the budget, the
            text is too short, or a step can't be split over the processes.
    """
    world = world or World()
    procedure.schedule.check(procedure.train.steps, procedure.train.tokens_per_step)
    world.check(procedure.train)
    device = environment.device_of(procedure.train.accelerator, world)
    with connected(world, device) as group:
        own_report = report if world.first else None
        return _fit(model, text, procedure, folder, module, own_report, stop, group, device, utilization, conclude)


def _fit(
    model: LanguageModel,
    text: Text | SyntheticData,
    procedure: Procedure,
    folder: Path,
    module: Callable[..., NextToken],
    report: Callable[[Progress], None] | None,
    stop: Callable[[], bool] | None,
    group: Group,
    device: torch.device,
    utilization: Utilization | None,
    conclude: Conclude | None,
) -> Outcome:
    budget, world = procedure.train, group.world
    separator = None if isinstance(text, SyntheticData) or not budget.mask_documents else text.separator
    batches = training_batches(text, budget, procedure.data_seed)
    validate = validator(text, model, budget, procedure.validation.tokens, separator, group, device)
    group.check_same("the text's digest", text.digest)
    newest = group.broadcast(verified.newest(folder) if world.first else None)
    start = 0 if newest is None else verified.step_of(newest)
    if start > budget.steps:
        raise OptionError("train.tokens", f"{newest} is beyond the budget of {budget.steps:,} steps")
    compiler = Compiler(model, budget, device, world)
    lightning_module = module(
        model,
        train=budget,
        optimizer=procedure.optimizer,
        schedule=procedure.schedule,
        seed=procedure.seed,
        separator=separator,
        group=group,
        compiler=compiler,
        n_targets=text.n_targets if isinstance(text, SyntheticData) else None,
    )
    recorder = Recorder(folder, from_step=start) if world.first else None
    callback = StepCallback(
        train=budget,
        validation_interval=procedure.validation.interval(budget.tokens_per_step),
        folder=folder,
        recorder=recorder,
        validate=compiler.paused()(validate),
        report=report,
        stop=stop,
        memory=lambda: environment.peak_memory(device),
        text_digest=text.digest,
        group=group,
        utilization=utilization,
        compiler=compiler,
        evaluations=procedure.evaluations,
    )
    try:
        with environment.deterministic(), environment.quiet_lightning():
            trainer = Trainer(
                accelerator="gpu" if device.type == "cuda" else "cpu",
                **_placement(world, device),
                precision=_LIGHTNING_PRECISION[budget.precision],
                max_steps=budget.steps,
                logger=recorder or False,
                callbacks=[callback],
                default_root_dir=folder,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                enable_autolog_hparams=False,
                use_distributed_sampler=False,
                limit_val_batches=0,
                num_sanity_val_steps=0,
                plugins=[VerifiedCheckpointIO(folder, newest), *_environment(world)],
            )
            callback.report(start, always=True, phase="start-up")
            with announcing(lambda line: callback.report(start, phase="building")):
                _run(trainer, lightning_module, StepBatches(batches, start, budget.steps, world.part(budget)), newest)
    finally:
        if recorder is not None:
            recorder.close()
    status = callback.status(trainer.global_step)
    peak = group.max(max(callback.peak_memory, environment.peak_memory(device)))
    summary = summarize(
        callback,
        budget,
        text,
        model,
        device,
        steps=trainer.global_step,
        peak_memory=peak,
        world=world,
        validation_tokens=callback.validations * _held_out_tokens(text, budget, procedure.validation.tokens),
    )
    provenance = summary.provenance.with_facts({"loss": lightning_module.loss_form(device)})
    of_recipe = sum(parameter.numel() for parameter in lightning_module.own_parameters().values())
    facts = lightning_module.facts() | ({"recipe_parameters": of_recipe} if of_recipe else {})
    summary = replace(summary, provenance=provenance, extra=facts)
    if status == "finished" and world.first and conclude is not None:
        try:
            summary = conclude(summary)
        except Stopped:
            return Outcome("preempted", "asked to stop while the trained model was evaluated", summary)
    if status != "preempted" and world.first:
        RunFolder(folder).summary = summary
    callback.report(trainer.global_step, always=True)
    return Outcome(status, callback.reason, summary)


def _held_out_tokens(text: Text | SyntheticData, train: Train, tokens: int | None) -> int:
    """The tokens of one validation: whole windows, no more than the text has, and all of them if `tokens` is None."""
    wanted = None if tokens is None else -(-tokens // train.context)
    if isinstance(text, SyntheticData):
        return (wanted or 0) * train.context
    available = count_windows(text.validation, train.context, "the validation text")
    return train.context * (available if wanted is None else min(wanted, available))


def _placement(world: World, device: torch.device) -> dict[str, Any]:
    """Lightning's options for devices and strategy."""
    if not world.several:
        return {"devices": 1}
    return {"devices": 1 if device.index is None else [device.index], "strategy": strategy_of(world, device)}


def _environment(world: World) -> list[LightningEnvironment]:
    """A plugin that keeps Lightning from detecting Slurm, whose signals and requeue it would handle itself."""
    return [] if world.several else [LightningEnvironment()]


def _run(trainer: Trainer, module: NextToken, steps: StepBatches, checkpoint: Path | None) -> None:
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, train_dataloaders=steps, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as error:
        # Lightning turns Ctrl-C into an exit and ignores the next one. Restore both for the caller.
        if isinstance(error.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, interrupt)
            raise error.__context__ from None
        raise
