"""Reduce long curves to the number of points that a chart can show, without smoothing or losing extremes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

POINTS_PER_LINE = 240
"""The most points of a line; a chart is about six hundred pixels wide."""


def thin(x: Sequence[float], y: Sequence[float], most: int = POINTS_PER_LINE) -> tuple[list[float], list[float]]:
    """A line of about `most` points at most: the first, the last, and the lowest and highest of each slice.

    Points that aren't finite are left out.
    """
    points = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if len(points) > most:
        indices = {0, len(points) - 1}
        for start, end in _slices(len(points), most // 2):
            part = range(start, end)
            indices |= {min(part, key=lambda i: points[i][1]), max(part, key=lambda i: points[i][1])}
        points = [points[i] for i in sorted(indices)]
    return [a for a, _ in points], [b for _, b in points]


def envelope(
    x: Sequence[float], low: Sequence[float], high: Sequence[float], most: int = POINTS_PER_LINE
) -> tuple[list[float], list[float], list[float]]:
    """A band of about `most` points at most, which spans the lowest and the highest value in each slice.

    Points with an edge that isn't finite are left out.
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
