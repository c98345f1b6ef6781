"""The loss on held-out data: the same batches at every step of every run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from components.language_model import LanguageModel
from components.loss import token_losses
from lab.training.data.documents import document_ids
from lab.training.parallel.group import SINGLE_PROCESS, Group
from lab.training.parallel.strategies import reshard


@torch.no_grad()
def validation_loss(
    model: LanguageModel,
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device,
    separator: int | None = None,
    group: Group = SINGLE_PROCESS,
    bos: int | None = None,
) -> float:
    """Mean loss over all targets of the batches but begin tokens, in nats per token.

    The model is measured in evaluation mode; its mode is restored afterwards. With a `separator`, the id that ends a
    document, it also gets the document ids.

    Several processes divide the batches, which must then be a sequence. All get the same loss, that of a single process
    except for the order of sums (in fp64).

    Args:
        batches: (inputs, targets), each [B, T].
        bos: the id of the begin token, which isn't predicted; None if there is none.

    Raises:
        ValueError: there are no batches.
    """

    def losses(tokens_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor]:
        documents = () if separator is None else (document_ids(tokens_BT, separator),)
        return (target_losses(model, (tokens_BT, *documents), targets_BT),)

    (loss,) = _means(losses, 1, model, batches, device, group, bos)
    return loss


@torch.no_grad()
def task_metrics(
    model: LanguageModel,
    batches: Iterable[tuple[Tensor, Tensor, Tensor]],
    device: torch.device,
    group: Group = SINGLE_PROCESS,
) -> tuple[float, float]:
    """Mean loss in nats per target, and the share of right answers, on a synthetic task.

    Works like `validation_loss`. An answer is right if it is the most likely token.

    Args:
        batches: (inputs [B, T], targets [B, n], places [B, n]).
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
    bos: int | None = None,
) -> list[float]:
    """Means over all targets but `bos` of the n values that `measure` computes for each."""
    was_training = model.training
    model.eval()
    totals, targets = [torch.zeros((), dtype=torch.float64, device=device) for _ in range(n)], 0
    for batch, is_counted in _own_batches(batches, group):
        results = measure(*(tensor.to(device) for tensor in batch))
        if is_counted:
            weights = target_weights(batch[1].to(device), bos)
            for total, values in zip(totals, results, strict=True):
                total += (values.double() if weights is None else values.double() * weights).sum()
            targets += batch[1].numel() if weights is None else int(weights.sum())
    model.train(was_training)
    reshard(model)
    *sums, n_targets = group.sum(torch.stack([*totals, totals[0].new_tensor(targets)]))
    if not n_targets:
        raise ValueError("there is no validation batch to measure on")
    return [float(total) / int(n_targets) for total in sums]


def target_weights(targets: Tensor, bos: int | None) -> Tensor | None:
    """0 for targets [B, T] that are the begin token and 1 for others: fp64 [B·T]; None if all count."""
    return None if bos is None else (targets != bos).flatten().double()


def target_losses(model: LanguageModel, inputs: tuple[Tensor, ...], targets: Tensor) -> Tensor:
    """Cross-entropy [B·T] of targets [B, T], in chunks of logits if the model supports it."""
    return model.losses(*inputs, targets=targets).next_token


def _own_batches(batches: Iterable[tuple[Tensor, ...]], group: Group) -> Iterator[tuple[tuple[Tensor, ...], bool]]:
    if not group.world.several:
        return ((batch, True) for batch in batches)
    assert isinstance(batches, Sequence)
    return group.world.distribute(batches)


def bits_per_byte(loss: float, tokens: int, text_bytes: int) -> float:
    """Convert a loss in nats per token to bits per byte of text, which is comparable across tokenizers.

    Args:
        tokens, text_bytes: size of the whole validation text, without begin tokens. Its ratio is used for the measured
            windows too.
    """
    return loss / math.log(2) * tokens / text_bytes
