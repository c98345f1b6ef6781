"""Training a built model on tokenized text, from wherever its newest whole checkpoint left it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lab.atomic import write_json
from lab.data.batches import Batches, validation_batches
from lab.training import environment, verified
from lab.training.checkpoint import VerifiedCheckpointIO
from lab.training.conductor import Conductor
from lab.training.module import NextToken
from lab.training.optimizer import Optimizer
from lab.training.options import Train, Validation
from lab.training.outcome import Outcome, Progress
from lab.training.recorder import Recorder
from lab.training.schedule import Schedule
from lab.training.summary import summarize
from lab.training.validation import validation_loss

_LIGHTNING_PRECISION: dict[str, Any] = {"fp32": "32-true", "bf16-mixed": "bf16-mixed"}


class Text(Protocol):
    """What training needs of tokenized text; `lab.data.shards.TokenShards` is one."""

    @property
    def train(self) -> np.ndarray[Any, Any]: ...
    @property
    def validation(self) -> np.ndarray[Any, Any]: ...
    @property
    def digest(self) -> str: ...
    @property
    def validation_bytes(self) -> int: ...
    @property
    def unigram_loss(self) -> float: ...
    @property
    def separator(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What an experiment says about training, apart from the model and the text.

    Attributes:
        seed: of the random numbers in the model, such as dropout's.
        data_seed: of the order of the data.
    """

    train: Train
    validation: Validation
    optimizer: Optimizer
    schedule: Schedule
    seed: int
    data_seed: int


def fit(
    model: nn.Module,
    text: Text,
    recipe: Recipe,
    folder: Path,
    *,
    report: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Outcome:
    """Train a model, tokens [B, T] to logits [B, T, V], in place, as `lab.training.loop.train` describes.

    Raises:
        ValueError: the folder holds a run on another text or beyond the budget, the schedule does not fit into the
            budget, or the text is too short.
    """
    budget = recipe.train
    recipe.schedule.check(budget.steps, budget.tokens_per_step)
    device = environment.device_of(budget.accelerator)
    batches = Batches(text.train, budget.context, budget.global_batch, recipe.data_seed)
    held_out = validation_batches(
        text.validation, budget.context, budget.sequences_per_forward, recipe.validation.tokens
    )
    newest = verified.newest(folder)
    start = 0 if newest is None else verified.step_of(newest)
    if start > budget.steps:
        raise ValueError(f"{newest} is beyond the budget of {budget.steps:,} steps")
    separator = text.separator if budget.mask_documents else None
    module = NextToken(
        model,
        train=budget,
        optimizer=recipe.optimizer,
        schedule=recipe.schedule,
        seed=recipe.seed,
        separator=separator,
    )
    recorder = Recorder(folder, from_step=start)
    conductor = Conductor(
        train=budget,
        validation_interval=recipe.validation.interval(budget.tokens_per_step),
        folder=folder,
        recorder=recorder,
        validate=lambda: validation_loss(model, held_out, device, separator),
        report=report,
        stop=stop,
        memory=lambda: environment.peak_memory(device),
        text_digest=text.digest,
    )
    try:
        with environment.deterministic(), environment.quiet_lightning():
            trainer = Trainer(
                accelerator="gpu" if device.type == "cuda" else "cpu",
                devices=1,
                precision=_LIGHTNING_PRECISION[budget.precision],
                max_steps=budget.steps,
                logger=recorder,
                callbacks=[conductor],
                # Its own environment, since Lightning would handle SLURM's signals and requeue by itself.
                plugins=[VerifiedCheckpointIO(folder, newest), LightningEnvironment()],
                default_root_dir=folder,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                enable_autolog_hparams=False,
                use_distributed_sampler=False,
                limit_val_batches=0,
                num_sanity_val_steps=0,
            )
            conductor.report(start, always=True)
            _run(trainer, module, _Steps(batches, start, budget.steps), newest)
    finally:
        recorder.close()
    status = conductor.status(trainer.global_step)
    summary = summarize(conductor, budget, text, model, device, steps=trainer.global_step)
    if status != "preempted":
        write_json(folder / "summary.json", summary)
    conductor.report(trainer.global_step, always=True)
    return Outcome(status, conductor.reason, summary)


class _Steps:
    """The batches of a run from step `start` on.

    It has no length and no state, so that Lightning neither counts them nor winds them forward: a resumed run's
    first batch is that of its first step.
    """

    def __init__(self, batches: Batches, start: int, steps: int) -> None:
        self._batches, self._start, self._steps = batches, start, steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self._batches.at(step) for step in range(self._start, self._steps))


def _run(trainer: Trainer, module: NextToken, steps: _Steps, checkpoint: Path | None) -> None:
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, train_dataloaders=steps, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as error:
        # Lightning turns Ctrl-C into an exit and ignores the next one; who called decides what it means.
        if isinstance(error.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, interrupt)
            raise error.__context__ from None
        raise
