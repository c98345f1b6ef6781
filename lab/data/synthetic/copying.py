"""Tasks that ask for earlier tokens: those after a mark, or those among blanks.

Marks are the first ids of the vocabulary and are used for nothing else.
"""

from __future__ import annotations

import numpy as np

from lab.data.synthetic.draws import Draws, Ints
from lab.data.synthetic.items import Items

MARK, ASK = 0, 1
BLANK = 0
DIGIT_0 = 2
"""The id of the digit 0 in a passkey. The ids of the other digits follow, then those of the filler."""


def induction(draws: Draws, context: int, vocabulary: int, distance: int | None) -> Items:
    """Random ids with a mark among them. The last token repeats the mark; the target is the token after the first mark.

    Olsson et al. 2022 (2209.11895), in the form of 2212.14052.

    Args:
        distance: from the last token back to the mark, at least 2; None for a random one.
    """
    tokens_BT = 1 + draws.below("tokens", vocabulary - 1, context)
    place_B1 = _starts(draws, context - 1, distance, context - 2)
    np.put_along_axis(tokens_BT, place_B1, MARK, axis=1)
    tokens_BT[:, -1] = MARK
    targets_B1 = np.take_along_axis(tokens_BT, place_B1 + 1, axis=1)
    asked_B1 = np.full_like(place_B1, context - 1)
    return Items(tokens_BT, asked_B1, targets_B1, asked_B1 - place_B1)


def passkey(draws: Draws, context: int, vocabulary: int, digits: int, base: int, distance: int | None) -> Items:
    """Filler that contains a mark and a number; at the end a question, to which the number is the answer.

    Mohtashami and Jaggi (2305.16300) ask this of language models in English. All digits but the last follow the
    question, so that each digit is predicted given the ones before it.

    Args:
        digits: number of digits.
        base: number of different digits.
        distance: from the question back to the mark, more than `digits`; None for a random one.
    """
    ask = context - digits
    tokens_BT = DIGIT_0 + base + draws.below("filler", vocabulary - DIGIT_0 - base, context)
    digits_Bn = DIGIT_0 + draws.below("digits", base, digits)
    mark_B1 = _starts(draws, ask, distance, ask - digits)
    np.put_along_axis(tokens_BT, mark_B1, MARK, axis=1)
    np.put_along_axis(tokens_BT, mark_B1 + 1 + np.arange(digits), digits_Bn, axis=1)
    tokens_BT[:, ask] = ASK
    tokens_BT[:, ask + 1 :] = digits_Bn[:, :-1]
    places_Bn = np.broadcast_to(ask + np.arange(digits), digits_Bn.shape).copy()
    return Items(tokens_BT, places_Bn, digits_Bn, np.broadcast_to(ask - mark_B1, digits_Bn.shape).copy())


def selective_copying(draws: Draws, context: int, vocabulary: int, copied: int) -> Items:
    """Random ids at random places among blanks; at the end one question per id, answered in the order of the ids.

    As in Mamba (2312.00752, section 4.1.1). Every question is the same token, and no answer follows it.
    """
    body = context - copied
    data_Bn = 2 + draws.below("tokens", vocabulary - 2, copied)
    sources_Bn = np.sort(draws.distinct("places", body, copied), axis=1)
    tokens_BT = np.full((len(data_Bn), context), BLANK, dtype=np.int64)
    np.put_along_axis(tokens_BT, sources_Bn, data_Bn, axis=1)
    tokens_BT[:, body:] = ASK
    places_Bn = np.broadcast_to(body + np.arange(copied), data_Bn.shape).copy()
    return Items(tokens_BT, places_Bn, data_Bn, places_Bn - sources_Bn)


def _starts(draws: Draws, end: int, distance: int | None, choices: int) -> Ints:
    """The place `distance` tokens before `end`; without a distance a random one of the first `choices`: [B, 1]."""
    if distance is None:
        return draws.below("place", choices, 1)
    return np.full((len(draws.items), 1), end - distance, dtype=np.int64)
