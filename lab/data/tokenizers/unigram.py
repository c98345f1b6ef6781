"""The loss of a unigram model, which knows only token frequencies. A useful model must have a lower loss."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


def unigram_loss(train_counts: Counts, validation_counts: Counts) -> float:
    """Nats per validation token under a unigram model of the training tokens, with add-one smoothing.

    Args:
        train_counts: occurrences of each id in the training tokens: int64 [vocab_size].
        validation_counts: the same for the validation tokens, of which there is at least one.
    """
    log_probability = np.log(train_counts + 1.0) - np.log(train_counts.sum() + len(train_counts))
    return float(-(validation_counts * log_probability).sum() / validation_counts.sum())
