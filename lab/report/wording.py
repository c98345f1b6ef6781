"""Numbers and lists as text for the report: a fixed number of decimals in a column, and a proper minus sign."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence

from lab.units import count

MINUS = "\N{MINUS SIGN}"
NONE = "–"


def decimals_for(values: Iterable[float | None], spreads: Iterable[float | None]) -> int:
    """The number of decimals for a column: two digits of the median spread, between one and six decimals.

    Without a spread, four digits of the largest value.

    Args:
        values: the column's values.
        spreads: standard deviations.
    """
    nonzero = sorted(spread for spread in spreads if spread and math.isfinite(spread))
    if nonzero:
        return min(6, max(1, 1 - math.floor(math.log10(nonzero[len(nonzero) // 2]))))
    sizes = [abs(value) for value in values if value and math.isfinite(value)]
    return min(6, max(0, 3 - math.floor(math.log10(max(sizes))))) if sizes else 1


def fixed(value: float | None, decimals: int, *, signed: bool = False) -> str:
    """A value with a fixed number of decimals; a large value as `lab.units.count` writes it."""
    if value is None:
        return NONE
    if not math.isfinite(value):
        return str(value).replace("-", MINUS)
    if abs(value) >= 100_000:
        text = count(value)
        return (f"+{text}" if signed and value > 0 else text).replace("-", MINUS)
    text = f"{value:{'+' if signed else ''}.{decimals}f}"
    # Without a sign, -0.0000 is shown as 0.0000.
    return (text.lstrip("-") if not signed and float(text) == 0 else text).replace("-", MINUS)


def p_value(p: float | None) -> str:
    """`p = 0.013`, `p < 0.001`; empty if there is none."""
    if p is None:
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def shorten_middle(name: str, most: int = 44) -> str:
    """A name whose middle is replaced by an ellipsis if it is longer than `most` characters."""
    return name if len(name) <= most else f"{name[: most - 16]}…{name[-15:]}"


def shorten_distinctly(names: Iterable[str], most: int = 24) -> dict[str, str]:
    """Name → the name with its middle left out, or the whole name where another one would look the same."""
    short = {name: shorten_middle(name, most) for name in names}
    shown = list(short.values())
    return {name: name if shown.count(text) > 1 else text for name, text in short.items()}


def as_written(value: object) -> str:
    """A configuration's value, written as in its file."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def join_names(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
