"""What context is worth: the same target tokens predicted from more and more of the text before them."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.registry import OptionError, register
from lab.accounting.reach import reach
from lab.evaluation.base import Evaluator, Findings, Session, Subject, refuse_beyond_positions
from lab.evaluation.measure.windows import local_windows
from lab.records import EvaluationCurve
from lab.refusals import RequestError

if TYPE_CHECKING:
    from components.architecture import Architecture
    from lab.training.experiment import Experiment

SHORTEST = 8
"""Least context that is tried by default, in tokens."""


@dataclass(frozen=True)
class Borders:
    """Where an architecture's view of the text changes, as distances in tokens from the last one that it reads.

    Attributes:
        window: the nearest that some layer no longer looks at; None where every layer sees all.
        reach: the nearest that no chain of layers brings anything from; None where there is none.
        context: the training context.
    """

    window: int | None
    reach: int | None
    context: int

    def buckets(self, lengths: Sequence[int]) -> dict[str, list[int]]:
        """Which contexts' farthest token lies in [0, W), [W, reach), [reach, T), and beyond; only those that have any.

        The farthest token of a context of c stands c - 1 before the last. Nothing lies beyond a reach of T or more.
        """
        found: dict[str, list[int]] = {}
        for length in sorted(lengths):
            if length > self.context:
                name = "beyond_training"
            elif self.reach is not None and length > self.reach:
                name = "beyond_reach"
            elif self.window is not None and length <= self.window:
                name = "within_window"
            else:
                name = "within_reach"
            found.setdefault(name, []).append(length)
        return found


@register("context")
class Context(Evaluator):
    """Loss of the same tokens with their context cut to c, for c from short to beyond the training context T.

    Every c has the same targets, so that short and long documents don't confound it. Metrics are the mean over the
    lengths whose farthest token lies in [0, W) (`within_window_loss`), [W, reach) (`within_reach_loss`), [reach, T)
    (`beyond_reach_loss`) and beyond T (`beyond_training_loss`): W is the window of local layers, reach what all layers
    together can see. A bucket without lengths has no metric. `full_loss` is at the longest c up to T. To compare
    architectures, give all the same `window`, `reach` and `contexts`.

    A cut text begins at position 0, as a window of training does.

    Attributes:
        contexts: lengths in tokens; None for powers of two from 8, W, reach, T, and 2 T where the model has positions.
        targets: how many tokens are predicted, spread evenly over the held-out text.
        context: T; None for the context of the run's training.
        window: W; None for the smallest of the model's windows.
        reach: None for the model's own.
        batch: texts at once; None for as many as have the tokens of a forward pass of training.
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
        borders = self._borders(experiment)
        if borders.window is not None and borders.reach is not None and borders.reach < borders.window:
            option = "window" if self.reach is None else "reach"
            raise OptionError(option, f"a reach of {borders.reach:,} is less than the window of {borders.window:,}")
        for option, length in (("context", self.context), *(("contexts", each) for each in self.contexts or ())):
            if length is not None:
                refuse_beyond_positions(experiment, option, length)

    def evaluate(self, subject: Subject, session: Session) -> Findings:
        experiment, text = subject.loaded.experiment, subject.text.validation
        borders = self._borders(experiment)
        lengths = self.contexts or _lengths(borders, experiment.model.max_context)
        available = len(text) - max(lengths)
        if available < 1:
            raise RequestError(
                f"validation has {len(text):,} tokens, too few for a context of {max(lengths):,} and the token after it"
            )
        count = min(self.targets, available)
        places = [max(lengths) + number * available // count for number in range(count)]

        found: dict[int, list[float]] = {}
        total = count * sum(lengths)
        for length in sorted(lengths):
            train = experiment.train
            batch = self.batch or max(1, train.sequences_per_forward * train.context // length)
            found[length] = []
            for start in range(0, count, batch):
                score = functools.partial(_score, subject, places[start : start + batch], length)
                found[length] += session.cell(f"{length}/{start}", score)
                done = count * sum(each for each in found if each < length) + len(found[length]) * length
                session.progress(done, total, f"context {length:,}")
        return _findings(found, borders)

    def _borders(self, experiment: Experiment) -> Borders:
        architecture = experiment.model
        return Borders(
            self.window or _smallest_window(architecture),
            self.reach or reach(architecture),
            self.context or experiment.train.context,
        )


def _smallest_window(architecture: Architecture) -> int | None:
    return next(iter(local_windows(architecture)), None)


def _lengths(borders: Borders, limit: int | None) -> tuple[int, ...]:
    """The lengths that are tried by default."""
    context = borders.context
    powers = (2**power for power in range(SHORTEST.bit_length() - 1, context.bit_length()))
    inner = [length for length in (*powers, borders.window, borders.reach) if length is not None and length < context]
    beyond = [] if limit is not None and limit < 2 * context else [2 * context]
    return tuple(sorted({*inner, context, *beyond}))


def _score(subject: Subject, places: Sequence[int], length: int) -> list[float]:
    """The loss of the tokens at `places` of the validation text, in nats, from the `length` tokens before each."""
    import numpy as np
    import torch

    from components.loss import token_losses
    from lab.training.data.documents import document_ids

    text, model, device = subject.text.validation, subject.loaded.model, subject.loaded.device
    rows = np.asarray(places)[:, None] + np.arange(-length, 1)
    cut = torch.from_numpy(text[rows].astype(np.int64)).to(device)
    tokens, targets = cut[:, :-1], cut[:, -1:]
    documents = None if subject.separator is None else document_ids(tokens, subject.separator)
    with torch.no_grad():
        last = model.hidden(tokens, documents)[:, -1:]
        found: list[float] = token_losses(model.logits(last), targets).tolist()
    return found


def _findings(found: dict[int, list[float]], borders: Borders) -> Findings:
    means = {length: statistics.fmean(losses) for length, losses in found.items()}
    buckets = borders.buckets(list(means))
    metrics = {f"{name}_loss": statistics.fmean(means[each] for each in inside) for name, inside in buckets.items()}
    trained = [length for length in means if length <= borders.context]
    if trained:
        metrics["full_loss"] = means[max(trained)]
    count = len(next(iter(found.values())))
    return Findings(
        metrics | {"targets": count},
        curves={"loss_by_context": EvaluationCurve("context (tokens)", "loss (nats a token)", tuple(means.items()))},
        details={
            "window": borders.window,
            "reach": borders.reach,
            "context": borders.context,
            "buckets": buckets,
            "standard_errors": {
                str(length): statistics.stdev(losses) / math.sqrt(count) if count > 1 else None
                for length, losses in found.items()
            },
        },
    )
