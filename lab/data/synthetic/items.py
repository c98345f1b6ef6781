"""What every task gives: sequences of ids, and what is asked of a model at a few places in each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lab.data.synthetic.draws import Ints


@dataclass(frozen=True)
class Items:
    """B items of a task.

    Attributes:
        tokens: [B, T] int64.
        places: [B, n] int64, ascending: where the model is asked, having read the token there and those before it.
        targets: [B, n] int64: the right answers. They need not stand in `tokens` after their place.
        distances: [B, n] int64: tokens from the place back to the key that decides the answer, so that the answer needs
            a reach of one more.
    """

    tokens: Ints
    places: Ints
    targets: Ints
    distances: Ints


def in_order(tokens: Ints, places: Ints, targets: Ints, distances: Ints) -> Items:
    """Items whose places come in any order."""
    order = np.argsort(places, axis=1)
    places, targets, distances = (np.take_along_axis(each, order, axis=1) for each in (places, targets, distances))
    return Items(tokens, places, targets, distances)
