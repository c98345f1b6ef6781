"""Overrides in Hydra's grammar, parsed and told apart: some choose a group's option, the others set a value."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from components.registry import suggestion
from lab.composition.hydra import groups
from lab.refusals import RequestError


@dataclass(frozen=True)
class Overrides:
    """Parsed overrides.

    Attributes:
        source: where they stand, for messages: "sweeps/x.yaml: arm 'mha'"; empty for the command line.
        choices: overrides of groups, as Hydra takes them: `model/heads=mha`.
        values: every value override as (key, value, text), in order; a deletion has the value DELETED.
    """

    source: str
    choices: tuple[str, ...]
    values: tuple[tuple[str, Any, str], ...]

    def apply(self, config: DictConfig) -> None:
        """Set the values in a composed configuration, in place. What they name is checked later, with its type."""
        for key, value, text in self.values:
            try:
                if value is DELETED:
                    parent, _, last = key.rpartition(".")
                    holder = OmegaConf.select(config, parent) if parent else config
                    del holder[last]
                else:
                    OmegaConf.update(config, key, value, merge=True, force_add=True)
            except Exception as error:
                raise RequestError(f"{self.describe(text)}: cannot be applied here: {one_line(error)}") from None

    def patch(self, plain: dict[str, Any]) -> bool:
        """Set the values in a configuration of dicts and lists, in place, as `apply` would and many times faster.

        Returns:
            False where only OmegaConf can say what an override comes to; the configuration is then of no use.
        """
        return all(_patch(plain, key, value) for key, value, _ in self.values)

    def setting(self, path: str) -> str | None:
        """The last override that sets a path, something above it, or something below it; described, or None."""
        for key, _, text in reversed(self.values):
            if key == path or path.startswith((f"{key}.", f"{key}[")) or key.startswith(f"{path}."):
                return self.describe(text)
        return None

    def sets(self, path: str) -> bool:
        """Whether an override sets precisely this path (or gives it within a mapping)."""
        return any(path in _leaves(key, value) or path == key for key, value, _ in self.values)

    def chosen(self, path: str) -> str | None:
        """The override that chooses a slot's component, described, or None."""
        group = path.replace(".", "/")
        chosen = [text for text in self.choices if text.lstrip("+~").split("=")[0].split("@")[0] == group]
        return self.describe(chosen[-1]) if chosen else None

    def describe(self, text: str) -> str:
        """An override for a message, with where it stands."""
        return f"{self.source}: override '{text}'" if self.source else f"override '{text}'"


class _Deleted:
    def __repr__(self) -> str:
        return "deleted"


DELETED = _Deleted()


def parse(texts: Sequence[str], source: str = "") -> Overrides:
    """Parse overrides and refuse those that name no group or no option of it.

    Raises:
        RequestError: naming the override, what was expected, and the nearest valid name.
    """
    known = groups.groups()
    choices, values = [], []
    for text in texts:
        override = _parse(text, source)
        describe = f"{source}: override '{text}'" if source else f"override '{text}'"
        key = override.key_or_group
        if override.is_sweep_override():
            raise RequestError(f"{describe}: several values make a sweep: write a file in sweeps/ and submit it")
        if key.split(".")[0] == "hydra" or key.startswith("hydra/"):
            raise RequestError(f"{describe}: Hydra's own settings have no effect here")
        value = DELETED if override.is_delete() else _plain(override.value())
        if key in known and not isinstance(value, Mapping):
            if value is not DELETED and str(value) not in known[key]:
                raise RequestError(f"{describe}: {key} has no option '{value}'{suggestion(str(value), known[key])}")
            choices.append(text)
            continue
        if "/" in key:
            raise RequestError(f"{describe}: no group is called '{key}'{suggestion(key, known)}")
        _refuse_choice_by_value(key, value, describe)
        values.append((key, value, text))
    return Overrides(source, tuple(choices), tuple(values))


def copied(plain: Any) -> Any:
    """A copy of dicts and lists and what is in them, all of their own."""
    if isinstance(plain, dict):
        return {key: copied(value) for key, value in plain.items()}
    return [copied(value) for value in plain] if isinstance(plain, list) else plain


def one_line(error: Exception) -> str:
    """A library's message on one line."""
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())


_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z_][A-Za-z0-9_-]*)*")


def _patch(plain: dict[str, Any], key: str, value: Any) -> bool:
    if not _PLAIN_KEY.fullmatch(key) or not _is_plain(value):
        return False
    *parents, last = key.split(".")
    holder: Any = plain
    for parent in parents:
        holder = holder.get(parent)
        if not isinstance(holder, dict):
            return False
    if isinstance(holder.get(last), dict):
        return False
    holder[last] = copied(value)
    return True


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return "$" not in value and value != "???"
    return all(map(_is_plain, value)) if type(value) is list else value is None or type(value) in (bool, int, float)


@lru_cache(maxsize=65536)
def _grammar(text: str) -> Override:
    return OverridesParser.create().parse_override(text)


def _parse(text: str, source: str) -> Override:
    try:
        return _grammar(text)
    except HydraException as error:
        where = f"{source}: " if source else ""
        raise RequestError(f"{where}override '{text}' cannot be read, expected key=value: {one_line(error)}") from None


def _refuse_choice_by_value(key: str, value: Any, describe: str) -> None:
    slots = groups.slots()
    slot = key.removesuffix(".name")
    if slot in slots and (key.endswith(".name") or isinstance(value, str)):
        raise RequestError(f"{describe}: a component is chosen by its group: {slot.replace('.', '/')}={value}")
    if key == "name":
        raise RequestError(f"{describe}: an experiment's name is its file's")


def _plain(value: Any) -> Any:
    match value:
        case QuotedString():
            return value.text
        case dict():
            return {str(_plain(k)): _plain(v) for k, v in value.items()}
        case list():
            return [_plain(item) for item in value]
    return value


def _leaves(key: str, value: Any) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield key
        return
    for name, item in value.items():
        yield from _leaves(f"{key}.{name}", item)
