"""The axes of charts: from values to places between 0 and 1, with ticks where a person would put them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lab.units import count, duration

MINUS = "\N{MINUS SIGN}"
_APART = 0.07  # share of an axis that two labels need between them
_SAME = 1e-12  # of their size: values that are nearer are one, since no ticks fit between them
_LEAST, _MOST = 1e-305, 1e305  # beyond, sums and quotients of an axis's ends overflow


@dataclass(frozen=True)
class Scale:
    """An axis.

    Attributes:
        low, high: values at its ends.
        ticks: (place between 0 and 1, label).
    """

    low: float
    high: float
    log: bool
    ticks: tuple[tuple[float, str], ...]

    def at(self, value: float) -> float:
        """Where a value stands, 0 at the low end and 1 at the high one; beyond them for values beyond."""
        if self.log:
            if value <= 0:
                return -1.0
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)


def scale(
    values: Iterable[float],
    *,
    log: bool = False,
    pad: float = 0.04,
    named: Iterable[float] = (),
    label: Callable[[float], str] | None = None,
    zero: bool = False,
) -> Scale:
    """An axis that holds all values that are finite; one of 1e305 or more counts as infinite.

    Args:
        pad: share of the axis that is left free at both ends.
        named: values that get the ticks, instead of round ones, as far as there is room.
        label: what is written at a tick; by default the number.
        zero: hold 0 as well.
    """
    known = [value for value in values if abs(value) < _MOST and (value > _LEAST or not log)]
    if zero and not log:
        known.append(0.0)
    low, high = (min(known), max(known)) if known else (1.0 if log else 0.0, 10.0 if log else 1.0)
    same = high - low <= max(_LEAST, _SAME * max(abs(low), abs(high)))
    if log:
        low, high = (low / 1.5, high * 1.5) if same else (low, high)
        stretch = math.exp(pad * (math.log(high) - math.log(low)))
        low, high = max(low / stretch, _LEAST / 10), min(high * stretch, _MOST * 10)
    else:
        if same:
            room = max(abs(low), abs(high)) * 0.05
            low, high = low - (room if room > _LEAST else 0.5), high + (room if room > _LEAST else 0.5)
        low, high = low - pad * (high - low), high + pad * (high - low)
    bare = Scale(low, high, log, ())
    wanted = sorted(value for value in set(named) if low <= value <= high)
    # Ticks between them where few values stand close together.
    chosen = wanted if 2 <= len(wanted) <= 9 else (_decades(low, high) if log else _round(low, high))
    text = label or _numbers(chosen, log)
    ticks: list[tuple[float, str]] = []
    for value in chosen:
        place = bare.at(value)
        if not ticks or place - ticks[-1][0] >= _APART:
            ticks.append((place, text(value)))
    return Scale(low, high, log, tuple(ticks))


def counted(value: float) -> str:
    """A tick's count: 2M, where a table has 2.00M."""
    number, unit = re.fullmatch(r"(.*?)([kMGTPE]?)", count(value)).groups()  # type: ignore[union-attr]
    return (number.rstrip("0").rstrip(".") if "." in number else number).replace("-", MINUS) + unit


def seconds(value: float) -> str:
    """A tick's time: 2 min."""
    return "0" if value == 0 else duration(value).replace(".0 ", " ")


def _round(low: float, high: float) -> list[float]:
    """About five round values."""
    rough = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten, with 2 and 5 times them where those are few; round values within less than a decade."""
    if high / low < 4:
        return [value for value in _round(low, high) if value > 0]
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 2, 5) if last - first <= 3 else (1,)
    step = max(1, (last - first) // 7)
    found = [factor * 10.0**power for power in range(first, last + 1, step) for factor in factors]
    return [value for value in found if low <= value <= high]


def _numbers(values: list[float], log: bool) -> Callable[[float], str]:
    """Labels with the decimals that tell the values apart; counts where they are large."""
    sizes = [abs(value) for value in values if value]
    if not sizes or max(sizes) >= 10_000:
        return counted
    if log or len(values) < 2:
        return lambda value: f"{value:.4g}".replace("-", MINUS)
    step = min(b - a for a, b in itertools.pairwise(values))
    decimals = min(15, max(0, -math.floor(math.log10(step) + 1e-9))) if step < 1 else 0
    decimals += round(step * 10**decimals, 6) != round(step * 10**decimals)
    return lambda value: f"{value:.{decimals}f}".replace("-", MINUS) if abs(value) > 1e-12 else "0"
