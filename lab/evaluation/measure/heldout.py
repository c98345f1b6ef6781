"""The loss on held-out windows, bitwise equal to validation during training, in parts that can be resumed."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.data.batches import ValidationBatches, validation_batches
from lab.evaluation.base import Evaluator, Session, Subject
from lab.records import EvaluationCurve
from lab.refusals import RequestError
from lab.training.evaluator_needs import EvaluatorNeeds

if TYPE_CHECKING:
    from components.decoder import Decoder
    from lab.training.experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class HeldOut(Evaluator):
    """Base class of evaluators that use windows of the validation text, spread evenly over it.

    Attributes:
        tokens: number of predicted tokens, rounded up to whole windows; None for the number in the run's validation.
        context: length of a window in tokens; None for the run's training context.
        batch: windows per forward pass; None for the number of sequences in a forward pass of training.
    """

    reads_text = True

    tokens: int | None = None
    context: int | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        self.need_at_least(1, "tokens", "context", "batch")

    def needs(self, experiment: Experiment) -> EvaluatorNeeds:
        context = {"context": self.context or experiment.train.context}
        return EvaluatorNeeds(positions=context, held_out=context)

    def batches(self, subject: Subject) -> ValidationBatches:
        """The windows, in batches.

        Raises:
            RequestError: the text is too short for one window.
        """
        experiment = subject.loaded.experiment
        context, tokens = self.context or experiment.train.context, self.tokens or experiment.validation.tokens
        batch = self.batch or experiment.train.sequences_per_forward
        try:
            return validation_batches(subject.text.validation, context, batch, tokens, bos=subject.text.bos)
        except ValueError as error:
            raise RequestError(str(error)) from None


@dataclass(frozen=True)
class HeldOutLosses:
    """Mean losses in nats per token.

    Attributes:
        mean: the mean over all tokens.
        by_position: the loss along the window. Each point is a range of positions; x is the mean number of tokens that
            the model has seen there.
    """

    mean: float
    by_position: EvaluationCurve


def measure(
    model: Decoder, batches: ValidationBatches, subject: Subject, session: Session, *, part: int = 0, parts: int = 1
) -> HeldOutLosses:
    """Compute the losses of every window, one batch at a time.

    The mean is bitwise equal to `lab.training.validation.validation_loss` of the same windows: it adds the same sums in
    the same order.

    Args:
        part, parts: number of this measurement, from 0, and of all measurements in the evaluation. The session uses
            them for the names of parts and for progress.
    """
    # Imported here because they load Lightning, which listing and completion don't need.
    import torch

    from lab.training.data.documents import document_ids
    from lab.training.data.validation import target_losses, target_weights

    device, context = subject.loaded.device, batches[0][0].shape[1]
    bins = half_octaves(context)

    def score(number: int) -> list[float]:
        inputs, targets = batches[number]
        tokens_BT = inputs.to(device)
        documents = () if subject.separator is None else (document_ids(tokens_BT, subject.separator),)
        with torch.no_grad():
            losses = target_losses(model, (tokens_BT, *documents), targets.to(device)).double()
        weights = target_weights(targets.to(device), batches.bos)
        summed = (losses,) if weights is None else (losses * weights, weights)
        values = [x.view(tokens_BT.shape).sum(0).tolist() for x in summed]
        return [float(summed[0].sum()), *(math.fsum(row[start:stop]) for row in values for start, stop in bins)]

    totals = [0.0] * (1 + len(bins) * (1 if batches.bos is None else 2))
    for number in range(len(batches)):
        sums = session.compute_part(f"{part}/{number}", functools.partial(score, number))
        totals = [total + value for total, value in zip(totals, sums, strict=True)]
        session.progress(part * len(batches) + number + 1, parts * len(batches))
    sums, counts = totals[1 : 1 + len(bins)], totals[1 + len(bins) :]
    if batches.bos is None:
        counts = [batches.n_tokens // context * (stop - start) for start, stop in bins]
    points = (
        ((start + 1 + stop) / 2, total / count)
        for (start, stop), total, count in zip(bins, sums, counts, strict=True)
        if count
    )
    return HeldOutLosses(
        totals[0] / batches.n_tokens,
        EvaluationCurve("tokens that the prediction is made from", "loss (nats a token)", tuple(points)),
    )


def half_octaves(context: int) -> list[tuple[int, int]]:
    """Positions 0 to context - 1 in ranges [start, stop) that grow with the position, two per doubling.

    The ranges grow because the loss changes less and less with each further token of context.
    """
    edges = [0, 1, 2]
    while edges[-1] < context:
        edges += [edges[-1] * 3 // 2, edges[-1] * 2]
    return list(itertools.pairwise(dict.fromkeys(min(edge, context) for edge in edges)))
