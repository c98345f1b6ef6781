"""Refusals of settings that would have no effect: the same key set twice, seeds and axes in the wrong place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from lab.planning.arms.arm import Arm
from lab.planning.language.axes import sweep_function
from lab.planning.language.read import SweepFile
from lab.refusals import RequestError


def check_settings(file: SweepFile) -> None:
    """Refuse the seed, and several values where there is room for one."""
    for setting in file.sweep.settings():
        if setting.is_axis:
            continue
        where = file.at(*setting.keys, setting.key)
        if setting.key.lstrip("+~") == "seed":
            raise RequestError("seeds are given once for the whole sweep: `seeds: [0, 1, 2]`", where=where)
        if isinstance(setting.value, str) and (function := sweep_function(setting.value)):
            problem = f"{function} makes several values: put the axis under grid"
            raise RequestError(problem, where=where, given=setting.value)


def check_overrides(arms: Sequence[Arm], file: SweepFile) -> None:
    """Refuse an override that every arm overrules: it would change nothing."""
    set_anywhere = {bare_path(key) for arm in arms for key in arm.settings}
    for key, value in file.sweep.overrides.items():
        for path in set_paths(key, value):
            if not any(_is_within(path, other) for other in set_anywhere):
                continue
            keys = [_overruling(arm.settings, path) for arm in arms]
            if all(keys) and (first := keys[0]):
                there = file.line(*arms[0].places[first])
                problem = f"every arm sets {first} itself ({there})"
                raise RequestError(problem, kind="conflict", where=file.at("overrides", key), fix="drop one")


def overlap(settings: Mapping[str, object], other: str) -> str | None:
    """The key of some settings of which one value would overrule what another key sets, or be overruled by it."""
    for key, value in settings.items():
        if any(
            _is_within(path, bare_path(other)) or _is_within(bare_path(other), path) for path in set_paths(key, value)
        ):
            return key
    return None


def set_paths(key: str, value: object) -> Iterator[str]:
    """The configuration paths that a setting gives a value."""
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from set_paths(f"{key}.{name}", item)
    else:
        yield bare_path(key)


def bare_path(key: str) -> str:
    """A key of an override without what Hydra may write before it."""
    return key.lstrip("+~")


def _overruling(settings: Mapping[str, object], path: str) -> str | None:
    """The key by which settings replace the whole of what an override says at a path."""
    for key, value in settings.items():
        if any(_is_within(path, own) for own in set_paths(key, value)):
            return key
    return None


def _is_within(path: str, above: str) -> bool:
    return f"{path}.".startswith(f"{above}.")
