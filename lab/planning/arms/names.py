"""Names of arms: short, unique, and safe as folder names."""

from __future__ import annotations

import hashlib
import itertools
import re
import unicodedata
from collections.abc import Iterable, Mapping

from lab.planning.config_paths import path_parts
from lab.planning.language.hydra_values import hydra_value
from lab.records import LONGEST_NAME, PLAN_FILE, check_name

_BRACKETS = re.compile(r"[\[\]{}'\"]")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.=,+\-]+")


LONGEST_SHORT_NAME = 48
"""The longest name of a run that `lab train` makes: it fits beside the state and the loss on a line of a terminal."""

_DIGEST_LENGTH = 8


def arm_name(settings: Mapping[str, object]) -> str:
    """A folder name from what an arm sets: `heads=mha,span=global`."""
    short = short_keys(settings)
    return joined_name(name_part(short[key], value) for key, value in settings.items())


def short_arm_name(settings: Mapping[str, object]) -> str:
    """A folder name for a run of its own, of at most `LONGEST_SHORT_NAME` characters.

    It is `arm_name` where that is short enough. Otherwise it is the first settings that fit, and a digest of all:
    `tokens=200k,context=256-1f0c3a9b`.
    """
    short = short_keys(settings)
    parts = [name_part(short[key], value) for key, value in settings.items()]
    name = ",".join(parts).strip("-.") or "base"
    if len(name) <= LONGEST_SHORT_NAME:
        return name
    room = LONGEST_SHORT_NAME - _DIGEST_LENGTH - 1
    fitting = list(itertools.takewhile(lambda n: len(",".join(parts[:n])) <= room, range(1, len(parts) + 1)))
    shown = ",".join(parts[: fitting[-1]]) if fitting else parts[0][:room]
    return f"{shown.strip('-.,=')}-{_digest(name)}"


def joined_name(parts: Iterable[str]) -> str:
    """Join the parts of an arm's name. A name that is too long is cut, and ends with a hash of the full name."""
    name = ",".join(parts).strip("-.") or "base"
    return name if len(name) <= LONGEST_NAME else hashed_name(name, name)


def name_part(key: str, value: object) -> str:
    """The part of an arm's name that one axis adds: `heads=mha`."""
    return _UNSAFE.sub("-", _BRACKETS.sub("", f"{key}={hydra_value(value)}"))


def hashed_name(name: str, full_name: str) -> str:
    """A name that ends with a hash of the full name, and is short enough for a folder."""
    return f"{name[: LONGEST_NAME - _DIGEST_LENGTH - 1].rstrip('-.,=')}-{_digest(full_name)}"


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:_DIGEST_LENGTH]


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """Key → its last part, or as many of its last parts as distinguish it from the other keys."""
    parts = {key: path_parts(key) for key in keys}
    short = {}
    for key, own in parts.items():
        for n in range(1, len(own) + 1):
            if sum(other[-n:] == own[-n:] for other in parts.values()) == 1:
                break
        short[key] = ".".join(own[-n:])
    return short


def folder_key(name: str) -> str:
    """A key that is equal for names that some file systems treat as the same."""
    return name.casefold() if name.isascii() else unicodedata.normalize("NFC", name).casefold()


def check_arm_name(name: str) -> None:
    """Refuse a name that can't be an arm's folder.

    Raises:
        ValueError: with the reason.
    """
    check_name(name)
    if name != name.strip() or name.endswith("."):
        raise ValueError(f"name {name!r}: must not begin or end with a space, or end with a dot")
    if name == PLAN_FILE or len(name.encode()) > 200:
        raise ValueError(f"name {name!r}: is {'reserved for the plan' if name == PLAN_FILE else 'too long'}")
