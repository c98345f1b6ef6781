"""Associative recall: pairs of a key and a value, then queries: keys whose values are the targets.

The first half of the vocabulary are keys, except 0; the second half are values. Zoology (2312.04927) shows that this
task explains most of the gap between attention and attention-free models.
"""

from __future__ import annotations

import numpy as np

from lab.data.synthetic.draws import Draws, Ints, skip_taken
from lab.data.synthetic.items import Items, sorted_items


def keys(vocabulary: int) -> int:
    """Number of ids that can be a key: 1 … vocabulary // 2 - 1."""
    return vocabulary // 2 - 1


def values(vocabulary: int) -> int:
    """Number of ids that can be a value: vocabulary // 2 … vocabulary - 1."""
    return vocabulary - vocabulary // 2


def multi_query(draws: Draws, context: int, vocabulary: int, pairs: int, power: float, random_filler: bool) -> Items:
    """The pairs first, then each key once more as a query, whose target is the value.

    As in Zoology's generator, queries are at even distances s = 0, 2, 4, … from the last pair. Distances are drawn
    without replacement with weight (s / 2 + 1)^(power - 1). No answer follows its query. All other places hold 0, or
    with `random_filler` a random id that is none of the item's keys, so that each key has one value.
    """
    keys_Bn = 1 + draws.distinct("keys", keys(vocabulary), pairs)
    values_Bn = vocabulary // 2 + draws.distinct("values", values(vocabulary), pairs)
    free = (context - 2 * pairs) // 2
    gaps_Bn = draws.weighted("gaps", np.arange(1, free + 1, dtype=np.float64) ** (power - 1), pairs)
    tokens_BT = _filler(draws, context, vocabulary, keys_Bn, random_filler)
    tokens_BT[:, 0 : 2 * pairs : 2] = keys_Bn
    tokens_BT[:, 1 : 2 * pairs : 2] = values_Bn
    places_Bn = 2 * pairs + 2 * gaps_Bn
    np.put_along_axis(tokens_BT, places_Bn, keys_Bn, axis=1)
    return sorted_items(tokens_BT, places_Bn, values_Bn, places_Bn - 2 * np.arange(pairs))


def single_query(draws: Draws, context: int, vocabulary: int, pairs: int, random_filler: bool) -> Items:
    """Pairs at random even places; the last token repeats a key, and the target is its value (2212.14052)."""
    keys_Bn = 1 + draws.distinct("keys", keys(vocabulary), pairs)
    values_Bn = vocabulary // 2 + draws.below("values", values(vocabulary), pairs)
    starts_Bn = 2 * draws.distinct("places", (context - 1) // 2, pairs)
    asked_B1 = draws.below("asked", pairs, 1)
    tokens_BT = _filler(draws, context, vocabulary, keys_Bn, random_filler)
    np.put_along_axis(tokens_BT, starts_Bn, keys_Bn, axis=1)
    np.put_along_axis(tokens_BT, starts_Bn + 1, values_Bn, axis=1)
    tokens_BT[:, -1:] = np.take_along_axis(keys_Bn, asked_B1, axis=1)
    places_B1 = np.full_like(asked_B1, context - 1)
    targets_B1 = np.take_along_axis(values_Bn, asked_B1, axis=1)
    return Items(tokens_BT, places_B1, targets_B1, places_B1 - np.take_along_axis(starts_Bn, asked_B1, axis=1))


def _filler(draws: Draws, context: int, vocabulary: int, keys_Bn: Ints, random: bool) -> Ints:
    if not random:
        return np.zeros((len(keys_Bn), context), dtype=np.int64)
    others = draws.below("filler", vocabulary - keys_Bn.shape[1], context)
    return skip_taken(others, np.sort(keys_Bn, axis=1))
