"""How close a training came to instability: spikes of its curves, and how large numbers grew in its model."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from components.registry import OptionError, register
from lab.data.shards import prepare
from lab.evaluation.base import Findings, LoadedRun, Session, Subject
from lab.evaluation.measure.heldout import HeldOut
from lab.evaluation.measure.spikes import LEAST, ends_well, spikes, stretches
from lab.records import EvaluationCurve

CURVES = ("loss", "grad_norm")


@register("stability")
class Stability(HeldOut):
    """Spikes of the training curves, and the largest attention logits and activations of the trained model.

    `loss_spikes` and `grad_norm_spikes` count the recorded values that lie more than `deviations` above the `history`
    values before them (median and scaled median absolute deviation, after OLMo 2, 2501.00656); `train.log_every: 1`
    records every step. `stable_lr` is the run's learning rate if its loss ended within `margin` of the lowest that it
    had been and below the unigram loss, else 0: over a sweep of learning rates, the largest stable one is its maximum.
    An imported model has no curve, and none of these.

    `largest_attention_logit` is over all layers, heads, and the keys that queries see, of scale · q · k before a cap
    (where there are caps, `largest_capped_logit` after), and `largest_activation_rms` is the root mean square of the
    residual stream after the layer where it is largest. Curves have each by layer.

    Attributes:
        history: recorded values before one that it is judged by.
        deviations: how far above them a spike is.
        margin: nats that a stable run's training loss may end above its lowest.
        tokens: of held-out text that the model is looked at on; None for as many as the run's validation had.
        context: length of a window; None for that of the run's training.
        batch: windows at once; None for as many sequences as training had in a forward pass.
    """

    history: int = 100
    deviations: float = 7.0
    margin: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need_at_least(LEAST, "history")
        for option in ("deviations", "margin"):
            if getattr(self, option) < 0:
                raise OptionError(option, f"must be 0 or above, got {getattr(self, option):g}")

    def evaluate(self, subject: Subject, session: Session) -> Findings:
        from lab.evaluation.measure.magnitudes import joined, magnitudes

        loaded, batches = subject.loaded, self.batches(subject)

        def look(number: int) -> dict[str, Any]:
            from lab.training.data.documents import document_ids

            tokens = batches[number][0].to(loaded.device)
            documents = None if subject.separator is None else document_ids(tokens, subject.separator)
            return magnitudes(loaded.model, tokens, documents)

        parts = []
        for number in range(len(batches)):
            parts.append(session.cell(str(number), functools.partial(look, number)))
            session.progress(number + 1, len(batches))
        metrics, curves = joined(loaded.model.architecture, parts)
        trained = self._training(loaded)
        return Findings({**trained.metrics, **metrics}, {**trained.curves, **curves}, details=trained.details)

    def _training(self, loaded: LoadedRun) -> Findings:
        """What the training curves say."""
        points = [point for point in loaded.run.metrics() if "train/loss" in point and point["step"] <= loaded.step]
        metrics: dict[str, float] = {}
        curves: dict[str, EvaluationCurve] = {}
        for name in CURVES if len(points) > LEAST else ():
            values = [point[f"train/{name}"] for point in points]
            found = spikes(values, self.history, self.deviations)
            metrics[f"{name}_spikes"] = len(found)
            at = tuple((points[place]["step"], values[place]) for place in found)
            curves[f"{name}_spikes"] = EvaluationCurve("step", f"{name.replace('_', ' ')} at a spike", at)
        lr = getattr(loaded.experiment.optimizer, "lr", None)
        swept = loaded.run.record.axes
        arm = ", ".join(f"{axis.split('/')[-1]} {value}" for axis, value in swept.items() if axis != "optimizer.lr")
        losses = [point["train/loss"] for point in points]
        end = stretches(losses)[-1] if losses else None
        if losses and lr is not None:
            metrics["stable_lr"] = lr if ends_well(losses, self.margin, _unigram_loss(loaded)) else 0.0
        return Findings(metrics, curves, details={"recorded": len(points), "lr": lr, "arm": arm, "end": end})

    def together(self, found: Sequence[tuple[str, Findings]]) -> Mapping[str, bytes]:
        from lab.evaluation.pictures import learning_rates

        return {"learning_rates": learning_rates([each for _, each in found])}


def _unigram_loss(loaded: LoadedRun) -> float:
    """That of the text that the run was trained on; it has no summary while its training is being concluded."""
    summary = loaded.run.summary
    if summary is not None and "unigram/loss" in summary.metrics:
        return float(summary.metrics["unigram/loss"])
    return prepare(loaded.experiment.data).unigram_loss
