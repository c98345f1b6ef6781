"""A synthetic task as a run's data: batches are a pure function of (seed, step), and nothing is stored.

Unlike text, only a few places have targets: a batch is (inputs [B, T], targets [B, n], places [B, n]). The model
predicts each target from the inputs up to and including its place.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lab.data.content import digest_of
from lab.data.options import Data
from lab.data.shards import TokenShards, prepare
from lab.data.synthetic.draws import Draws
from lab.data.synthetic.tasks import Task
from lab.data.tokenizers.encoder import Encoder

Batch = tuple[Tensor, Tensor, Tensor]

_VERSION = 1


def load(data: Data) -> TokenShards | SyntheticData:
    """Load a run's data: token shards of text, or a synthetic task.

    Raises:
        DataError: the corpus, the tokenizer or the cache can't be used.
    """
    return SyntheticData(data.corpus, data) if isinstance(data.corpus, Task) else prepare(data)


class SyntheticData:
    """A task over a vocabulary.

    Attributes:
        digest: hex; equal if and only if the task, its options and the vocabulary are.
        vocab_size: every id is below it.
        n_targets: number of targets in a sequence.
        unigram_loss: nats per target of guessing uniformly among the ids that can be an answer.
    """

    def __init__(self, task: Task, data: Data) -> None:
        self.vocab_size = data.tokenizer.vocab_size()
        self.n_targets = task.n_targets
        self.unigram_loss = math.log(task.n_answers(self.vocab_size))
        options = dataclasses.asdict(task)  # type: ignore[call-overload]
        self.digest = digest_of(["drawn", _VERSION, task.name, task.version, options, self.vocab_size])
        self.encoder: Encoder = data.tokenizer.fit(tuple)
        self._task = task

    def keep_tokenizer(self, folder: Path) -> None:
        """Write nothing: ids need no files."""

    def batches(self, context: int, batch_size: int, seed: int) -> SyntheticBatches:
        """Training batches of sequences of `context` tokens.

        Raises:
            OptionError: the task can't fill sequences of that length, or needs more ids.
        """
        self._task.check(context, self.vocab_size)
        return SyntheticBatches(self._task, self.vocab_size, context, batch_size, f"train/{seed}")

    def validation_batches(self, context: int, batch_size: int, n_tokens: int) -> HeldOutBatches:
        """Items that are never trained on, the same for every run: enough for `n_tokens`, rounded up to whole items.

        Raises:
            OptionError: the task can't fill sequences of that length, or needs more ids.
        """
        self._task.check(context, self.vocab_size)
        batches = SyntheticBatches(self._task, self.vocab_size, context, batch_size, "validation")
        return HeldOutBatches(batches, -(-n_tokens // context))


class SyntheticBatches:
    """Batches of consecutive items of a task."""

    def __init__(self, task: Task, vocabulary: int, context: int, batch_size: int, seed: str) -> None:
        self._task, self._vocabulary, self._context = task, vocabulary, context
        self.batch_size, self._seed = batch_size, seed

    def at(self, step: int, at_most: int | None = None) -> Batch:
        """The (inputs, targets, places) of a step, counted from 0, all int64; at most its first `at_most` items."""
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        first = step * self.batch_size
        numbers = np.arange(first, first + min(self.batch_size, at_most or self.batch_size), dtype=np.int64)
        items = self._task.items(Draws(self._seed, numbers), self._context, self._vocabulary)
        inputs, targets, places = map(torch.from_numpy, (items.tokens, items.targets, items.places))
        return inputs, targets, places


class HeldOutBatches(Sequence[Batch]):
    """A fixed set of items in batches; the last batch is smaller if the batch size doesn't divide their number."""

    def __init__(self, batches: SyntheticBatches, n_items: int) -> None:
        self._batches, self.n_items = batches, n_items

    def __len__(self) -> int:
        return -(-self.n_items // self._batches.batch_size)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self._batches.at(index, self.n_items - index * self._batches.batch_size)
