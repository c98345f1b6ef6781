"""The values of an axis, from a list or from Hydra's own `choice(a, b)`, `range(1, 4)` or `a,b`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice, product
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, Quote, QuotedString, RangeSweep
from hydra.errors import HydraException

from components.registry import suggestion
from lab.composition.hydra.overrides import one_line
from lab.planning.arms.arms import hydra_value
from lab.planning.language.shorthand import AXIS
from lab.planning.language.sweep import SweepFile
from lab.refusals import RequestError

MOST_ARMS = 100_000
"""More cells than anybody runs: a slip such as range(0,1e9) is refused before it fills the memory."""

_SWEEPS = ("choice", "range", "sort")


def axis_values(
    key: str, values: tuple[Any, ...] | str, file: SweepFile, *keys: str, distinct: bool = True, least: int = 2
) -> tuple[Any, ...]:
    """The values of an axis, in order.

    Args:
        key: the axis, a configuration path or a group.
        values: as they stand in the file: a list, or Hydra's text.
        keys: what the axis stands below, such as "grid" or "tune", "axes".
        distinct: refuse a value that stands twice.
        least: refuse fewer values; an axis of one value changes nothing.
    Raises:
        RequestError: naming the axis with its line, and what would be right.
    """
    where = file.at(*keys, key)
    _check_key(key, where)
    found = _swept(values, where) if isinstance(values, str) else tuple(values)
    if not found:
        raise RequestError(f"{where}: has no values")
    first: dict[str, int] = {}
    for i, value in enumerate(found):
        if isinstance(value, str) and (sweep := sweeps(value)):
            raise RequestError(f"{where}[{i}]: {sweep} makes several values: it stands alone, not in a list")
        text = hydra_value(value)
        if distinct and text in first:
            raise RequestError(f"{where}: the value {text} stands twice")
        first[text] = i
    if len(first) < least:
        raise RequestError(
            f"{where}: an axis of one value changes nothing; put it under overrides: {{{key}: {next(iter(first))}}}"
        )
    return found


def product_of(axes: Mapping[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Every combination of the axes' values; the last axis varies fastest."""
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def sweeps(text: str) -> str | None:
    """What makes several values of a text, such as `choice(…)`; None where it is one value. A bare `a,b` is a text."""
    called = re.match(r"\s*(\w+)\s*\(", text)
    if called is None:
        return None
    try:
        parsed = OverridesParser.create().parse_override(f"key={text}")
    except HydraException:
        return None
    return f"{called[1]}(…)" if parsed.is_sweep_override() else None


def _check_key(key: str, where: str) -> None:
    try:
        parsed = OverridesParser.create().parse_override(f"{key}=0")
    except HydraException:
        raise RequestError(f"{where}: expected a configuration path or a group, such as model/heads") from None
    if parsed.is_delete():
        raise RequestError(f"{where}: a deletion has no values to go through; name an arm that deletes")
    if parsed.key_or_group == "seed":
        raise RequestError(f"{where}: seeds are no axis: write `seeds: [0, 1, 2]`, so that they count as replicates")


def _swept(text: str, where: str) -> tuple[Any, ...]:
    """The values that Hydra's grammar makes of a text."""
    try:
        parsed = OverridesParser.create().parse_override(f"key={text}")
    except HydraException as error:
        called = re.match(r"\s*(\w+)\s*\(", text)
        if called and called[1] not in (*_SWEEPS, "interval", "glob", "shuffle", "tag"):
            near = suggestion(called[1], _SWEEPS)
            raise RequestError(f"{where}: '{text}': no function is called '{called[1]}'{near}") from None
        raise RequestError(f"{where}: '{text}' cannot be read: {one_line(error)}") from None
    _refuse_kind(parsed, text, where)
    try:
        found = tuple(_plain(value) for value in islice(parsed.sweep_iterator(), MOST_ARMS + 1))
        if isinstance(swept := parsed.value(), RangeSweep) and swept.stop is not None:
            # Hydra adds the steps up, where 0.1 + 0.2 isn't 0.3 and may come to just less than the end.
            found = tuple(v if isinstance(v, int) else float(f"{v:.12g}") for v in found)
            found = tuple(v for v in found if v != swept.stop)
    except (HydraException, ValueError, ArithmeticError) as error:
        raise RequestError(f"{where}: '{text}': {one_line(error)}") from None
    if len(found) > MOST_ARMS:
        raise RequestError(f"{where}: '{text}' makes more than {MOST_ARMS:,} values")
    return found


def _refuse_kind(parsed: Override, text: str, where: str) -> None:
    value = parsed.value()
    if parsed.is_interval_sweep():
        raise RequestError(f"{where}: '{text}': an interval has no values of its own; list them, or write range(…)")
    if not parsed.is_sweep_override():
        raise RequestError(f"{where}: {AXIS}, got '{text}'")
    if not isinstance(value, ChoiceSweep | RangeSweep):
        raise RequestError(f"{where}: '{text}': what a glob finds may change from day to day; list the options")
    if value.shuffle:
        raise RequestError(f"{where}: '{text}': a plan has the same order each time; leave out shuffle")
    if value.tags:
        raise RequestError(f"{where}: '{text}': nothing reads a tag here; leave it out")


def _plain(value: Any) -> Any:
    match value:
        case QuotedString():
            return _kept(value.text)
        case str():
            return _kept(value)
        case dict():
            return {str(_plain(key)): _plain(item) for key, item in value.items()}
        case list():
            return [_plain(item) for item in value]
    return value


def _kept(text: str) -> str:
    """A text that Hydra has read, in quotes where it would be read as something else again, such as '3'."""
    try:
        read = OverridesParser.create().parse_override(f"key={text}").value()
    except HydraException:
        return text
    return text if isinstance(read, str) and read == text else QuotedString(text, Quote.single).with_quotes()
