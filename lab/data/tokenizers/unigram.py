"""The loss of knowing only how frequent each token is: the floor that a model of any use must get below."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


def unigram_loss(train_counts: Counts, validation_counts: Counts) -> float:
    """Nats a validation token under a unigram model counted on the training tokens, add-one smoothed.

    Args:
        train_counts: how often each id stands in the training tokens: [vocab_size].
        validation_counts: the same of the validation tokens, of which there is at least one.
    """
    log_probability = np.log(train_counts + 1.0) - np.log(train_counts.sum() + len(train_counts))
    return float(-(validation_counts * log_probability).sum() / validation_counts.sum())
