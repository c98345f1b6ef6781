"""Names of arms: short, unique, and safe as folder names."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping

from lab.planning.config_paths import path_parts
from lab.planning.language.hydra_values import hydra_value
from lab.records import LONGEST_NAME, PLAN_FILE, check_name

_BRACKETS = re.compile(r"[\[\]{}'\"]")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.=,+\-]+")


def arm_name(settings: Mapping[str, object]) -> str:
    """A folder name from what an arm sets: `heads=mha,span=global`."""
    short = short_keys(settings)
    return joined_name(name_part(short[key], value) for key, value in settings.items())


def joined_name(parts: Iterable[str]) -> str:
    """Join the parts of an arm's name. A name that is too long is cut, and ends with a hash of the full name."""
    name = ",".join(parts).strip("-.") or "base"
    return name if len(name) <= LONGEST_NAME else hashed_name(name, name)


def name_part(key: str, value: object) -> str:
    """The part of an arm's name that one axis adds: `heads=mha`."""
    return _UNSAFE.sub("-", _BRACKETS.sub("", f"{key}={hydra_value(value)}"))


def hashed_name(name: str, full_name: str) -> str:
    """A name that ends with a hash of the full name, and is short enough for a folder."""
    digest = hashlib.sha256(full_name.encode()).hexdigest()[:8]
    return f"{name[: LONGEST_NAME - 9].rstrip('-.,=')}-{digest}"


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
