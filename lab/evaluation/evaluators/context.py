"""Loss by context length: the same target tokens, predicted from more and more of the preceding text."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.registry import OptionError, register
from lab.accounting.reach import reach
from lab.evaluation.base import EvaluationOutput, Evaluator, Session, Subject
from lab.evaluation.measure.windows import local_windows
from lab.records import EvaluationCurve
from lab.refusals import RequestError
from lab.training.evaluator_needs import EvaluatorNeeds

if TYPE_CHECKING:
    from components.architecture import Architecture
    from lab.training.experiment import Experiment

MIN_CONTEXT = 8
"""Shortest default context in tokens."""


@dataclass(frozen=True)
class Ranges:
    """The distances at which an architecture's view of the text changes, in tokens back from the last input.

    Attributes:
        window: smallest distance that some layer doesn't see; None if every layer sees everything.
        reach: smallest distance that can't influence the output through all layers together; None if unlimited.
        context: the training context.
    """

    window: int | None
    reach: int | None
    context: int

    def buckets(self, lengths: Sequence[int]) -> dict[str, list[int]]:
        """Group context lengths by the range of their farthest token: [0, W), [W, reach), [reach, T), and beyond T.

        The farthest token of a context of c tokens is c - 1 before the last. Empty groups are left out.
        """
        groups: dict[str, list[int]] = {}
        for length in sorted(lengths):
            if length > self.context:
                name = "beyond_training"
            elif self.reach is not None and length > self.reach:
                name = "beyond_reach"
            elif self.window is not None and length <= self.window:
                name = "within_window"
            else:
                name = "within_reach"
            groups.setdefault(name, []).append(length)
        return groups


@register("context")
class Context(Evaluator):
    """Loss of the same tokens with their context cut to c tokens, for c from short to beyond the training context T.

    All c have the same targets, so that differences between short and long documents don't bias the result. Metrics are
    means over the lengths whose farthest token lies in [0, W) (`within_window_loss`), [W, reach) (`within_reach_loss`),
    [reach, T) (`beyond_reach_loss`) and beyond T (`beyond_training_loss`). W is the window of local layers, and reach
    the number of tokens that all layers together can see. A range without lengths has no metric. `full_loss` is the
    loss at the longest c up to T. To compare architectures, give all the same `window`, `reach` and `contexts`.

    A cut text begins at position 0, like a window in training, and with the begin token, if the tokenizer has one.

    Attributes:
        contexts: lengths in tokens; None for powers of two from 8, W, reach, T, and 2 T if the model has positions.
        targets: number of predicted tokens, spread evenly over the held-out text.
        context: T; None for the run's training context.
        window: W; None for the model's smallest window.
        reach: None for the model's own.
        batch: texts per forward pass; None for as many as fill a forward pass of training with tokens.
    """

    reads_text = True

    contexts: tuple[int, ...] | None = None
    targets: int = 512
    context: int | None = None
    window: int | None = None
    reach: int | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        self.need_at_least(1, "targets", "context", "window", "reach", "batch")
        if self.contexts is not None and (
            min(self.contexts, default=0) < 1 or len(set(self.contexts)) < len(self.contexts)
        ):
            raise OptionError("contexts", f"must be lengths of at least 1, each once, got {list(self.contexts)}")

    def check(self, experiment: Experiment) -> None:
        ranges = self._ranges(experiment)
        if ranges.window is not None and ranges.reach is not None and ranges.reach < ranges.window:
            option = "window" if self.reach is None else "reach"
            raise OptionError(option, f"a reach of {ranges.reach:,} is less than the window of {ranges.window:,}")

    def needs(self, experiment: Experiment) -> EvaluatorNeeds:
        lengths = {} if self.context is None else {"context": self.context}
        if self.contexts is not None:
            lengths["contexts"] = max(self.contexts)
        return EvaluatorNeeds(positions=lengths, held_out={"contexts": max(self._lengths(experiment))})

    def metric_names(self, experiment: Experiment) -> tuple[str, ...]:
        ranges, lengths = self._ranges(experiment), self._lengths(experiment)
        full = ["full_loss"] if min(lengths) <= ranges.context else []
        return (*(f"{name}_loss" for name in ranges.buckets(lengths)), *full, "targets")

    def evaluate(self, subject: Subject, session: Session) -> EvaluationOutput:
        experiment, text = subject.loaded.experiment, subject.text.validation
        ranges = self._ranges(experiment)
        lengths = self._lengths(experiment)
        available = len(text) - max(lengths)
        if available < 1:
            raise RequestError(
                f"validation has {len(text):,} tokens, too few for a context of {max(lengths):,} and the token after it"
            )
        count = min(self.targets, available)
        places = [max(lengths) + number * available // count for number in range(count)]
        if subject.text.bos is not None:  # which no text continues with: take the token after it
            places = [place + int(text[place] == subject.text.bos) for place in places]

        losses: dict[int, list[float]] = {}
        total = count * sum(lengths)
        for length in sorted(lengths):
            train = experiment.train
            batch = self.batch or max(1, train.sequences_per_forward * train.context // length)
            losses[length] = []
            for start in range(0, count, batch):
                score = functools.partial(_score, subject, places[start : start + batch], length)
                losses[length] += session.compute_part(f"{length}/{start}", score)
                done = count * sum(shorter for shorter in losses if shorter < length) + len(losses[length]) * length
                session.progress(done, total, f"context {length:,}")
        return _output(losses, ranges)

    def _lengths(self, experiment: Experiment) -> tuple[int, ...]:
        return self.contexts or _lengths(self._ranges(experiment), experiment.model.max_context)

    def _ranges(self, experiment: Experiment) -> Ranges:
        architecture = experiment.model
        return Ranges(
            self.window or _smallest_window(architecture),
            self.reach or reach(architecture),
            self.context or experiment.train.context,
        )


def _smallest_window(architecture: Architecture) -> int | None:
    return next(iter(local_windows(architecture)), None)


def _lengths(ranges: Ranges, limit: int | None) -> tuple[int, ...]:
    """The default lengths."""
    context = ranges.context
    powers = (2**power for power in range(MIN_CONTEXT.bit_length() - 1, context.bit_length()))
    inner = [length for length in (*powers, ranges.window, ranges.reach) if length is not None and length < context]
    beyond = [] if limit is not None and limit < 2 * context else [2 * context]
    return tuple(sorted({*inner, context, *beyond}))


def _score(subject: Subject, places: Sequence[int], length: int) -> list[float]:
    """The losses in nats of the tokens at `places` of the validation text, given the `length` tokens before each."""
    import numpy as np
    import torch

    from components.loss import token_losses
    from lab.data.batches import begun
    from lab.training.data.documents import document_ids

    text, model, device = subject.text.validation, subject.loaded.model, subject.loaded.device
    rows = np.asarray(places)[:, None] + np.arange(-length, 1)
    windows = torch.from_numpy(begun(text[rows].astype(np.int64), subject.text.bos)).to(device)
    tokens, targets = windows[:, :-1], windows[:, -1:]
    documents = None if subject.separator is None else document_ids(tokens, subject.separator)
    with torch.no_grad():
        last = model.hidden(tokens, documents)[:, -1:]
        losses: list[float] = token_losses(model.logits(last), targets).tolist()
    return losses


def _output(losses: dict[int, list[float]], ranges: Ranges) -> EvaluationOutput:
    means = {length: statistics.fmean(values) for length, values in losses.items()}
    buckets = ranges.buckets(list(means))
    metrics = {
        f"{name}_loss": statistics.fmean(means[length] for length in lengths) for name, lengths in buckets.items()
    }
    trained_lengths = [length for length in means if length <= ranges.context]
    if trained_lengths:
        metrics["full_loss"] = means[max(trained_lengths)]
    count = len(next(iter(losses.values())))
    return EvaluationOutput(
        metrics | {"targets": count},
        curves={"loss_by_context": EvaluationCurve("context (tokens)", "loss (nats a token)", tuple(means.items()))},
        details={
            "window": ranges.window,
            "reach": ranges.reach,
            "context": ranges.context,
            "buckets": buckets,
            "standard_errors": {
                str(length): statistics.stdev(values) / math.sqrt(count) if count > 1 else None
                for length, values in losses.items()
            },
        },
    )
