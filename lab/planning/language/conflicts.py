"""Refusals of what a sweep says and would not do: settings that others overrule, seeds and axes in the wrong place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lab.planning.arms.arms import Arm
from lab.planning.language.axes import sweeps
from lab.planning.language.sweep import Settings, Sweep, SweepFile
from lab.refusals import RequestError


def check_settings(places: Iterable[tuple[tuple[str, ...], Settings]], file: SweepFile) -> None:
    """Refuse the seed, and several values where there is room for one.

    Args:
        places: (keys of the file, the settings that stand there).
    """
    for keys, settings in places:
        for key, value in settings.items():
            where = file.at(*keys, key)
            if key.lstrip("+~") == "seed":
                raise RequestError(f"{where}: seeds are said once for the whole sweep: `seeds: [0, 1, 2]`")
            if isinstance(value, str) and (function := sweeps(value)):
                raise RequestError(f"{where}: {function} makes several values: put the axis under grid")


def check_overrides(sweep: Sweep, arms: Sequence[Arm], file: SweepFile) -> None:
    """Refuse an override that every arm overrules: it would change nothing."""
    anywhere = {key for arm in arms for key in arm.settings}
    for key, value in sweep.overrides.items():
        for leaf in _leaves(key, value):
            if not any(f"{leaf}.".startswith(f"{other.lstrip('+~')}.") for other in anywhere):
                continue
            setting = [_overruling(arm.settings, leaf) for arm in arms]
            if first := setting[0] if all(setting) else None:
                where = file.line(*arms[0].places[first])
                raise RequestError(f"{file.at('overrides', key)}: every arm sets {first} itself ({where}); drop one")


def overlap(a: Settings, b: Settings) -> str | None:
    """The key of `a` of which one value would overrule the other's in `b`, if there is one."""
    theirs = [leaf for key, value in b.items() for leaf in _leaves(key, value)]
    for key, value in a.items():
        for mine in _leaves(key, value):
            if any(mine == leaf or f"{mine}.".startswith(f"{leaf}.") or leaf.startswith(f"{mine}.") for leaf in theirs):
                return key
    return None


def _overruling(settings: Settings, leaf: str) -> str | None:
    """The key by which settings replace the whole of what an override says at a leaf."""
    for key, value in settings.items():
        if any(f"{leaf}.".startswith(f"{mine}.") for mine in _leaves(key, value)):
            return key
    return None


def _leaves(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _leaves(f"{key}.{name}", item)
    else:
        yield key.lstrip("+~")
