"""The batches of training and validation, from text or a synthetic task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

from components.language_model import LanguageModel
from lab.data.batches import Batches, Tokens, validation_batches
from lab.data.synthetic.synthetic_data import SyntheticBatches, SyntheticData
from lab.training.data.validation import task_metrics, validation_loss
from lab.training.options import Train
from lab.training.parallel.group import Group


class Text(Protocol):
    """Tokenized text for training; `lab.data.shards.TokenShards` is one."""

    @property
    def train(self) -> Tokens: ...
    @property
    def validation(self) -> Tokens: ...
    @property
    def digest(self) -> str: ...
    @property
    def part_digests(self) -> Mapping[str, str]: ...
    @property
    def validation_bytes(self) -> int: ...
    @property
    def unigram_loss(self) -> float: ...
    @property
    def validation_targets(self) -> int: ...
    @property
    def separator(self) -> int: ...
    @property
    def left_out(self) -> Mapping[str, int]: ...
    @property
    def bos(self) -> int | None: ...


def training_batches(data: Text | SyntheticData, train: Train, seed: int) -> Batches | SyntheticBatches:
    """The global batches by step. The seed decides the order of text, or the items of a task."""
    if isinstance(data, SyntheticData):
        return data.batches(train.context, train.global_batch, seed)
    return Batches(data.train, train.context, train.global_batch, seed, bos=data.bos)


def validator(
    data: Text | SyntheticData,
    model: LanguageModel,
    train: Train,
    tokens: int | None,
    separator: int | None,
    group: Group,
    device: torch.device,
) -> Callable[[], dict[str, float]]:
    """A function that measures the model: `val/loss`, and for a task `val/accuracy`.

    Args:
        tokens: number of validation tokens; None for all of a text.
        separator: the id that ends a document, to mask documents; None not to.
    """
    micro_batch = group.world.sequences_per_forward(train)
    if isinstance(data, SyntheticData):
        if tokens is None:
            raise ValueError("validation.tokens: a task generates its items, so that it has no whole to score")
        items = data.validation_batches(train.context, micro_batch, tokens)
        return lambda: dict(zip(("val/loss", "val/accuracy"), task_metrics(model, items, device, group), strict=True))
    windows = validation_batches(data.validation, train.context, micro_batch, tokens, bos=data.bos)
    return lambda: {"val/loss": validation_loss(model, windows, device, separator, group, data.bos)}


class StepBatches:
    """The part of this process in the batches from step `start` on.

    Has no length and no state, so that Lightning doesn't count or skip batches: the first batch of a resumed run is
    that of its first step.
    """

    def __init__(self, batches: Batches | SyntheticBatches, start: int, steps: int, part: range) -> None:
        self._batches, self._start, self._steps, self._part = batches, start, steps, slice(part.start, part.stop)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for step in range(self._start, self._steps):
            yield tuple(tensor[self._part] for tensor in self._batches.at(step))
