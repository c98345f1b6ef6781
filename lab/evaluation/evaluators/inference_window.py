"""The loss of a trained model with other windows: the cost of a shorter cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.registry import OptionError, register
from lab.evaluation.base import EvaluationOutput, Session, Subject
from lab.evaluation.measure.heldout import HeldOut, measure
from lab.evaluation.measure.windows import local_windows, rebuild, with_window
from lab.records import EvaluationCurve

if TYPE_CHECKING:
    from components.architecture import Architecture
    from lab.training.experiment import Experiment


@register("inference_window")
class InferenceWindow(HeldOut):
    """Loss on held-out text with other windows in the local layers, as in table 10 of the Gemma 2 paper (2408.00118).

    `loss` is the loss with the trained windows. `window_<w>_loss` is the loss with the same weights and w visible keys,
    including the query's own, in every local layer. A window of the context's length or more hides nothing.

    Attributes:
        windows: in tokens; None for a quarter, half, once and twice the largest trained window.
        tokens: number of predicted tokens, rounded up to whole windows of text; None for the number in the run's
            validation.
        context: length of a window of text in tokens; None for the run's training context.
        batch: windows of text per forward pass; None for the number of sequences in a forward pass of training.
    """

    windows: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for window in self.windows or ():
            if window < 1:
                raise OptionError("windows", f"must be at least 1 (a query sees its own key), got {window}")
        if self.windows is not None and len(set(self.windows)) < max(1, len(self.windows)):
            raise OptionError("windows", f"must be at least one, each once, got {list(self.windows)}")

    def check(self, experiment: Experiment) -> None:
        with_window(experiment.model, 1)

    def metric_names(self, experiment: Experiment) -> tuple[str, ...]:
        return ("loss", *(f"window_{window}_loss" for window in self._windows(experiment.model)))

    def evaluate(self, subject: Subject, session: Session) -> EvaluationOutput:
        model, batches = subject.loaded.model, self.batches(subject)
        windows = self._windows(model.architecture)
        models = {window: rebuild(model, with_window(model.architecture, window)) for window in windows}
        trained_loss = measure(model, batches, subject, session, part=0, parts=1 + len(models)).mean
        losses = {
            window: measure(other, batches, subject, session, part=part, parts=1 + len(models)).mean
            for part, (window, other) in enumerate(models.items(), start=1)
        }
        return EvaluationOutput(
            {"loss": trained_loss, **{f"window_{window}_loss": loss for window, loss in losses.items()}},
            curves={
                "loss_by_window": EvaluationCurve(
                    "window (tokens)", "loss (nats a token)", tuple(sorted(losses.items()))
                )
            },
            details={"trained_windows": local_windows(model.architecture), "tokens": batches.n_tokens},
        )

    def _windows(self, architecture: Architecture) -> tuple[int, ...]:
        if self.windows is not None:
            return self.windows
        largest = local_windows(architecture)[-1]
        return tuple(dict.fromkeys(max(1, largest * quarters // 4) for quarters in (1, 2, 4, 8)))
