"""Short forms of a sweep file, and checks that go beyond the types of its keys.

Each function takes a key's dotted path and its entry, and returns the entry in its long form.
"""

from __future__ import annotations

from collections.abc import Mapping

from components.registry import shown
from lab.planning.language.located_yaml import Entry
from lab.refusals import RequestError

AXIS = "expected a list of values, or choice(a, b) or range(1, 4) as a text"
_SEEDS = "expected a number of seeds, such as 3, or a list, such as [0, 1, 7]"
_MOST_SEED = 2**32 - 1


def one_as_list(keys: str, entry: Entry) -> Entry:
    """Expand a single mapping to a list of one."""
    return entry.with_value([entry]) if isinstance(entry.value, Mapping) else entry


def match_by(keys: str, entry: Entry) -> Entry:
    """Expand `params` to {by: params}."""
    return entry.with_value({"by": entry}) if isinstance(entry.value, str) else entry


def needed_runs(keys: str, entry: Entry) -> Entry:
    """Expand {arm: {path: other}} to {arm: {path: {arm: other}}}."""
    arms = dict(entry.mapping)
    for arm, paths in entry.mapping.items():
        runs = {
            path: run.with_value({"arm": run}) if isinstance(run.value, str) else run
            for path, run in paths.mapping.items()
        }
        for path, run in runs.items():
            key = f"{keys}.{arm}.{path}"
            if isinstance(run.value, Mapping) and ("arm" in run.value) == ("run" in run.value):
                raise RequestError("expected either `arm` or `run`", where=run.at(key))
            if "run" in run.mapping and "seed" in run.mapping:
                where = run.mapping["seed"].at(f"{key}.seed")
                raise RequestError("is for `arm` only; a `run` has its own seed", kind="conflict", where=where)
        if isinstance(paths.value, Mapping):
            arms[arm] = paths.with_value(runs)
    return entry.with_value(arms) if isinstance(entry.value, Mapping) else entry


def tuned_axes(keys: str, entry: Entry) -> Entry:
    """Expand {axis: values, …, seeds, metric} to {axes: {axis: values, …}, seeds, metric}."""
    if not isinstance(entry.value, Mapping):
        return entry
    content = dict(entry.value)
    if "axes" not in content:
        own = {key: content.pop(key) for key in ("seeds", "metric") if key in content}
        for key, value in content.items():
            if "." not in key and "/" not in key and not isinstance(value.value, list | str):
                problem = f"no such key; besides seeds and metric, every key is an axis: {AXIS}"
                raise RequestError(problem, kind="unknown_key", where=value.at(f"{keys}.{key}"))
        content = own | {"axes": entry.with_value(content)}
    if not content["axes"].value:
        raise RequestError("has no axes, such as optimizer.lr: [1e-3, 2e-3]", kind="missing", where=entry.at(keys))
    return entry.with_value(content)


def check_axis(keys: str, entry: Entry) -> None:
    """Refuse an axis that is neither a list nor a text.

    Raises:
        RequestError: at the axis.
    """
    if not isinstance(entry.value, list | str):
        raise RequestError(f"{AXIS}, got {_described(entry)}", where=entry.at(keys), given=entry.plain)


def check_seeds(keys: str, entry: Entry) -> Entry:
    """Refuse anything but a number of seeds or a list of different seeds.

    Raises:
        RequestError: at the value or the item.
    """
    is_list = isinstance(entry.value, list)
    for i, seed in enumerate(entry.items if is_list else [entry]):
        where, value = seed.at(f"{keys}[{i}]" if is_list else keys), seed.value
        if type(value) is not int:
            raise RequestError(f"{_SEEDS}; got {_described(seed)}", where=where, given=seed.plain)
        if not is_list and value < 1:
            raise RequestError(f"must be at least 1, got {value}", where=where, given=value)
        if not 0 <= value <= _MOST_SEED:
            problem = f"a seed is a whole number from 0 to {_MOST_SEED}, got {value}"
            raise RequestError(problem, where=where, given=value)
    if entry.value == []:
        raise RequestError("names no seed", kind="missing", where=entry.at(keys))
    return check_no_repeats(keys, entry)


def check_no_repeats(keys: str, entry: Entry) -> Entry:
    """Refuse a list in which an item appears twice.

    Raises:
        RequestError: at the second of the two items.
    """
    earlier: list[object] = []
    for i, item in enumerate(entry.items):
        if item.plain in earlier:
            raise RequestError(f"{item.plain} appears twice", where=item.at(f"{keys}[{i}]"), given=item.plain)
        earlier.append(item.plain)
    return entry


def _described(entry: Entry) -> str:
    if isinstance(entry.value, Mapping):
        return "keys and values"
    return "a list" if isinstance(entry.value, list) else shown(None if entry.value is None else str(entry.value))
