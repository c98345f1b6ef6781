"""Refusals of settings without effect: a key that is set twice, and seeds or axes in the wrong place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from lab.planning.arms.arm import Arm
from lab.planning.language.axes import sweep_function
from lab.planning.language.read import SweepFile
from lab.refusals import RequestError


def check_settings(file: SweepFile) -> None:
    """Refuse to set the seed, and several values where one is expected.

    Raises:
        RequestError: at the setting.
    """
    for setting in file.sweep.settings():
        if setting.is_axis:
            continue
        where = file.at(*setting.keys, setting.key)
        if setting.key.lstrip("+~") == "seed":
            raise RequestError("set the seeds once for the whole sweep: `seeds: [0, 1, 2]`", where=where)
        if isinstance(setting.value, str) and (function := sweep_function(setting.value)):
            problem = f"{function} gives several values: put the axis under grid"
            raise RequestError(problem, where=where, given=setting.value)


def check_overrides(arms: Sequence[Arm], file: SweepFile) -> None:
    """Refuse an override that every arm replaces: it would change nothing.

    Raises:
        RequestError: at the override, with the line of an arm that replaces it.
    """
    set_anywhere = {bare_path(key) for arm in arms for key in arm.settings}
    for key, value in file.sweep.overrides.items():
        for path in set_paths(key, value):
            if not any(_is_within(path, other) for other in set_anywhere):
                continue
            keys = [_replacing_key(arm.settings, path) for arm in arms]
            if all(keys) and (first := keys[0]):
                place = file.line(*arms[0].places[first])
                problem = f"every arm sets {first} itself ({place})"
                raise RequestError(problem, kind="conflict", where=file.at("overrides", key), fix="drop one")


def overlap(settings: Mapping[str, object], other: str) -> str | None:
    """The first key of the settings that sets the same value as another key, or a part of it; None if none does."""
    for key, value in settings.items():
        if any(
            _is_within(path, bare_path(other)) or _is_within(bare_path(other), path) for path in set_paths(key, value)
        ):
            return key
    return None


def set_paths(key: str, value: object) -> Iterator[str]:
    """The configuration paths to which a setting assigns a value."""
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from set_paths(f"{key}.{name}", item)
    else:
        yield bare_path(key)


def bare_path(key: str) -> str:
    """An override's key without Hydra's `+` or `~` prefix."""
    return key.lstrip("+~")


def _replacing_key(settings: Mapping[str, object], path: str) -> str | None:
    """The key of the settings that replaces everything below a path; None if none does."""
    for key, value in settings.items():
        if any(_is_within(path, own) for own in set_paths(key, value)):
            return key
    return None


def _is_within(path: str, above: str) -> bool:
    return f"{path}.".startswith(f"{above}.")
