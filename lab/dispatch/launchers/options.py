"""Launcher options from the command line: `launcher.KEY=VALUE`, converted to the fields of a dataclass."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar, get_type_hints

from lab.refusals import RequestError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from lab.dispatch.launchers.base import LauncherArguments

PREFIX = "launcher."

Options = TypeVar("Options", bound="DataclassInstance")


def split(texts: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split overrides into those of the experiment and those of the launcher (`launcher.partition=gpu`)."""
    of_launcher = tuple(text for text in texts if text.lstrip("+~").startswith(PREFIX) or text.startswith("launcher="))
    return tuple(text for text in texts if text not in of_launcher), of_launcher


def key_of(override: str) -> str:
    """The option that an override sets: `partition` for `launcher.partition=gpu`."""
    return override.lstrip("+~").removeprefix(PREFIX).partition("=")[0].partition(".")[0]


def parse(override: str) -> tuple[str, object]:
    """The dotted key and the value of an override.

    Raises:
        RequestError: the override doesn't set an option of a launcher.
    """
    from lab.composition.hydra import overrides as hydra

    if override.startswith("launcher="):
        fix = f"--launcher {override.partition('=')[2] or 'NAME'} names a file of settings"
        raise RequestError("sets no option", kind="usage", override=override, fix=fix)
    ((key, value, _),) = hydra.parse([override]).values
    if value is hydra.DELETED or override.startswith("+"):
        fix = "null leaves an option as the launcher has it"
        raise RequestError(override=override, expected=f"{key}=value", given=override, fix=fix)
    return key.removeprefix(PREFIX), value


def read(kind: type[Options], arguments: LauncherArguments, launcher: str) -> Options:
    """A launcher's options from the command line alone, for a launcher without files of settings.

    Args:
        kind: the dataclass of the options.
        arguments: of the command line.
        launcher: its name, for messages.
    Raises:
        RequestError: for `--launcher`, an unknown option or a wrong value.
    """
    from lab.composition.convert import convert

    if arguments.settings is not None:
        problem = f"the launcher '{launcher}' has no files of settings"
        raise RequestError(problem, kind="usage", key=f"--launcher {arguments.settings}")
    types = get_type_hints(kind)
    names = tuple(option.name for option in dataclasses.fields(kind))
    values: dict[str, object] = {}
    for text in arguments.overrides:
        key, value = parse(text)
        if key not in names:
            problem = f"the launcher '{launcher}' has no such option"
            raise RequestError(problem, kind="unknown_key", override=text, given=key, expected=names)
        try:
            values[key] = convert(types[key], value, key)
        except RequestError as error:
            raise error.within(override=text) from None
    return kind(**values)
