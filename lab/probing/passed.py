"""Which probes have passed: remembered in this process and in the lab's cache, by what was probed and by all its code.

A probe that failed is not remembered: it is repeated, and says again what it measured.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

import torch

from components.registry import Component
from lab.code_version import digest as code_digest
from lab.composition import extensions
from lab.data.cache import default_cache, write_atomically

_passed: set[str] = set()


def key(what: object, components: dict[str, Component]) -> str:
    """Of a probe: a digest of what is probed, of the components' versions and code, and of what runs them.

    Args:
        what: as JSON.
    """
    versions = {f"{part.kind}/{part.name}": part.version for part in components.values()}
    made_by = [code_digest(), extensions.digest(components), torch.__version__]
    text = json.dumps([what, versions, made_by], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def has_passed(key: str) -> bool:
    """Whether that probe passed before, here or in another process."""
    if key not in _passed and _file(key).is_file():
        _passed.add(key)
    return key in _passed


def remember(key: str) -> None:
    """That the probe passed. A cache that can't be written costs the probe in each process."""
    _passed.add(key)
    with suppress(OSError):
        write_atomically(_file(key), "")


def _file(key: str) -> Path:
    return default_cache() / "probes" / key[:2] / key
