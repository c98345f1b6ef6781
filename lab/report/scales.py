"""The axes of charts: the position of a value between 0 and 1, and round ticks with labels."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from lab.records import LARGEST_MEASUREMENT
from lab.report.wording import MINUS
from lab.units import count, duration

_LABEL_DISTANCE = 0.07  # the smallest distance of two tick labels, as a fraction of the axis
_SAME = 1e-12  # values whose relative difference is smaller count as the same


@dataclass(frozen=True)
class Scale:
    """An axis.

    Attributes:
        low, high: the values at its ends.
        log: whether the axis is logarithmic.
        ticks: (position between 0 and 1, label).
    """

    low: float
    high: float
    log: bool
    ticks: tuple[tuple[float, str], ...]

    def at(self, value: float) -> float:
        """The position of a value: 0 at the low end, 1 at the high end; outside this range for values off the axis."""
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
    """An axis that contains all values, except implausibly large ones.

    Args:
        values: the values to show.
        log: whether the axis is logarithmic.
        pad: the fraction of the axis that stays free at each end.
        named: values to put ticks at instead of at round values, if there are two to nine of them.
        label: formats the label of a tick; the number by default.
        zero: whether to include 0.
    """
    drawable = [
        value for value in values if abs(value) <= LARGEST_MEASUREMENT and (value >= 1 / LARGEST_MEASUREMENT or not log)
    ]
    if zero and not log:
        drawable.append(0.0)
    low, high = (min(drawable), max(drawable)) if drawable else (1.0 if log else 0.0, 10.0 if log else 1.0)
    same = high - low <= _SAME * max(abs(low), abs(high))
    if log:
        low, high = (low / 1.5, high * 1.5) if same else (low, high)
        stretch = math.exp(pad * (math.log(high) - math.log(low)))
        low, high = low / stretch, high * stretch
    else:
        if same or high - low < 1 / LARGEST_MEASUREMENT:
            room = 0.05 * max(abs(low), abs(high))
            room = room if room > 1 / LARGEST_MEASUREMENT else 0.5
            low, high = low - room, high + room
        low, high = low - pad * (high - low), high + pad * (high - low)
    bare = Scale(low, high, log, ())
    names = sorted(value for value in set(named) if low <= value <= high)
    chosen = names if 2 <= len(names) <= 9 else _round_values(low, high, log)
    text = label or _numbers(chosen, log)
    ticks: list[tuple[float, str]] = []
    for value in chosen:
        place = bare.at(value)
        if not ticks or place - ticks[-1][0] >= _LABEL_DISTANCE:
            ticks.append((place, text(value)))
    return Scale(low, high, log, tuple(ticks))


def short_count(value: float) -> str:
    """A count for a tick label: "2M" instead of "2.00M"."""
    number, unit = re.fullmatch(r"(.*?)([kMGTPE]?)", count(value)).groups()  # type: ignore[union-attr]
    return (number.rstrip("0").rstrip(".") if "." in number else number).replace("-", MINUS) + unit


def short_duration(seconds: float) -> str:
    """A duration for a tick label: "2 min"."""
    return "0" if seconds == 0 else duration(seconds).replace(".0 ", " ")


def _round_values(low: float, high: float, log: bool) -> list[float]:
    """About five round values within the axis, or powers of ten, with twice and five times them over a short range."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    if log and high / low >= 4:
        factors = (1.0, 2.0, 5.0) if high / low <= 1000 else (1.0,)
        values = LogLocator(subs=factors, numticks=8).tick_values(low, high)
    else:
        values = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(value) for value in values if low <= value <= high and (value > 0 or not log)]


def _numbers(values: Sequence[float], log: bool) -> Callable[[float], str]:
    """Formats labels with enough decimals to tell the values apart; large values as counts."""
    sizes = [abs(value) for value in values if value]
    if not sizes or max(sizes) >= 10_000:
        return short_count
    if log or len(values) < 2:
        return lambda value: f"{value:.4g}".replace("-", MINUS)
    step = min(b - a for a, b in itertools.pairwise(values))
    decimals = min(15, max(0, -math.floor(math.log10(step) + 1e-9))) if step < 1 else 0
    decimals += round(step * 10**decimals, 6) != round(step * 10**decimals)
    return lambda value: f"{value:.{decimals}f}".replace("-", MINUS) if abs(value) > 1e-12 else "0"
