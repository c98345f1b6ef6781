"""Long curves with as many points as a chart can show: nothing is smoothed, and no extreme is lost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

MOST_POINTS = 240
"""Points of a line; a chart is some six hundred pixels wide."""


def thin(x: Sequence[float], y: Sequence[float], most: int = MOST_POINTS) -> tuple[list[float], list[float]]:
    """A line of at most about `most` points: the first, the last, and of each slice its lowest and its highest.

    Points that aren't finite are left out.
    """
    points = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if len(points) > most:
        kept = {0, len(points) - 1}
        for start, end in _slices(len(points), most // 2):
            places = range(start, end)
            kept |= {min(places, key=lambda i: points[i][1]), max(places, key=lambda i: points[i][1])}
        points = [points[i] for i in sorted(kept)]
    return [a for a, _ in points], [b for _, b in points]


def envelope(
    x: Sequence[float], low: Sequence[float], high: Sequence[float], most: int = MOST_POINTS
) -> tuple[list[float], list[float], list[float]]:
    """A band of at most about `most` points, in each slice as wide as it is at its widest.

    Points with an end that isn't finite are left out.
    """
    points = [point for point in zip(x, low, high, strict=True) if all(map(math.isfinite, point))]
    if len(points) > most:
        merged = []
        for start, end in _slices(len(points), most // 2):
            part = points[start:end]
            lowest, highest = min(point[1] for point in part), max(point[2] for point in part)
            merged += [(part[0][0], lowest, highest), (part[-1][0], lowest, highest)]
        points = merged
    return [point[0] for point in points], [point[1] for point in points], [point[2] for point in points]


def _slices(length: int, number: int) -> list[tuple[int, int]]:
    edges = [length * i // number for i in range(number + 1)]
    return [(start, end) for start, end in itertools.pairwise(edges) if start < end]
