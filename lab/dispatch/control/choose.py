"""The launcher that a command line asks for, with its options; what it doesn't have is refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lab.dispatch.launchers import registry
from lab.dispatch.launchers.base import Launcher, LauncherArguments
from lab.dispatch.launchers.options import PREFIX, key_of
from lab.refusals import RequestError, Where

Flags = Mapping[str, str | int | None]
"""Options of a command that not every launcher has, as they are typed: `{"--threads": 2}`; None, False: not given."""


def choose(name: str, overrides: Sequence[str] = (), flags: Flags | None = None) -> Launcher:
    """The launcher of this name, with the options of a command line.

    Args:
        overrides: `launcher.KEY=VALUE`.
        flags: the command's own options.
    Raises:
        RequestError: there is no such launcher, it lacks an option, or an option has a wrong value.
    """
    launcher = registry.load(name)
    refuse_missing(launcher, overrides, flags or {})
    return launcher.from_arguments(arguments(overrides, flags or {}))


def refuse_missing(launcher: type[Launcher], overrides: Sequence[str], flags: Flags) -> None:
    """Refuse options that other launchers have and this one hasn't.

    Raises:
        RequestError: naming the option, and what to use instead.
    """
    for flag in _given(flags):
        if flag not in launcher.flags:
            raise _missing(launcher, Where(key=flag), fitting((), {flag: flags[flag]}))
    for text in overrides:
        others = [] if key_of(text) in launcher.option_names() else fitting([text], {})
        if others:
            raise _missing(launcher, Where(override=text), others)


def fitting(overrides: Sequence[str], flags: Flags) -> list[type[Launcher]]:
    """The launchers that have all these options."""
    launchers = [registry.load(name) for name in registry.names()]
    for text in overrides:
        launchers = [launcher for launcher in launchers if key_of(text) in launcher.option_names()]
    return [launcher for launcher in launchers if _given(flags).keys() <= launcher.flags]


def the_fitting(overrides: Sequence[str], flags: Flags) -> list[type[Launcher]]:
    """As `fitting`, where there has to be one.

    Raises:
        RequestError: no launcher has all these options.
    """
    launchers = fitting(overrides, flags)
    if launchers:
        return launchers
    known = {option for name in registry.names() for option in registry.load(name).option_names()}
    for text in overrides:
        if key_of(text) not in known:
            expected = tuple(sorted(known))
            raise RequestError("no launcher has such an option", override=text, given=key_of(text), expected=expected)
    raise RequestError("no launcher has all these options", kind="conflict", given=[*_given(flags), *overrides])


def arguments(overrides: Sequence[str], flags: Flags) -> LauncherArguments:
    """What a command line says about a launcher's options: `--threads 2` is `launcher.threads=2`."""
    settings = flags.get("--launcher")
    as_overrides = [
        f"{PREFIX}{flag.removeprefix('--').replace('-', '_')}={flags[flag]}"
        for flag in ("--max-parallel", "--threads")
        if flags.get(flag) is not None
    ]
    return LauncherArguments(None if settings is None else str(settings), (*overrides, *as_overrides))


def _given(flags: Flags) -> dict[str, str | int]:
    return {flag: value for flag, value in flags.items() if value is not None and value is not False}


def _missing(launcher: type[Launcher], where: Where, others: Sequence[type[Launcher]]) -> RequestError:
    instead = launcher.alternatives.get(where.key or "")
    fix = f"use {instead}" if instead else f"it goes with --on {' or '.join(other.name for other in others)}"
    return RequestError(f"the launcher '{launcher.name}' has no such option", kind="usage", where=where, fix=fix)
