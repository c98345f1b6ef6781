"""Numbers as text for people: 1.20M parameters, 34.5k bytes, a loss of 3.2145, 12 min."""

from __future__ import annotations

import math

_PREFIXES = ("", "k", "M", "G", "T", "P", "E")


def count(value: float | None) -> str:
    """Three significant digits with a decimal prefix: 1234567 is "1.23M". Integers below 1000 stay integers."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return str(value)
    if abs(value) < 999.5 or (abs(value) < 1000 and value == int(value)):
        return f"{value:.0f}" if value == int(value) else f"{value:.3g}"
    power = min(max(1, int(math.log10(abs(value)) // 3)), len(_PREFIXES) - 1)
    scaled = value / 1000**power
    # 999,950 rounds to 1000k, which is 1.00M.
    if abs(scaled) >= 999.5 and power < len(_PREFIXES) - 1:
        scaled, power = scaled / 1000, power + 1
    digits = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
    return f"{scaled:.{digits}f}{_PREFIXES[power]}"


def plural(number: int, noun: str) -> str:
    """A number of things: "1 run", "1,200 runs"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def percent(fraction: float) -> str:
    """A fraction as a percentage with the digits that it needs: 0.95 is "95%", 0.999 is "99.9%"."""
    return f"{100 * fraction:g}%"


def measure(value: float | None, *, signed: bool = False) -> str:
    """A metric's value: four decimals, fewer where it is large, and three significant digits below 0.001.

    Args:
        value: None, for a value that isn't known, is a dash.
        signed: write the plus sign of a difference.
    """
    if value is None:
        return "–"
    if not math.isfinite(value):
        return str(value)
    sign = "+" if signed else ""
    size = abs(value)
    if size >= 10_000:
        return f"+{count(value)}" if signed and value > 0 else count(value)
    if size >= 100:
        return f"{value:{sign}.1f}"
    if 0 < size < 0.001:
        return f"{value:{sign}.2e}"
    return f"{value:{sign}.4f}"


def duration(seconds: float | None) -> str:
    """A time in the unit that gives it two or three digits: 45 s, 12 min, 3.5 h, 2.1 d."""
    if seconds is None:
        return "–"
    for unit, size, limit in (("s", 1, 99.5), ("min", 60, 99.5), ("h", 3600, 47.95)):
        amount = seconds / size
        if amount < limit:
            return f"{amount:.0f} {unit}" if amount >= 9.95 or unit == "s" else f"{amount:.1f} {unit}"
    return f"{seconds / 86400:.1f} d" if seconds < 99.95 * 86400 else f"{seconds / 86400:,.0f} d"
