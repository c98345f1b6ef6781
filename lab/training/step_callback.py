"""The Lightning callback after each step: check the loss, record, validate, checkpoint, report, and stop on request.

The order matters for resuming. A checkpoint is written after all points of its step are on disk, so a resumed run can
drop all points after its checkpoint and measure them again.
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

from components.compilation import CompileDecision
from lab.accounting.utilization import Utilization
from lab.data import DataError
from lab.records import Phase, Progress
from lab.training.checkpoints import verified
from lab.training.compilation import Compiler
from lab.training.module import NextToken, StepResult
from lab.training.options import Train
from lab.training.parallel.group import SINGLE_PROCESS, Group
from lab.training.progress.interruptions import Interruptions
from lab.training.progress.phase_clock import part
from lab.training.progress.recorder import Recorder
from lab.training.progress.stopwatch import Stopwatch

REPORT_SECONDS = 0.3
"""Minimum time between two progress reports."""


class StepCallback(Callback):
    """Follows a run step by step. Checkpoints store its state beside weights and optimizer.

    Args:
        train: the budget, and the intervals of recording and checkpoints.
        validation_interval: optimizer steps between validations; None to validate at the end only.
        folder: the run folder.
        recorder: writes the points; None in a process that writes nothing.
        validate: measures the model on held-out data; returns `val/loss` in nats per token and other metrics.
        report: called with the progress.
        stop: called after every step; True stops the run.
        memory: returns the peak memory of this attempt in bytes.
        text_digest: digest of the training text, which must not change between attempts.
        group: the processes that train together. After every step they agree whether to write a checkpoint and whether
            to stop: if one process decides to, all do.
        utilization: converts speed to MFU; None for no MFU.
        compiler: compiles the model's blocks when training starts; None to compile nothing.
        evaluations: number of evaluations that follow training.

    Attributes:
        diverged: whether a value was not finite.
        reason: why the run diverged or stopped.
        train_loss: the last finite training loss, in nats per token.
        validation: the metrics of the last validation with a finite loss; empty before.
        validations: the number of validations so far, those of earlier attempts included.
        last_losses: training losses of the last steps; their mean has less noise than the last one.
        stopwatch: training time so far.
        peak_memory: peak memory in bytes up to the last checkpoint.
        kernels: layer kind → attention kernel; None if unknown.
        kernels_passed_over: layer kind → other kernel → reason against it; None if unknown.
        pieces: fused piece → the form that the attempt uses, with the reason for a naive one; None if unknown.
        utilization, compiler: the arguments.
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
        group: Group = SINGLE_PROCESS,
        utilization: Utilization | None = None,
        compiler: Compiler | None = None,
        evaluations: int = 0,
    ) -> None:
        self.diverged = False
        self.reason: str | None = None
        self.train_loss: float | None = None
        self.validation: dict[str, float] = {}
        self.validations = 0
        self.last_losses: list[float] = []
        self.stopwatch = Stopwatch()
        self.peak_memory = 0
        self.kernels: dict[str, str] | None = None
        self.kernels_passed_over: dict[str, dict[str, str]] | None = None
        self.pieces: dict[str, str] | None = None
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
        self._last_report = -math.inf
        self._phase: Phase = "start-up"
        self._evaluations = evaluations
        self._interruptions = Interruptions()
        self._sigterm = signal.getsignal(signal.SIGTERM)
        self._threads = torch.get_num_threads()

    @property
    def state_key(self) -> str:
        # Checkpoints store the state under this name. It is the name of the class in earlier versions.
        return "Conductor"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning has installed its own handler, which would end the run without a checkpoint. Restore the one of the
        # process that started the run.
        if threading.current_thread() is threading.main_thread() and self._sigterm is not None:
            signal.signal(signal.SIGTERM, self._sigterm)
        # Lightning's launcher changes the number of threads, and so the order of sums. Restore it too.
        torch.set_num_threads(self._threads)
        # Done here because the model is on its device only during training.
        assert isinstance(pl_module, NextToken)
        with trainer.precision_plugin.train_step_context():
            choices = pl_module.kernel_choices()
        if choices is not None:
            self.kernels = {kind: choice.kernel for kind, choice in choices.items()}
            self.kernels_passed_over = {kind: dict(choice.others) for kind, choice in choices.items()}
        if self.compiler is not None:
            self.compiler.start()
        self.pieces = pl_module.piece_forms()
        self.report(trainer.global_step)
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
        self._add_loss(result.loss)
        if step == 1 or step % self._train.log_every == 0 or at_end:
            with part("events"):
                self._record_training(step, result)
        if at_end or (self._validation_interval and step % self._validation_interval == 0):
            began = time.perf_counter()
            self.report(step, phase="validation")
            with trainer.precision_plugin.val_step_context():
                metrics = self._validate()
            self._interruptions.note("validation", time.perf_counter() - began)
            self.report(step, phase="training")
            loss = metrics["val/loss"]
            if not math.isfinite(loss):
                self._diverge(trainer, f"the validation loss is {loss} after step {step}")
                return
            self.validation = metrics
            self.validations += 1
            self._record(step, metrics)
        is_stop_requested = not at_end and self._stop is not None and self._stop()
        is_stopping, is_due = self._group.any(is_stop_requested, self.stopwatch.seconds >= self._checkpoint_due)
        if at_end or is_stopping or is_due:
            began = time.perf_counter()
            self.report(step, phase="checkpoints")
            self._checkpoint(trainer, step)
            self._interruptions.note("checkpoints", time.perf_counter() - began)
            self.report(step, phase="training")
        self.report(step)
        if is_stopping:
            self.reason = f"asked to stop after step {step:,} of {self._train.steps:,}"
            trainer.should_stop = True
        self.stopwatch.start()

    def status(self, step: int) -> Literal["finished", "diverged", "preempted"]:
        """The status of the run after it has ended at `step`."""
        if self.diverged:
            return "diverged"
        return "finished" if step == self._train.steps else "preempted"

    def report(self, step: int, *, always: bool = False, phase: Phase = "training") -> None:
        """Report the progress, unless the last report was of the same phase and less than REPORT_SECONDS ago."""
        is_due = phase != self._phase or time.monotonic() - self._last_report >= REPORT_SECONDS
        if self._report is None or not (always or is_due):
            return
        self._phase = phase
        self._last_report = time.monotonic()
        tokens = step * self._train.tokens_per_step
        speed = self.stopwatch.tokens_per_second
        self._report(
            Progress(
                step,
                self._train.steps,
                tokens,
                loss=self.train_loss,
                tokens_per_second=speed,
                phase=phase,
                evaluations=self._evaluations,
                seconds_after_steps=self._interruptions.seconds_left(
                    self._validations_left(step) + (phase == "validation")
                ),
            )
        )

    def _validations_left(self, step: int) -> int:
        """The validations after this step."""
        if step >= self._train.steps:
            return 0
        interval = self._validation_interval or self._train.steps
        return -(-self._train.steps // interval) - step // interval

    def state_dict(self) -> dict[str, Any]:
        return {
            "train_loss": self.train_loss,
            "validation": self.validation,
            "validations": self.validations,
            "last_losses": self.last_losses,
            "stopwatch": self.stopwatch.state_dict(),
            "peak_memory": self.peak_memory,
            "kernels": self.kernels,
            "kernels_passed_over": self.kernels_passed_over,
            "pieces": self.pieces,
            "compile": self.compilation,
            "text_digest": self._text_digest,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["text_digest"] != self._text_digest:
            raise DataError(
                f"the text has changed since the checkpoint in {self._folder}: its digest was "
                f"{state_dict['text_digest']}, and is {self._text_digest}"
            )
        self.train_loss = state_dict["train_loss"]
        val_loss = state_dict.get("val_loss")  # in checkpoints of earlier versions
        self.validation = state_dict.get("validation") or ({} if val_loss is None else {"val/loss": val_loss})
        self.validations = state_dict.get("validations", 0)  # missing in checkpoints of earlier versions
        self.last_losses = list(state_dict["last_losses"])
        self.stopwatch.load_state_dict(state_dict["stopwatch"])
        self.peak_memory = state_dict["peak_memory"]
        self.kernels = state_dict["kernels"]
        self.kernels_passed_over = state_dict.get("kernels_passed_over")  # missing in checkpoints of earlier versions
        self.pieces = state_dict.get("pieces")  # as well
        if self.compiler is not None:
            self.compiler.decision = CompileDecision.parse(state_dict.get("compile"))
        self._checkpoint_due = self.stopwatch.seconds + self._train.checkpoint_minutes * 60

    @property
    def compilation(self) -> str | None:
        """Whether the blocks are compiled, and why, as in checkpoints and summaries; None if undecided."""
        decision = None if self.compiler is None else self.compiler.decision
        return None if decision is None else str(decision)

    @property
    def final_train_loss(self) -> float:
        """The mean training loss of the last steps: a twentieth of the budget, at most 100 steps."""
        return statistics.fmean(self.last_losses)

    def _add_loss(self, loss: float) -> None:
        self.train_loss = loss
        n_losses = min(100, math.ceil(self._train.steps / 20))
        self.last_losses = [*self.last_losses, loss][-n_losses:]

    def _record_training(self, step: int, result: StepResult) -> None:
        metrics = {"train/loss": result.loss, "train/lr": result.lr, "train/grad_norm": result.grad_norm}
        metrics |= {f"train/{name}": value for name, value in (result.auxiliary | result.terms).items()}
        speed = self.stopwatch.since_mark()
        if speed is not None:
            metrics["train/tokens_per_second"] = speed
        mfu = None if self.utilization is None else self.utilization.mfu(speed)
        if mfu is not None:
            metrics["train/mfu"] = mfu
        self._record(step, metrics)

    def _record(self, step: int, metrics: dict[str, float]) -> None:
        if self._recorder is not None:
            point = {"tokens": step * self._train.tokens_per_step, "time": round(self.stopwatch.seconds, 3)}
            self._recorder.log_metrics(point | metrics, step)

    def _checkpoint(self, trainer: Trainer, step: int) -> None:
        if self._recorder is not None:
            self._recorder.save()
        self.peak_memory = self._group.max(max(self.peak_memory, self._memory()))
        trainer.save_checkpoint(verified.checkpoint_path(self._folder, step), weights_only=False)
        self._checkpoint_due = self.stopwatch.seconds + self._train.checkpoint_minutes * 60

    def _diverge(self, trainer: Trainer, reason: str) -> None:
        self.diverged, self.reason = True, reason
        trainer.should_stop = True
