"""What happens between two steps, in order: look at the loss, record, validate, checkpoint, report, and stop if asked.

The order makes an interrupted run continuous. A checkpoint is written after everything that its step records has
reached the disk, so whatever a resumed run finds beyond the checkpoint can be dropped and is measured again.
"""

from __future__ import annotations

import math
import signal
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lab.accounting.utilization import Utilization
from lab.records import Progress
from lab.training.checkpoints import verified
from lab.training.compilation import Compiler, CompileVerdict
from lab.training.module import NextToken, StepResult
from lab.training.options import Train
from lab.training.parallel.group import ALONE, Group
from lab.training.progress.recorder import Recorder
from lab.training.progress.stopwatch import Stopwatch

REPORT_SECONDS = 0.3
"""Least time between two progress reports."""


class Conductor(Callback):
    """Runs a training run step by step, and holds what a checkpoint keeps of it besides weights and optimizer.

    Args:
        train: the budget and the intervals of recording and checkpoints.
        validation_interval: optimizer steps between validations; None for one at the end only.
        folder: the run folder.
        recorder: where points go; None in a process that writes nothing.
        validate: measures the model on what is held out now: `val/loss`, nats per token, and what goes with it.
        report: told of progress.
        stop: asked after every step whether to stop.
        group: the processes that train together. They agree after every step whether to write a checkpoint and whether
            to stop, so that one that was asked to, or whose clock is ahead, takes all along.
        memory: most bytes in use so far in this attempt.
        text_digest: of the text that is trained on, which must not change between attempts.
        utilization: what turns a speed into MFU; None where nobody asks for it.
        compiler: of the model's blocks, which starts with the training.
    Attributes:
        diverged: whether something was not finite.
        reason: why it diverged or stopped.
        train_loss: the last finite one.
        validation: what `validate` measured last, with a finite loss; empty before.
        last_losses: the training losses of the last steps, whose mean is less noisy than the last.
        stopwatch: training time so far.
        peak_memory: most bytes in use up to the last checkpoint.
        kernels: which attention kernel each layer kind uses, as far as the model can tell.
        kernels_passed_over: for each layer kind why not each of the others.
        utilization, compiler: as given.
    """

    def __init__(
        self,
        *,
        train: Train,
        validation_interval: int | None,
        folder: Path,
        recorder: Recorder | None,
        validate: Callable[[], dict[str, float]],
        report: Callable[[Progress], None] | None,
        stop: Callable[[], bool] | None,
        memory: Callable[[], int],
        text_digest: str,
        group: Group = ALONE,
        utilization: Utilization | None = None,
        compiler: Compiler | None = None,
    ) -> None:
        self.diverged = False
        self.reason: str | None = None
        self.train_loss: float | None = None
        self.validation: dict[str, float] = {}
        self.last_losses: list[float] = []
        self.stopwatch = Stopwatch()
        self.peak_memory = 0
        self.kernels: dict[str, str] | None = None
        self.kernels_passed_over: dict[str, dict[str, str]] | None = None
        self._train = train
        self._validation_interval = validation_interval
        self._folder = folder
        self._recorder = recorder
        self._validate = validate
        self._report = report
        self._stop = stop
        self._memory = memory
        self._text_digest = text_digest
        self._group = group
        self.utilization, self.compiler = utilization, compiler
        self._checkpoint_due = train.checkpoint_minutes * 60
        self._reported = -math.inf
        self._sigterm = signal.getsignal(signal.SIGTERM)
        self._threads = torch.get_num_threads()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning has put a handler of its own here, which would end the run without a checkpoint. Whoever started
        # the run decides what signals mean.
        if threading.current_thread() is threading.main_thread() and self._sigterm is not None:
            signal.signal(signal.SIGTERM, self._sigterm)
        # So has its launcher of processes with the number of threads, which changes the order of sums.
        torch.set_num_threads(self._threads)
        # Here, because the model is on its device only from now until the end of training.
        assert isinstance(pl_module, NextToken)
        with trainer.precision_plugin.train_step_context():
            choices = pl_module.kernel_choices()
        if choices is not None:
            self.kernels = {kind: choice.kernel for kind, choice in choices.items()}
            self.kernels_passed_over = {kind: dict(choice.others) for kind, choice in choices.items()}
        if self.compiler is not None:
            self.compiler.start()
        self.stopwatch.start()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: object,
        batch_idx: int,
    ) -> None:
        result: StepResult = outputs["result"]
        self.stopwatch.lap(self._train.tokens_per_step)
        step = trainer.global_step
        if result.fault is not None:
            self._diverge(trainer, f"{result.fault} at step {step + 1}, which was not taken")
            return
        at_end = step == self._train.steps
        self._note(result.loss)
        if step == 1 or step % self._train.log_every == 0 or at_end:
            self._record_training(step, result)
        if at_end or (self._validation_interval and step % self._validation_interval == 0):
            with trainer.precision_plugin.val_step_context():
                measured = self._validate()
            loss = measured["val/loss"]
            if not math.isfinite(loss):
                self._diverge(trainer, f"the validation loss is {loss} after step {step}")
                return
            self.validation = measured
            self._record(step, measured)
        asked = not at_end and self._stop is not None and self._stop()
        stopping, due = self._group.any(asked, self.stopwatch.seconds >= self._checkpoint_due)
        if at_end or stopping or due:
            self._checkpoint(trainer, step)
        self.report(step)
        if stopping:
            self.reason = f"asked to stop after step {step:,} of {self._train.steps:,}"
            trainer.should_stop = True
        self.stopwatch.start()

    def status(self, step: int) -> Literal["finished", "diverged", "preempted"]:
        """How the run stands, having ended at `step`."""
        if self.diverged:
            return "diverged"
        return "finished" if step == self._train.steps else "preempted"

    def report(self, step: int, *, always: bool = False) -> None:
        """Tell how far the run is, unless it was told a moment ago."""
        if self._report is None or not (always or time.monotonic() - self._reported >= REPORT_SECONDS):
            return
        self._reported = time.monotonic()
        tokens = step * self._train.tokens_per_step
        speed = self.stopwatch.tokens_per_second
        self._report(Progress(step, self._train.steps, tokens, loss=self.train_loss, tokens_per_second=speed))

    def state_dict(self) -> dict[str, Any]:
        return {
            "train_loss": self.train_loss,
            "validation": self.validation,
            "last_losses": self.last_losses,
            "stopwatch": self.stopwatch.state_dict(),
            "peak_memory": self.peak_memory,
            "kernels": self.kernels,
            "kernels_passed_over": self.kernels_passed_over,
            "compile": self.compilation,
            "text_digest": self._text_digest,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["text_digest"] != self._text_digest:
            raise ValueError(
                f"the text has changed since the checkpoint in {self._folder}: its digest was "
                f"{state_dict['text_digest']}, and is {self._text_digest}"
            )
        self.train_loss = state_dict["train_loss"]
        before = state_dict.get("val_loss")  # of checkpoints that held the loss alone
        self.validation = state_dict.get("validation") or ({} if before is None else {"val/loss": before})
        self.last_losses = list(state_dict["last_losses"])
        self.stopwatch.load_state_dict(state_dict["stopwatch"])
        self.peak_memory = state_dict["peak_memory"]
        self.kernels = state_dict["kernels"]
        self.kernels_passed_over = state_dict.get("kernels_passed_over")  # checkpoints of before have none
        if self.compiler is not None:
            self.compiler.verdict = CompileVerdict.stored(state_dict.get("compile"))
        self._checkpoint_due = self.stopwatch.seconds + self._train.checkpoint_minutes * 60

    @property
    def compilation(self) -> str | None:
        """Whether the blocks are compiled, and why, as checkpoints and summaries hold it; None where it isn't known."""
        verdict = None if self.compiler is None else self.compiler.verdict
        return None if verdict is None else str(verdict)

    @property
    def final_train_loss(self) -> float:
        """Mean training loss of the last steps: a twentieth of the budget, at most 100 steps."""
        return statistics.fmean(self.last_losses)

    def _note(self, loss: float) -> None:
        self.train_loss = loss
        kept = min(100, math.ceil(self._train.steps / 20))
        self.last_losses = [*self.last_losses, loss][-kept:]

    def _record_training(self, step: int, result: StepResult) -> None:
        measured = {"train/loss": result.loss, "train/lr": result.lr, "train/grad_norm": result.grad_norm}
        measured |= {f"train/{name}": value for name, value in (result.auxiliary | result.terms).items()}
        speed = self.stopwatch.since_mark()
        if speed is not None:
            measured["train/tokens_per_second"] = speed
        mfu = None if self.utilization is None else self.utilization.mfu(speed)
        if mfu is not None:
            measured["train/mfu"] = mfu
        self._record(step, measured)

    def _record(self, step: int, measured: dict[str, float]) -> None:
        if self._recorder is not None:
            point = {"tokens": step * self._train.tokens_per_step, "time": round(self.stopwatch.seconds, 3)}
            self._recorder.log_metrics(point | measured, step)

    def _checkpoint(self, trainer: Trainer, step: int) -> None:
        if self._recorder is not None:
            self._recorder.save()
        self.peak_memory = self._group.most(max(self.peak_memory, self._memory()))
        trainer.save_checkpoint(verified.checkpoint_path(self._folder, step), weights_only=False)
        self._checkpoint_due = self.stopwatch.seconds + self._train.checkpoint_minutes * 60

    def _diverge(self, trainer: Trainer, reason: str) -> None:
        self.diverged, self.reason = True, reason
        trainer.should_stop = True
