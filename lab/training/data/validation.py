"""The loss on held-out text: the same windows at every step of every run, so that it moves only when the model does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from components.language_model import LanguageModel
from components.loss import token_losses
from lab.training.data.documents import document_ids
from lab.training.parallel.group import ALONE, Group
from lab.training.parallel.strategies import reshard


@torch.no_grad()
def validation_loss(
    model: LanguageModel,
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device,
    separator: int | None = None,
    group: Group = ALONE,
) -> float:
    """Mean loss over every token of the batches, nats per token; each token counts once, whatever its batch's size.

    The model is measured in evaluation mode and left in the mode that it was in. With a `separator`, the id that ends
    a document, it is also given the document ids.

    The processes of a group deal the batches out among themselves, which have to be a sequence then, and all get the
    same loss: one process's, but for the order in which sums are taken (in fp64).
    """

    def losses(tokens_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor]:
        documents = () if separator is None else (document_ids(tokens_BT, separator),)
        return (target_losses(model, (tokens_BT, *documents), targets_BT),)

    (loss,) = _means(losses, 1, model, batches, device, group)
    return loss


@torch.no_grad()
def asked(
    model: LanguageModel,
    batches: Iterable[tuple[Tensor, Tensor, Tensor]],
    device: torch.device,
    group: Group = ALONE,
) -> tuple[float, float]:
    """Mean loss in nats, and the share of right answers, where items ask for something.

    As `validation_loss`, of batches (inputs [B, T], targets [B, n], places [B, n]). An answer is right if no other
    token is likelier.
    """

    def answers(tokens_BT: Tensor, targets_Bn: Tensor, places_Bn: Tensor) -> tuple[Tensor, Tensor]:
        logits_BnV = model.logits_at(tokens_BT, places_Bn)
        return token_losses(logits_BnV, targets_Bn), (logits_BnV.argmax(-1) == targets_Bn).flatten()

    loss, accuracy = _means(answers, 2, model, batches, device, group)
    return loss, accuracy


def _means(
    measure: Callable[..., tuple[Tensor, ...]],
    n: int,
    model: LanguageModel,
    batches: Iterable[tuple[Tensor, ...]],
    device: torch.device,
    group: Group,
) -> list[float]:
    """Means of the n things that `measure` says of each target of a batch."""
    was_training = model.training
    model.eval()
    totals, targets = [torch.zeros((), dtype=torch.float64, device=device) for _ in range(n)], 0
    for batch, counts in _dealt(batches, group):
        measured = measure(*(each.to(device) for each in batch))
        if counts:
            for total, values in zip(totals, measured, strict=True):
                total += values.double().sum()
            targets += batch[1].numel()
    model.train(was_training)
    reshard(model)
    *sums, everybodys = group.sum(torch.stack([*totals, totals[0].new_tensor(targets)]))
    if not everybodys:
        raise ValueError("there is no validation batch to measure on")
    return [float(total) / int(everybodys) for total in sums]


def target_losses(model: LanguageModel, inputs: tuple[Tensor, ...], targets: Tensor) -> Tensor:
    """Cross-entropy [B·T] of targets [B, T], without all logits at once if the model can do without."""
    return model.losses(*inputs, targets=targets).next_token


def _dealt(batches: Iterable[tuple[Tensor, ...]], group: Group) -> Iterator[tuple[tuple[Tensor, ...], bool]]:
    if not group.world.several:
        return ((batch, True) for batch in batches)
    assert isinstance(batches, Sequence)
    return group.world.dealt(batches)


def bits_per_byte(loss: float, tokens: int, text_bytes: int) -> float:
    """A loss in nats per token as bits per byte of the text that those tokens spell.

    Comparable across tokenizers. `tokens` and `text_bytes` are those of the whole validation text, whose ratio stands
    for that of the windows measured on.
    """
    return loss / math.log(2) * tokens / text_bytes
