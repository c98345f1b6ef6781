"""Long curves as a chart can show them: nothing is smoothed, and no extreme is lost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

MOST_POINTS = 240
"""Points of a line; a chart is some six hundred pixels wide."""

Line = tuple[list[float], list[float]]


def thin(x: Sequence[float], y: Sequence[float], most: int = MOST_POINTS) -> Line:
    """A line of at most about `most` points: the first, the last, and of each slice its lowest and its highest.

    Points that aren't finite are left out.
    """
    known = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if len(known) > most:
        kept = {0, len(known) - 1}
        for start, end in _slices(len(known), most // 2):
            places = range(start, end)
            kept |= {min(places, key=lambda i: known[i][1]), max(places, key=lambda i: known[i][1])}
        known = [known[i] for i in sorted(kept)]
    return [a for a, _ in known], [b for _, b in known]


def envelope(
    x: Sequence[float], low: Sequence[float], high: Sequence[float], most: int = MOST_POINTS
) -> tuple[list[float], list[float], list[float]]:
    """A band of at most about `most` points, in each slice as wide as it is at its widest: never narrower than it is.

    Points where an end isn't finite are left out.
    """
    known = [each for each in zip(x, low, high, strict=True) if all(map(math.isfinite, each))]
    if len(known) > most:
        merged = []
        for start, end in _slices(len(known), most // 2):
            part = known[start:end]
            lowest, highest = min(each[1] for each in part), max(each[2] for each in part)
            merged += [(part[0][0], lowest, highest), (part[-1][0], lowest, highest)]
        known = merged
    return [each[0] for each in known], [each[1] for each in known], [each[2] for each in known]


def _slices(length: int, number: int) -> list[tuple[int, int]]:
    edges = [length * i // number for i in range(number + 1)]
    return [(start, end) for start, end in itertools.pairwise(edges) if start < end]
