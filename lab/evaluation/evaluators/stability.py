"""Stability of a training run: spikes of its curves, and the largest values inside its model."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from components.registry import OptionError, register
from lab.data.shards import prepare
from lab.evaluation.base import EvaluationOutput, LoadedRun, Session, Subject
from lab.evaluation.measure.heldout import HeldOut
from lab.evaluation.measure.spikes import MIN_HISTORY, ends_low, rolling_means, spikes
from lab.records import EvaluationCurve

if TYPE_CHECKING:
    from lab.training.experiment import Experiment

CURVES = ("loss", "grad_norm")


@register("stability")
class Stability(HeldOut):
    """Spikes of the training curves, and the largest attention logits and activations of the trained model.

    `loss_spikes` and `grad_norm_spikes` count the recorded values that are more than `deviations` above the `history`
    values before them (median and scaled median absolute deviation, after OLMo 2, 2501.00656); `train.log_every: 1`
    records every step. `stable_lr` is the run's learning rate if its loss ends within `margin` of its lowest value and
    below the unigram loss, and 0 otherwise; its maximum over a sweep of learning rates is the largest stable one. An
    imported model has no curves, and none of these metrics.

    `largest_attention_logit` is the maximum of scale · q · k over all layers, heads and visible keys, before a cap;
    `largest_capped_logit`, for models with caps, is the maximum after it. `largest_activation_rms` is the root mean
    square of the residual stream after the layer where it is largest. Each has a curve by layer.

    Attributes:
        history: number of recorded values that a value is compared with.
        deviations: minimum distance of a spike from their median, in deviations.
        margin: maximum distance of a stable run's final training loss from its lowest value, in nats per token.
        tokens: number of tokens of held-out text for logits and activations; None for the number in the run's
            validation.
        context: length of a window in tokens; None for the run's training context.
        batch: windows per forward pass; None for the number of sequences in a forward pass of training.
    """

    history: int = 100
    deviations: float = 7.0
    margin: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need_at_least(MIN_HISTORY, "history")
        for option in ("deviations", "margin"):
            if getattr(self, option) < 0:
                raise OptionError(option, f"must be 0 or above, got {getattr(self, option):g}")

    def metric_names(self, experiment: Experiment) -> tuple[str, ...]:
        train = experiment.train
        recorded = 1 + train.steps // train.log_every + (train.steps % train.log_every > 0)
        names = [f"{curve}_spikes" for curve in CURVES] if recorded > MIN_HISTORY else []
        names += ["largest_activation_rms"]
        if getattr(experiment.optimizer, "lr", None) is not None:
            names.append("stable_lr")
        attentions = [layer.attention for layer in experiment.model.layers if layer.attention is not None]
        names += ["largest_attention_logit"] if attentions else []
        names += ["largest_capped_logit"] if any(attention.cap is not None for attention in attentions) else []
        return tuple(names)

    def evaluate(self, subject: Subject, session: Session) -> EvaluationOutput:
        from lab.evaluation.measure.magnitudes import batch_magnitudes, combine_batches

        loaded, batches = subject.loaded, self.batches(subject)

        def measure(number: int) -> dict[str, Any]:
            from lab.training.data.documents import document_ids

            tokens = batches[number][0].to(loaded.device)
            documents = None if subject.separator is None else document_ids(tokens, subject.separator)
            return batch_magnitudes(loaded.model, tokens, documents)

        parts = []
        for number in range(len(batches)):
            parts.append(session.compute_part(str(number), functools.partial(measure, number)))
            session.progress(number + 1, len(batches))
        metrics, curves = combine_batches(loaded.model.architecture, parts)
        training = self._training(loaded)
        return EvaluationOutput(
            {**training.metrics, **metrics}, {**training.curves, **curves}, details=training.details
        )

    def _training(self, loaded: LoadedRun) -> EvaluationOutput:
        """Metrics and curves from the run's training curves."""
        points = [point for point in loaded.run.metrics() if "train/loss" in point and point["step"] <= loaded.step]
        metrics: dict[str, float] = {}
        curves: dict[str, EvaluationCurve] = {}
        for name in CURVES if len(points) > MIN_HISTORY else ():
            values = [point[f"train/{name}"] for point in points]
            indices = spikes(values, self.history, self.deviations)
            metrics[f"{name}_spikes"] = len(indices)
            at_spikes = tuple((points[index]["step"], values[index]) for index in indices)
            curves[f"{name}_spikes"] = EvaluationCurve("step", f"{name.replace('_', ' ')} at a spike", at_spikes)
        lr = getattr(loaded.experiment.optimizer, "lr", None)
        axes = loaded.run.record.axes
        arm = ", ".join(f"{axis.split('/')[-1]} {value}" for axis, value in axes.items() if axis != "optimizer.lr")
        losses = [point["train/loss"] for point in points]
        end = rolling_means(losses)[-1] if losses else None
        if losses and lr is not None:
            metrics["stable_lr"] = lr if ends_low(losses, self.margin, _unigram_loss(loaded)) else 0.0
        return EvaluationOutput(metrics, curves, details={"recorded": len(points), "lr": lr, "arm": arm, "end": end})

    def comparison_images(self, runs: Sequence[tuple[str, EvaluationOutput]]) -> Mapping[str, bytes]:
        from lab.evaluation.pictures import learning_rates

        return {"learning_rates": learning_rates([output for _, output in runs])}


def _unigram_loss(loaded: LoadedRun) -> float:
    """The unigram loss of the training text. During an evaluation at the end of training there is no summary yet."""
    summary = loaded.run.summary
    if summary is not None and "unigram/loss" in summary.metrics:
        return float(summary.metrics["unigram/loss"])
    return prepare(loaded.experiment.data).unigram_loss
