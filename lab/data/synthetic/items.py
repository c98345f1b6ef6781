"""The items of a task: sequences of ids, and the targets to predict at a few places in each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lab.data.synthetic.draws import Ints


@dataclass(frozen=True)
class Items:
    """B items of a task.

    Attributes:
        tokens: [B, T] int64.
        places: [B, n] int64, ascending: the positions of the queries. The model predicts the target from the tokens up
            to and including this one.
        targets: [B, n] int64: the right answers. They need not follow in `tokens`.
        distances: [B, n] int64: tokens from the query back to the key that decides the answer. A model needs a reach of
            distance + 1 to see the key.
    """

    tokens: Ints
    places: Ints
    targets: Ints
    distances: Ints


def sorted_items(tokens: Ints, places: Ints, targets: Ints, distances: Ints) -> Items:
    """Items from places in any order."""
    order = np.argsort(places, axis=1)
    places, targets, distances = (np.take_along_axis(array, order, axis=1) for array in (places, targets, distances))
    return Items(tokens, places, targets, distances)
