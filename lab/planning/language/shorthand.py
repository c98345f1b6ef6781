"""The short forms of a sweep file written out, and the shapes that the schema's types can't tell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lab.planning.language.located_yaml import Entry
from lab.refusals import RequestError

AXIS = "expected a list of values, or choice(a, b) or range(1, 4) as a text"

_NOT_EMPTY = {
    "arms": "has no arms",
    "grid": "has no axes",
    "zip": "has no axes",
    "leave_one_out": "has nothing to leave out",
    "add_one_in": "has nothing to add",
    "metrics": "must name at least one metric, such as val/loss",
}


def written_out(root: Entry) -> Entry:
    """The content with every short form as its long one.

    Raises:
        RequestError: something is empty that can't be, or axes or seeds have the wrong shape.
    """
    content = dict(root.value)
    for key in ("zip", "exclude"):
        if key in content and isinstance(content[key].value, dict):
            content[key] = _like(content[key], [content[key]])
    for key, message in _NOT_EMPTY.items():
        if key in content and content[key].value in ({}, []):
            raise RequestError(f"{content[key].place}: {key}: {message}")
    if "match" in content and isinstance(content["match"].value, str):
        content["match"] = _like(content["match"], {"by": content["match"]})
    if "needs" in content:
        content["needs"] = _needs(content["needs"])
    if "tune" in content:
        content["tune"] = _tune(content["tune"])
    for key in ("arms", "leave_one_out", "add_one_in"):
        for name, entry in _items(content.get(key)):
            if entry.value is None:
                raise RequestError(f"{entry.place}: {key}.{name}: is empty; what sets nothing is written {{}}")
    for keys, entry in _axes(content):
        if not isinstance(entry.value, list | str):
            raise RequestError(f"{entry.place}: {keys}: {AXIS}, got {_shown(entry)}")
    if "seeds" in content:
        _check_seeds("seeds", content["seeds"])
    _refuse_twice("metrics", content.get("metrics"))
    return Entry(content, root.path, root.line)


def _needs(entry: Entry) -> Entry:
    """{arm: {path: other}} with `other` as {arm: other}."""
    arms = {}
    for arm, paths in _items(entry):
        wanted = {path: _like(run, {"arm": run}) if isinstance(run.value, str) else run for path, run in _items(paths)}
        arms[arm] = _like(paths, wanted) if isinstance(paths.value, dict) else paths
        for path, run in wanted.items():
            if isinstance(run.value, dict) and ("arm" in run.value) == ("run" in run.value):
                raise RequestError(f"{run.place}: needs.{arm}.{path}: expected either `arm` or `run`")
            if isinstance(run.value, dict) and "run" in run.value and "seed" in run.value:
                seed = run.value["seed"].place
                raise RequestError(f"{seed}: needs.{arm}.{path}.seed: goes with `arm` only; a `run` has its own seed")
    return _like(entry, arms) if isinstance(entry.value, dict) else entry


def _tune(entry: Entry) -> Entry:
    """{axes…, seeds, metric} with the axes under `axes`."""
    if not isinstance(entry.value, dict) or "axes" in entry.value:
        found = entry
    else:
        own = {key: value for key, value in entry.value.items() if key in ("seeds", "metric")}
        axes = {key: value for key, value in entry.value.items() if key not in own}
        for key, value in axes.items():
            if "." not in key and "/" not in key and not isinstance(value.value, list | str):
                raise RequestError(
                    f"{value.place}: tune.{key}: no such key; there are seeds and metric, all others are axes: {AXIS}"
                )
        found = _like(entry, own | ({"axes": _like(entry, axes)} if axes else {}))
    if isinstance(found.value, dict):
        if "axes" not in found.value or found.value["axes"].value in ({}, None):
            raise RequestError(f"{entry.place}: tune: has no axes, such as optimizer.lr: [1e-3, 2e-3]")
        if "seeds" in found.value:
            _check_seeds("tune.seeds", found.value["seeds"])
    return found


def _axes(content: dict[str, Entry]) -> Iterator[tuple[str, Entry]]:
    yield from ((f"grid.{key}", axis) for key, axis in _items(content.get("grid")))
    groups = content["zip"].value if "zip" in content else None
    for i, group in enumerate(groups if isinstance(groups, list) else ()):
        yield from ((f"zip[{i}].{key}", axis) for key, axis in _items(group))
    for key, tune in _items(content.get("tune")):
        if key == "axes":
            yield from ((f"tune.axes.{name}", axis) for name, axis in _items(tune))


def _check_seeds(keys: str, entry: Entry) -> None:
    seeds = entry.value if isinstance(entry.value, list) else [entry]
    for i, seed in enumerate(seeds):
        at = f"{seed.place}: {keys}[{i}]" if seeds is entry.value else f"{seed.place}: {keys}"
        if type(seed.value) is not int:
            raise RequestError(f"{at}: expected how many, such as 3, or which, such as [0, 1, 7]; got {_shown(seed)}")
        if seed is entry and seed.value < 1:
            raise RequestError(f"{at}: must be at least 1, got {seed.value}")
        if not 0 <= seed.value < 2**32:
            raise RequestError(f"{at}: a seed is a whole number from 0 to 4294967295, got {seed.value}")
    if not seeds:
        raise RequestError(f"{entry.place}: {keys}: names no seed")
    _refuse_twice(keys, entry)


def _refuse_twice(keys: str, entry: Entry | None) -> None:
    seen = []
    for i, item in enumerate(entry.value if entry is not None and isinstance(entry.value, list) else ()):
        if item.plain in seen:
            raise RequestError(f"{item.place}: {keys}[{i}]: {item.plain} stands twice")
        seen.append(item.plain)


def _items(entry: Entry | None) -> Iterator[tuple[str, Entry]]:
    if entry is not None and isinstance(entry.value, dict):
        yield from entry.value.items()


def _like(entry: Entry, value: Any) -> Entry:
    return Entry(value, entry.path, entry.line)


def _shown(entry: Entry) -> str:
    if entry.value is None:
        return "nothing"
    if isinstance(entry.value, dict):
        return "keys and values"
    return "a list" if isinstance(entry.value, list) else f"'{entry.plain}'"
