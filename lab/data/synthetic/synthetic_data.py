"""A synthetic task as a run's data: batches drawn as a pure function of (seed, step), and nothing on disk.

Unlike text it is predicted at a few places only: a batch is (inputs [B, T], targets [B, n], places [B, n]), where the
model, having read `inputs` up to a place, is to predict the target.
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
    """A run's data, ready to be trained on: tokenized text, or a task.

    Raises:
        DataError: the corpus, the tokenizer or the cache can't be used.
    """
    return SyntheticData(data.corpus, data) if isinstance(data.corpus, Task) else prepare(data)


class SyntheticData:
    """A task over a vocabulary.

    Attributes:
        digest: hex; the same exactly when the task, its options and the vocabulary are the same.
        vocab_size: every id is below it.
        scored: places of a sequence where there is something to predict.
        unigram_loss: nats an answer of knowing only which ids can be one.
    """

    def __init__(self, task: Task, data: Data) -> None:
        self.vocab_size = data.tokenizer.vocab_size()
        self.scored = task.scored
        self.unigram_loss = math.log(task.answers(self.vocab_size))
        options = dataclasses.asdict(task)  # type: ignore[call-overload]
        self.digest = digest_of(["drawn", _VERSION, task.name, task.version, options, self.vocab_size])
        self.encoder: Encoder = data.tokenizer.fit(tuple)
        self._task = task

    def keep_tokenizer(self, folder: Path) -> None:
        """Ids need nothing."""

    def batches(self, context: int, batch_size: int, seed: int) -> SyntheticBatches:
        """Training batches of sequences of `context` tokens."""
        self._task.check(context, self.vocab_size)
        return SyntheticBatches(self._task, self.vocab_size, context, batch_size, f"train/{seed}")

    def validation_batches(self, context: int, batch_size: int, n_tokens: int) -> HeldOutBatches:
        """Items that no training draws, the same for every run: enough for n_tokens, rounded up to whole ones."""
        self._task.check(context, self.vocab_size)
        drawn = SyntheticBatches(self._task, self.vocab_size, context, batch_size, "validation")
        return HeldOutBatches(drawn, -(-n_tokens // context))


class SyntheticBatches:
    """Batches of a task's items; batch after batch takes the next ones."""

    def __init__(self, task: Task, vocabulary: int, context: int, batch_size: int, seed: str) -> None:
        self._task, self._vocabulary, self._context = task, vocabulary, context
        self.batch_size, self._seed = batch_size, seed

    def at(self, step: int, at_most: int | None = None) -> Batch:
        """(inputs, targets, places) of a step counted from 0, int64; at most its first `at_most` items."""
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        first = step * self.batch_size
        numbers = np.arange(first, first + min(self.batch_size, at_most or self.batch_size), dtype=np.int64)
        items = self._task.items(Draws(self._seed, numbers), self._context, self._vocabulary)
        inputs, targets, places = map(torch.from_numpy, (items.tokens, items.targets, items.places))
        return inputs, targets, places


class HeldOutBatches(Sequence[Batch]):
    """A fixed set of items in batches; the last batch is smaller where the batch size doesn't divide the set."""

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
