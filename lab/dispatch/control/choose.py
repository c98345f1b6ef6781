"""Creates the launcher that a command line names. Options that the launcher doesn't have are refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lab.dispatch.launchers import registry
from lab.dispatch.launchers.base import Launcher, LauncherArguments
from lab.dispatch.launchers.options import PREFIX, key_of
from lab.refusals import RequestError, Where

Flags = Mapping[str, str | int | None]
"""Option of a command that not every launcher has → value, such as `{"--threads": 2}`. None or False: not given."""


def choose(name: str, overrides: Sequence[str] = (), flags: Flags | None = None) -> Launcher:
    """The launcher of this name, with the options of a command line.

    Args:
        name: the launcher's name.
        overrides: options in the form `launcher.KEY=VALUE`.
        flags: the command's own options.
    Raises:
        RequestError: there is no such launcher, it lacks an option, or an option has a wrong value.
    """
    launcher = registry.load(name)
    refuse_missing(launcher, overrides, flags or {})
    return launcher.from_arguments(arguments(overrides, flags or {}))


def refuse_missing(launcher: type[Launcher], overrides: Sequence[str], flags: Flags) -> None:
    """Refuse options that other launchers have and this one doesn't.

    Raises:
        RequestError: names the option, and what to use instead.
    """
    for flag in _without_unset(flags):
        if flag not in launcher.flags:
            raise _missing(launcher, Where(key=flag), launchers_with((), {flag: flags[flag]}))
    for text in overrides:
        others = [] if key_of(text) in launcher.option_names() else launchers_with([text], {})
        if others:
            raise _missing(launcher, Where(override=text), others)


def launchers_with(overrides: Sequence[str], flags: Flags) -> list[type[Launcher]]:
    """The launchers that have all these options."""
    launchers = [registry.load(name) for name in registry.names()]
    for text in overrides:
        launchers = [launcher for launcher in launchers if key_of(text) in launcher.option_names()]
    return [launcher for launcher in launchers if _without_unset(flags).keys() <= launcher.flags]


def require_launchers_with(overrides: Sequence[str], flags: Flags) -> list[type[Launcher]]:
    """The launchers that have all these options, of which there is at least one.

    Raises:
        RequestError: no launcher has all these options.
    """
    launchers = launchers_with(overrides, flags)
    if launchers:
        return launchers
    option_names = {option for name in registry.names() for option in registry.load(name).option_names()}
    for text in overrides:
        if key_of(text) not in option_names:
            expected = tuple(sorted(option_names))
            raise RequestError("no launcher has such an option", override=text, given=key_of(text), expected=expected)
    raise RequestError("no launcher has all these options", kind="conflict", given=[*_without_unset(flags), *overrides])


def arguments(overrides: Sequence[str], flags: Flags) -> LauncherArguments:
    """A launcher's options from a command line. `--threads 2` becomes `launcher.threads=2`."""
    settings = flags.get("--launcher")
    as_overrides = [
        f"{PREFIX}{flag.removeprefix('--').replace('-', '_')}={flags[flag]}"
        for flag in ("--max-parallel", "--threads")
        if flags.get(flag) is not None
    ]
    return LauncherArguments(None if settings is None else str(settings), (*overrides, *as_overrides))


def _without_unset(flags: Flags) -> dict[str, str | int]:
    return {flag: value for flag, value in flags.items() if value is not None and value is not False}


def _missing(launcher: type[Launcher], where: Where, others: Sequence[type[Launcher]]) -> RequestError:
    instead = launcher.alternatives.get(where.key or "")
    fix = f"use {instead}" if instead else f"use it with --on {' or '.join(other.name for other in others)}"
    return RequestError(f"the launcher '{launcher.name}' has no such option", kind="usage", where=where, fix=fix)
