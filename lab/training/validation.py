"""The loss on held-out text: the same windows at every step of every run, so that it moves only when the model does."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from components.loss import token_losses
from lab.training.documents import document_ids
from lab.training.group import ALONE, Group
from lab.training.parallel import reshard


@torch.no_grad()
def validation_loss(
    model: nn.Module,
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
    was_training = model.training
    model.eval()
    total, tokens = torch.zeros((), dtype=torch.float64, device=device), 0
    for (inputs, targets), counts in _dealt(batches, group):
        tokens_BT = inputs.to(device)
        documents = () if separator is None else (document_ids(tokens_BT, separator),)
        losses = target_losses(model, (tokens_BT, *documents), targets.to(device))
        if counts:
            total += losses.double().sum()
            tokens += targets.numel()
    model.train(was_training)
    reshard(model)
    total, everybodys = group.sum(torch.stack([total, total.new_tensor(tokens)]))
    if not everybodys:
        raise ValueError("there is no validation batch to measure on")
    return float(total) / int(everybodys)


def target_losses(model: nn.Module, inputs: tuple[Tensor, ...], targets: Tensor) -> Tensor:
    """Cross-entropy [B·T] of targets [B, T], without all logits at once if the model can do without."""
    measure: Any = getattr(model, "losses", None)
    if measure is None:
        return token_losses(model(*inputs), targets)
    found: Tensor = measure(*inputs, targets=targets).next_token
    return found


def _dealt(batches: Iterable[tuple[Tensor, Tensor]], group: Group) -> Iterator[tuple[tuple[Tensor, Tensor], bool]]:
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
