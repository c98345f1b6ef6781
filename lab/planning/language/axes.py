"""The values of an axis, from a list or from Hydra's own `choice(a, b)`, `range(1, 4)` or `a,b`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice, product

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep
from hydra.errors import HydraException

from lab.planning.language.hydra_values import hydra_value, parse_value, yaml_value
from lab.planning.language.read import SweepFile
from lab.planning.language.shorthand import AXIS
from lab.refusals import RequestError, Where, one_line

MOST_ARMS = 100_000
"""The largest number of cells in a sweep. A mistake such as range(0,1e9) is refused before it fills the memory."""

_FUNCTIONS = ("choice", "range", "sort")
_REFUSED_FUNCTIONS = ("interval", "glob", "shuffle", "tag")

Values = tuple[object, ...]


def axis_values(
    key: str, values: Values | str, file: SweepFile, *keys: str, distinct: bool = True, least: int = 2
) -> Values:
    """The values of an axis, in order.

    Args:
        key: the axis: a configuration path or a group.
        values: the values as they stand in the file: a list, or a text in Hydra's grammar.
        keys: the keys of the file above the axis, such as "grid" or "tune", "axes".
        distinct: refuse a value that appears twice.
        least: the smallest number of values; an axis of one value changes nothing.
    Raises:
        RequestError: with the axis, its line, and what was expected.
    """
    where = file.at(*keys, key)
    _check_key(key, where)
    listed = _values_of_text(values, where) if isinstance(values, str) else tuple(values)
    if not listed:
        raise RequestError("has no values", kind="missing", where=where)
    texts: set[str] = set()
    for i, value in enumerate(listed):
        if isinstance(value, str) and (function := sweep_function(value)):
            problem = f"{function} gives several values: write it alone, not in a list"
            raise RequestError(problem, where=Where(key=f"[{i}]").within(where), given=value)
        text = hydra_value(value)
        if distinct and text in texts:
            raise RequestError(f"the value {text} appears twice", where=where, given=value)
        texts.add(text)
    if len(texts) < least:
        fix = f"put it under overrides: {{{key}: {texts.pop()}}}"
        raise RequestError("an axis of one value changes nothing", kind="conflict", where=where, fix=fix)
    return listed


def product_of(axes: Mapping[str, Values]) -> list[dict[str, object]]:
    """Every combination of the axes' values; the last axis varies fastest."""
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def sweep_function(text: str) -> str | None:
    """The function by which a text gives several values, such as `choice(…)`; None for a single value.

    A bare `a,b` is a single text.
    """
    name = _function_name(text)
    if name is None:
        return None
    try:
        parsed = parse_value(text)
    except HydraException:
        return None
    return f"{name}(…)" if parsed.is_sweep_override() else None


def _function_name(text: str) -> str | None:
    call = re.match(r"\s*(\w+)\s*\(", text)
    return call[1] if call else None


def _check_key(key: str, where: Where) -> None:
    try:
        parsed = OverridesParser.create().parse_override(f"{key}=0")
    except HydraException:
        problem = "expected a configuration path or a group, such as model/heads"
        raise RequestError(problem, kind="unknown_key", where=where, given=key) from None
    if parsed.is_delete():
        fix = "write it as an arm"
        raise RequestError("a deletion has no values, so it can't be an axis", where=where, fix=fix)
    if parsed.key_or_group == "seed":
        problem = "the seed can't be an axis: write `seeds: [0, 1, 2]`, so that seeds count as replicates"
        raise RequestError(problem, where=where)


def _values_of_text(text: str, where: Where) -> Values:
    """The values that a text gives in Hydra's grammar."""
    try:
        parsed = parse_value(text)
    except HydraException as error:
        name = _function_name(text)
        if name and name not in (*_FUNCTIONS, *_REFUSED_FUNCTIONS):
            raise RequestError(
                f"'{text}': no function is called '{name}'",
                kind="not_found",
                where=where,
                given=name,
                expected=_FUNCTIONS,
            ) from None
        raise RequestError(f"'{text}' cannot be read: {one_line(error)}", where=where, given=text) from None
    _refuse_kind(parsed, text, where)
    try:
        values = tuple(yaml_value(value) for value in islice(parsed.sweep_iterator(), MOST_ARMS + 1))
        if isinstance(swept := parsed.value(), RangeSweep) and swept.stop is not None:
            # Hydra adds up the steps. With rounding (0.1 + 0.2 isn't 0.3), the sum may fall just short of the end.
            numbers = [value if isinstance(value, int) else float(f"{value:.12g}") for value in values]
            values = tuple(number for number in numbers if number != swept.stop)
    except (HydraException, ValueError, ArithmeticError) as error:
        raise RequestError(f"'{text}': {one_line(error)}", where=where, given=text) from None
    if len(values) > MOST_ARMS:
        raise RequestError(f"'{text}' gives more than {MOST_ARMS:,} values", where=where, given=text)
    return values


def _refuse_kind(parsed: Override, text: str, where: Where) -> None:
    value = parsed.value()
    problem, fix = None, None
    if parsed.is_interval_sweep():
        problem, fix = "an interval has no separate values", "list the values, or write range(…)"
    elif not parsed.is_sweep_override():
        raise RequestError(f"{AXIS}, got '{text}'", where=where, given=text)
    elif not isinstance(value, ChoiceSweep | RangeSweep):
        problem, fix = "a glob may match other options later", "list the options"
    elif value.shuffle:
        problem, fix = "a plan must have the same order each time", "leave out shuffle"
    elif value.tags:
        problem, fix = "tags have no effect here", "leave it out"
    if problem is not None:
        raise RequestError(f"'{text}': {problem}", kind="unsupported", where=where, given=text, fix=fix)
