"""A cache of the names that completion offers.

Asking the registry imports torch, which takes seconds. So the names are cached. A cache file is valid while none of the
files has changed that could change a name: the lab's sources, `lab_components.py`, the packages that register
components, and the YAML files of configuration groups. After a change, completion answers with the previous names at
once, and a background process caches the new ones for the next press of the Tab key.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
import time
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
    """The names from the cache. If it has previous names only, these are returned, and a background process starts that
    caches the new ones.

    Raises:
        RequestError: nothing is cached, and the user's own components can't be loaded.
    """
    folder, place, key = _cache_folder(), _place(), _key()
    if (names := _read(folder / f"{place}-{key}.json")) is not None:
        return names
    for earlier in _newest_first(folder, place) or _newest_first(folder, _SHIPPED):
        if (names := _read(earlier)) is not None:
            refresh_in_background()
            return names
    return refresh()


def refresh() -> KnownNames:
    """Ask the registry for the names, and cache them.

    Raises:
        RequestError: the user's own components can't be loaded.
    """
    # The key is computed first: a file that changes meanwhile then makes this cache file stale.
    folder, place, key = _cache_folder(), _place(), _key()
    names = _registered_names()
    with suppress(OSError):
        write_atomically(folder / f"{place}-{key}.json", names.as_json())
        for files in (_newest_first(folder, place)[_MOST_FILES:], _newest_first(folder, "")[_MOST_FILES_IN_ALL:]):
            for stale in files:
                stale.unlink(missing_ok=True)
    return names


def refresh_in_background() -> None:
    """Start a process that caches the names, unless they are cached or such a process was started a moment ago."""
    folder, name = _cache_folder(), f"{_place()}-{_key()}"
    if (folder / f"{name}.json").exists():
        return
    mark = folder / f"{name}.asked"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.asked"):
            if time.time() - old.stat().st_mtime > _ASK_AGAIN:
                old.unlink(missing_ok=True)
        mark.touch(exist_ok=False)
        command = [sys.executable, "-m", "lab.cli.names"]
        # In a session of its own, so that Ctrl-C and the end of the terminal don't stop it.
        nowhere = subprocess.DEVNULL
        subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)


_MOST_FILES = 2  # of one place
_MOST_FILES_IN_ALL = 20
_ASK_AGAIN = 60.0  # seconds; a refresh takes a few
_SHIPPED = "shipped"
"""Stands for every working folder without components or experiments of its own."""


def _cache_folder() -> Path:
    return default_cache() / "names" / hashlib.sha256(f"{sys.version} {sys.prefix}".encode()).hexdigest()[:16]


def _place() -> str:
    """What stands for the working folder in the cache."""
    folder = Path.cwd()
    if not (folder / extensions.FILE).exists() and not (folder / "experiments").is_dir():
        return _SHIPPED
    return hashlib.sha256(str(folder).encode()).hexdigest()[:16]


def _read(path: Path) -> KnownNames | None:
    try:
        return KnownNames.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _newest_first(folder: Path, place: str) -> list[Path]:
    """The cache files of a place, or of all places if it is empty."""
    stamps = []
    for path in folder.glob(f"{place}*.json"):
        with suppress(OSError):
            stamps.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(stamps, reverse=True)]


def _registered_names() -> KnownNames:
    from components import registry
    from lab.composition.hydra.groups import groups
    from lab.composition.hydra.keys import keys

    extensions.load()
    known_keys = tuple(KnownKey(key.path, key.values, key.group, key.components) for key in keys())
    return KnownNames(groups(), known_keys, registry.names("evaluator"))


def _key() -> str:
    """A digest of the files that could change a name."""
    digest = hashlib.sha256()
    for path in _files():
        with suppress(OSError):
            stat = path.stat()
            digest.update(f"{path} {stat.st_mtime_ns} {stat.st_size}\n".encode())
    return digest.hexdigest()[:32]


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


if __name__ == "__main__":  # the background process
    refresh()
