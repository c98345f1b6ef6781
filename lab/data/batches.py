"""Batches as a pure function of (seed, step), so that a resumed run sees the same data as an uninterrupted one.

The tokens are cut into windows of `context` inputs; the targets are the inputs shifted by one token. Every epoch visits
every window once, in a new order. The order depends on the number of windows and the seed alone, never on the model.

If the tokenizer has a begin token, the first input of every window is that token, in place of the one that the cut left
there. So the model always reads a text as it would be given to it, and every target stays the same. A window whose
second input begins a document stays as it is: no text has two begin tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lab.data.errors import DataError
from lab.data.permutation import permute

Tokens = npt.NDArray[np.integer[Any]]
Batch = tuple[Tensor, Tensor]


class Batches:
    """The training batches of a token array.

    Attributes:
        windows: number of windows in an epoch, floor((len(tokens) - 1) / context).

    Raises:
        DataError: there are too few tokens for one window.
    """

    def __init__(self, tokens: Tokens, context: int, batch_size: int, seed: int, *, bos: int | None = None) -> None:
        """
        Args:
            tokens: 1-D, of any integer type; may be memory-mapped.
            context: inputs per window.
            batch_size: windows per batch.
            seed: decides the order of the windows.
            bos: the id of the begin token; None if the tokenizer has none.
        """
        self.windows = count_windows(tokens, context, "training")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self._tokens = tokens
        self._context = context
        self._batch_size = batch_size
        self._seed = seed
        self._bos = bos

    def at(self, step: int) -> Batch:
        """The (inputs, targets) of a step, counted from 0: int64 [batch, context], targets one token later.

        The last batch of an epoch is filled up with windows of the next epoch.
        """
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        return _cut(self._tokens, self._context, self.windows_at(step), self._bos)

    def windows_at(self, step: int) -> npt.NDArray[np.int64]:
        """The indices of the windows in a step's batch: int64 [batch]."""
        first = step * self._batch_size
        epochs, positions = np.divmod(np.arange(first, first + self._batch_size, dtype=np.int64), self.windows)
        order = np.empty_like(positions)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            is_in_epoch = epochs == epoch
            order[is_in_epoch] = permute(positions[is_in_epoch], self.windows, f"{self._seed}/{epoch}")
        return order


class ValidationBatches(Sequence[Batch]):
    """A fixed set of windows in batches; the last batch is smaller if the batch size doesn't divide their number.

    Attributes:
        n_tokens: number of targets that count: all but the begin tokens, which no text continues with.
        bos: the id of the begin token; None if the tokenizer has none.
    """

    def __init__(
        self,
        tokens: Tokens,
        context: int,
        batch_size: int,
        windows: npt.NDArray[np.int64],
        bos: int | None = None,
    ) -> None:
        self._tokens = tokens
        self._context = context
        self._batches = [windows[i : i + batch_size] for i in range(0, len(windows), batch_size)]
        self.bos = bos
        self.n_tokens = len(windows) * context
        if bos is not None:
            self.n_tokens = sum(int((targets != bos).sum()) for _, targets in self)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return _cut(self._tokens, self._context, self._batches[index], self.bos)


def validation_batches(
    tokens: Tokens, context: int, batch_size: int, n_tokens: int | None, *, bos: int | None = None
) -> ValidationBatches:
    """Windows spread evenly over the tokens, the same at every call: enough for `n_tokens` targets, or all of them.

    Args:
        tokens: 1-D, of any integer type; may be memory-mapped.
        context: inputs per window.
        batch_size: windows per batch.
        n_tokens: number of targets, rounded up to whole windows; None for all. `.n_tokens` of the result is the actual
            number.
        bos: the id of the begin token; None if the tokenizer has none.

    Returns:
        A sequence of (inputs, targets), int64 [batch, context].

    Raises:
        DataError: there are too few tokens for one window.
    """
    available = count_windows(tokens, context, "validation")
    for name, value in (("batch_size", batch_size), ("n_tokens", n_tokens)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    count = available if n_tokens is None else min(available, -(-n_tokens // context))
    return ValidationBatches(tokens, context, batch_size, np.arange(count, dtype=np.int64) * available // count, bos)


def count_windows(tokens: Tokens, context: int, what: str) -> int:
    """The number of windows, floor((len(tokens) - 1) / context).

    Args:
        what: name of the tokens in the error message, such as "training".

    Raises:
        DataError: there are too few tokens for one window.
    """
    refuse_too_short(len(tokens), context, what)
    return (len(tokens) - 1) // context


def refuse_too_short(n_tokens: int, context: int, what: str) -> None:
    """Check that a text has enough tokens for one window and the token after it.

    Raises:
        DataError: there are too few.
    """
    if context < 1:
        raise ValueError(f"context must be at least 1, got {context}")
    if n_tokens < context + 1:
        raise DataError(
            f"{what} has {n_tokens:,} tokens, too few for one window of context {context:,} (needs {context + 1:,})"
        )


def _cut(tokens: Tokens, context: int, windows: npt.NDArray[np.int64], bos: int | None) -> Batch:
    positions = windows[:, None] * context + np.arange(context + 1)
    rows = tokens[positions].astype(np.int64)
    inputs, targets = begun(rows, bos)[:, :-1].copy(), rows[:, 1:].copy()
    return torch.from_numpy(inputs), torch.from_numpy(targets)


def begun(windows: npt.NDArray[np.int64], bos: int | None) -> npt.NDArray[np.int64]:
    """Windows of a token stream, each with the begin token as its first input.

    A window whose second token is a begin token keeps its first one, which ends the document before.

    Args:
        windows: [B, T + 1], the inputs and the token after them.
        bos: the id of the begin token; None if the tokenizer has none.
    Returns:
        A changed copy; the windows themselves if the tokenizer has no begin token.
    """
    if bos is None:
        return windows
    changed = windows.copy()
    changed[windows[:, 1] != bos, 0] = bos
    return changed
