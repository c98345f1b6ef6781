"""The arms of a sweep: their overrides in Hydra's grammar, and names that are short, unique and safe as folders."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from lab.records.folder import LONGEST_NAME

_BRACKETS = re.compile(r"[\[\]{}'\"]")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.=,+\-]+")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_\-]*")
_ESCAPED = re.compile(r"([\\()\[\]{}:=, \t])")


@dataclass(frozen=True)
class Arm:
    """One cell of a sweep, seeds aside: its name and what it sets.

    Attributes:
        settings: on top of the experiment and the sweep's `overrides`: {"model/heads": "mha"}.
        where: where it is written, for messages: "sweeps/x.yaml:7: arm 'mha'".
        named: the arm of the file that it is a cell of; empty where only axes are written.
        cell: axis → its value, for the axes that apply to it.
        places: key of the settings → the keys of the file below which it stands.
    """

    name: str
    settings: Mapping[str, Any]
    where: str = ""
    named: str = ""
    cell: Mapping[str, Any] = field(default_factory=dict)
    places: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def overrides(self) -> tuple[str, ...]:
        """The settings as Hydra overrides."""
        return tuple(f"{key}={hydra_value(value)}" for key, value in self.settings.items())


def hydra_value(value: Any) -> str:
    """A YAML value as Hydra's override grammar writes one value.

    A text is in that grammar already (`[a,b]` is a list, `${train.context}` refers), and is quoted where it says
    nothing in it, or would be several values.
    """
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case Mapping():
            items = ((_ESCAPED.sub(r"\\\1", str(key)), hydra_value(item)) for key, item in value.items())
            return "{" + ",".join(f"{key}:{item}" for key, item in items) + "}"
        case str():
            return value if _PLAIN.fullmatch(value) else _text(value)
        case Sequence():
            return "[" + ",".join(hydra_value(item) for item in value) + "]"
    return str(value)


@lru_cache(maxsize=4096)
def _text(text: str) -> str:
    if text and text == text.strip():
        try:
            override = OverridesParser.create().parse_override(f"key={text}")
            if not override.is_sweep_override():  # a backslash at the end would escape the comma after it in a list
                return QuotedString(str(override.value()), Quote.single).with_quotes() if text[-1] == "\\" else text
        except HydraException:
            pass
    return QuotedString(text, Quote.single).with_quotes()


def arm_name(settings: Mapping[str, Any]) -> str:
    """A folder name from what an arm sets: `heads=mha,span=global`."""
    short = short_keys(settings)
    return shortened(",".join(name_part(short[key], value) for key, value in settings.items()).strip("-.") or "base")


def name_part(key: str, value: Any) -> str:
    """One axis of an arm's name: `heads=mha`."""
    return _UNSAFE.sub("-", _BRACKETS.sub("", f"{key}={hydra_value(value)}"))


def shortened(name: str) -> str:
    """A name as it is, or the beginning of a long one with a hash of the whole."""
    return name if len(name) <= LONGEST_NAME else hashed(name, name)


def hashed(name: str, whole: str) -> str:
    """A name with a hash of all that it stands for, no longer than a folder's may be."""
    digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
    return f"{name[: LONGEST_NAME - 9].rstrip('-.,=')}-{digest}"


def key_parts(key: str) -> list[str]:
    """The parts of a configuration path or a group: `model/heads` and `model.heads` alike."""
    return re.split(r"[./]", key)


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """Each key's last part, or as many of its last parts as tell it from the others."""
    keys = list(keys)
    parts = {key: key_parts(key) for key in keys}
    short = {}
    for key in keys:
        for n in range(1, len(parts[key]) + 1):
            if sum(other[-n:] == parts[key][-n:] for other in parts.values()) == 1:
                break
        short[key] = ".".join(parts[key][-n:])
    return short
