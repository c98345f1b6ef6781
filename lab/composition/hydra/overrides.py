"""Overrides in Hydra's grammar. An override either chooses an option of a group or sets a value."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from lab.composition.hydra import groups
from lab.composition.plain import Plain, leaves, select
from lab.refusals import RequestError, Where, one_line


class GroupChoice(NamedTuple):
    """An override that chooses an option of a group: `model/heads=mha`."""

    key: str
    text: str


class ValueOverride(NamedTuple):
    """An override that sets a value; DELETED for an override that deletes it."""

    key: str
    value: object
    text: str


@dataclass(frozen=True)
class Overrides:
    """Parsed overrides, in order.

    Attributes:
        where: the place of the overrides; empty for the command line.
        choices: overrides of groups.
        values: overrides of values.
    """

    where: Where
    choices: tuple[GroupChoice, ...]
    values: tuple[ValueOverride, ...]

    def apply(self, config: DictConfig) -> None:
        """Set the values in a composed configuration, in place. Names and types are checked later.

        Raises:
            RequestError: a value can't be set there.
        """
        for key, value, text in self.values:
            try:
                if value is DELETED:
                    parent, _, last = key.rpartition(".")
                    holder = OmegaConf.select(config, parent) if parent else config
                    del holder[last]
                else:
                    OmegaConf.update(config, key, value, merge=True, force_add=True)
            except Exception as error:
                raise RequestError(f"cannot be applied here: {one_line(error)}", where=self.place(text)) from None

    def patch(self, plain: Plain) -> bool:
        """Set the values in a configuration of dicts and lists, in place: like `apply`, but many times faster.

        Returns:
            False if an override needs OmegaConf. The configuration is then incomplete and must be discarded.
        """
        return all(_patch(plain, key, value) for key, value, _ in self.values)

    def setting(self, path: str) -> str | None:
        """The text of the last override that sets a path, or a path above or below it; None if none does."""
        for key, _, text in reversed(self.values):
            if key == path or path.startswith((f"{key}.", f"{key}[")) or key.startswith(f"{path}."):
                return text
        return None

    def sets(self, path: str) -> bool:
        """Whether an override sets exactly this path, alone or within a mapping."""
        return any(path in leaves(key, value) or path == key for key, value, _ in self.values)

    def choice(self, path: str) -> str | None:
        """The text of the last override that chooses the component of a slot; None if none does."""
        group = path.replace(".", "/")
        texts = [choice.text for choice in self.choices if choice.key == group]
        return texts[-1] if texts else None

    def place(self, text: str) -> Where:
        """The place of one of these overrides."""
        return replace(self.where, override=text)


class _Deleted:
    def __repr__(self) -> str:
        return "deleted"


DELETED = _Deleted()


def parse(texts: Sequence[str], where: Where = Where()) -> Overrides:  # noqa: B008
    """Parse overrides.

    Args:
        texts: the overrides.
        where: their place; empty for the command line.
    Raises:
        RequestError: an override can't be parsed, or names an unknown group or option; with the nearest valid name.
    """
    options_by_group = groups.groups()
    choices, values = [], []
    for text in texts:
        place = replace(where, override=text)
        override = _parse(text, place)
        key = override.key_or_group
        if override.is_sweep_override():
            fix = "write a file in sweeps/ and submit it"
            raise RequestError("several values need a sweep", kind="unsupported", where=place, fix=fix)
        if key.split(".")[0] == "hydra" or key.startswith("hydra/"):
            raise RequestError("Hydra's own settings have no effect here", kind="unsupported", where=place)
        value = DELETED if override.is_delete() else _plain(override.value())
        if key in options_by_group and not isinstance(value, Mapping):
            if value is not DELETED and str(value) not in options_by_group[key]:
                problem, names = f"{key} has no option '{value}'", tuple(options_by_group[key])
                raise RequestError(problem, kind="not_found", where=place, given=str(value), expected=names)
            choices.append(GroupChoice(key, text))
            continue
        if "/" in key:
            problem = f"no group is called '{key}'"
            raise RequestError(problem, kind="unknown_key", where=place, given=key, expected=tuple(options_by_group))
        _refuse_choice_by_value(key, value, place)
        values.append(ValueOverride(key, value, text))
    return Overrides(where, tuple(choices), tuple(values))


_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z_][A-Za-z0-9_-]*)*")


def _patch(plain: Plain, key: str, value: object) -> bool:
    if not _PLAIN_KEY.fullmatch(key) or not _is_plain(value):
        return False
    parent, _, last = key.rpartition(".")
    holder = select(plain, parent)
    if not isinstance(holder, dict) or isinstance(holder.get(last), dict):
        return False
    holder[last] = list(value) if isinstance(value, list) else value
    return True


def _is_plain(value: object) -> bool:
    if isinstance(value, str):
        return "$" not in value and value != "???"
    return all(map(_is_plain, value)) if type(value) is list else value is None or type(value) in (bool, int, float)


@lru_cache(maxsize=65536)
def _grammar(text: str) -> Override:
    return OverridesParser.create().parse_override(text)


def _parse(text: str, place: Where) -> Override:
    try:
        return _grammar(text)
    except HydraException as error:
        raise RequestError(f"cannot be read, expected key=value: {one_line(error)}", where=place) from None


def _refuse_choice_by_value(key: str, value: object, place: Where) -> None:
    slot = key.removesuffix(".name")
    if slot in groups.slots() and (key.endswith(".name") or isinstance(value, str)):
        problem = f"choose a component by its group: {slot.replace('.', '/')}={value}"
        raise RequestError(problem, kind="unknown_key", where=place)
    if key == "name":
        raise RequestError("an experiment has the name of its file", kind="unknown_key", where=place)


def _plain(value: object) -> object:
    match value:
        case QuotedString():
            return value.text
        case dict():
            return {str(_plain(key)): _plain(item) for key, item in value.items()}
        case list():
            return [_plain(item) for item in value]
    return value
