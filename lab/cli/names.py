"""A cache of the names that completion offers.

Asking the registry imports torch, which takes a second or more at each press of the Tab key. So the names are cached.
The cache key covers every file that could change a name: the lab's sources, `lab_components.py`, the packages that
register components, and the YAML files of configuration groups.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.code_version import PACKAGE
from lab.composition import extensions
from lab.composition.search_path import roots
from lab.data.cache import default_cache, write_atomically


@dataclass(frozen=True)
class KnownKey:
    """A key of the configuration, for completion. `lab.composition.hydra.keys.Key` describes the fields."""

    path: str
    values: tuple[str, ...]
    group: str | None
    components: tuple[str, ...]


@dataclass(frozen=True)
class KnownNames:
    """What completion offers.

    Attributes:
        groups: configuration group → its options.
        keys: the keys of an experiment's configuration.
        evaluators: the names of the evaluators.
    """

    groups: dict[str, list[str]]
    keys: tuple[KnownKey, ...]
    evaluators: list[str]

    def as_json(self) -> str:
        """The names as text for the cache."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> KnownNames:
        """The names from the text of `as_json`.

        Raises:
            ValueError, KeyError, TypeError: the text is something else.
        """
        content = json.loads(text)
        keys = (
            KnownKey(**{**key, "values": tuple(key["values"]), "components": tuple(key["components"])})
            for key in content["keys"]
        )
        return cls(content["groups"], tuple(keys), content["evaluators"])


def known_names() -> KnownNames:
    """The names, from the cache where none of the files has changed.

    Raises:
        RequestError: the user's own components can't be loaded.
    """
    path = default_cache() / "names" / f"{_key()}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        return KnownNames.from_json(path.read_text(encoding="utf-8"))
    names = _registered_names()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        for stale in sorted(path.parent.glob("*.json"), key=lambda file: file.stat().st_mtime)[:-_MOST_FILES]:
            stale.unlink(missing_ok=True)
        write_atomically(path, names.as_json())
    return names


_MOST_FILES = 20  # in the cache; older ones are deleted


def _registered_names() -> KnownNames:
    from components import registry
    from lab.composition.hydra.groups import groups
    from lab.composition.hydra.keys import keys

    extensions.load()
    known_keys = tuple(KnownKey(key.path, key.values, key.group, key.components) for key in keys())
    return KnownNames(groups(), known_keys, registry.names("evaluator"))


def _key() -> str:
    digest = hashlib.sha256(f"{sys.version} {sys.prefix} {Path.cwd()}".encode())
    for path in _files():
        with suppress(OSError):
            stat = path.stat()
            digest.update(f"{path} {stat.st_mtime_ns} {stat.st_size}\n".encode())
    return digest.hexdigest()


def _files() -> Iterator[Path]:
    """The files that could change a name."""
    yield from sorted(PACKAGE.rglob("*.py"))
    yield Path.cwd() / extensions.FILE
    for root in roots("experiments"):
        yield from sorted(root.rglob("*.yaml"))
    for name in ["components", *(point.module.partition(".")[0] for point in extensions.entry_points())]:
        with suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(name)
            for place in (spec.submodule_search_locations or ()) if spec else ():
                yield from sorted(Path(place).rglob("*.py"))
            if spec is not None and spec.origin is not None:
                yield Path(spec.origin)
