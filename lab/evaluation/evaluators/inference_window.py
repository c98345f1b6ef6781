"""A trained model scored with other windows than it was trained with: what a shorter cache would cost it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.registry import OptionError, register
from lab.evaluation.base import Findings, Session, Subject
from lab.evaluation.measure.heldout import HeldOut, measure
from lab.evaluation.measure.windows import local_windows, rebuilt, with_window
from lab.records import EvaluationCurve

if TYPE_CHECKING:
    from components.architecture import Architecture
    from lab.training.experiment import Experiment


@register("inference_window")
class InferenceWindow(HeldOut):
    """Loss on held-out text with other windows in the local layers, as table 10 of the Gemma 2 paper (2408.00118).

    `loss` is that of the model as it was trained, `window_<w>_loss` that with w keys, a query's own included, in every
    local layer; the weights are the same. A window of the context's length or more hides nothing.

    Attributes:
        windows: in tokens; None for a quarter, half, once and twice the largest that the model was trained with.
        tokens: how many are predicted, rounded up to whole windows of text; None for as many as the run's validation
            had.
        context: length of a window of text; None for that of the run's training.
        batch: windows of text at once; None for as many sequences as training had in a forward pass.
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
        super().check(experiment)
        with_window(experiment.model, 1)

    def evaluate(self, subject: Subject, session: Session) -> Findings:
        model, batches = subject.loaded.model, self.batches(subject)
        chosen = self._windows(model.architecture)
        models = {window: rebuilt(model, with_window(model.architecture, window)) for window in chosen}
        trained = measure(model, batches, subject, session, part=0, parts=1 + len(models)).mean
        found = {
            window: measure(other, batches, subject, session, part=part, parts=1 + len(models)).mean
            for part, (window, other) in enumerate(models.items(), start=1)
        }
        return Findings(
            {"loss": trained, **{f"window_{window}_loss": loss for window, loss in found.items()}},
            curves={
                "loss_by_window": EvaluationCurve(
                    "window (tokens)", "loss (nats a token)", tuple(sorted(found.items()))
                )
            },
            details={"trained_windows": local_windows(model.architecture), "tokens": batches.n_tokens},
        )

    def _windows(self, architecture: Architecture) -> tuple[int, ...]:
        if self.windows is not None:
            return self.windows
        largest = local_windows(architecture)[-1]
        return tuple(dict.fromkeys(max(1, largest * quarters // 4) for quarters in (1, 2, 4, 8)))
