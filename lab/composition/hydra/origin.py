"""The file and line that set a configuration key: for messages, and to distinguish a swap from a mistake."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path

import yaml

from lab.composition import memo
from lab.composition.hydra.internals import MergedFile
from lab.composition.search_path import available, display, version
from lab.refusals import Where


class Origin:
    """The files that were merged in a composition.

    Args:
        experiment: the experiment's file.
        merged: the files, in the order in which they were merged.
        files_version: the result of `search_path.version`.
    """

    def __init__(self, experiment: Path, merged: Sequence[MergedFile], files_version: str) -> None:
        self.experiment = experiment
        self._merged = tuple(merged)
        self._version = files_version
        self._settings: dict[str, tuple[Path, int] | None] = {}
        self._choices: dict[tuple[Path, str], str | None] = {}

    @cached_property
    def files(self) -> list[tuple[Path, str]]:
        """(file, package) of each file, in the order of merging: later files win."""
        files = []
        for file in self._merged:
            group, _, name = file.path.rpartition("/")
            path = self.experiment if file.is_primary else available("experiments", group).get(name)
            if path is not None:
                files.append((path, "" if file.is_primary else file.package))
        return files

    def file_of(self, package: str) -> Path | None:
        """The first file whose keys were placed at a package. For `model` it is the architecture's file."""
        return next((file for file, its_package in self.files if its_package == package), None)

    def setting(self, path: str) -> tuple[Path, int] | None:
        """The last (file, line) that set a key; None if no file did."""
        if path not in self._settings:
            self._settings[path] = self._setting(path)
        return self._settings[path]

    def _setting(self, path: str) -> tuple[Path, int] | None:
        for file, package in reversed(self.files):
            if package and path != package and not path.startswith(f"{package}."):
                continue
            keys = path.removeprefix(package).lstrip(".").split(".")
            line = _line(_nodes(file, self._version), [key for key in keys if key])
            if line is not None:
                return file, line
        return None

    def place(self, path: str) -> Where:
        """The file and line that set a key, or the experiment's file if none did."""
        setting = self.setting(path)
        return Where(display(setting[0]), setting[1]) if setting else Where(display(self.experiment))

    def choice_of(self, file: Path, group: str) -> str | None:
        """The option of a group, such as `model/heads`, that a file or its defaults choose; None if there is none."""
        if (file, group) not in self._choices:
            self._choices[file, group] = self._choice_of(file, group)
        return self._choices[file, group]

    def _choice_of(self, file: Path, group: str) -> str | None:
        package = next((package for path, package in self.files if path == file), "")
        own = package.replace(".", "/")
        for entry in reversed(_defaults(file, self._version)):
            if isinstance(entry, str):
                inherited = available("experiments", own).get(entry.lstrip("/"))
                option = self.choice_of(inherited, group) if inherited and inherited != file else None
                if option is not None:
                    return option
                continue
            for key, value in entry.items():
                name = str(key).removeprefix("override ").strip()
                full = name.lstrip("/") if name.startswith("/") or not own else f"{own}/{name}"
                if full == group:
                    return str(value)
        return None


def chooses(experiment: Path, group: str) -> bool:
    """Whether an experiment's file, or a file that it inherits, chooses an option of a group. Composes nothing."""
    return memo.cached(("chooses", experiment, group), lambda: _chooses(experiment, group))


def _chooses(experiment: Path, group: str) -> bool:
    for entry in _defaults(experiment, version()):
        if isinstance(entry, str):
            inherited = available("experiments").get(entry.lstrip("/"))
            if inherited is not None and inherited != experiment and _chooses(inherited, group):
                return True
        elif group in [str(key).removeprefix("override ").strip().lstrip("/") for key in entry]:
            return True
    return False


@lru_cache(maxsize=256)
def _defaults(file: Path, files_version: str) -> tuple[str | dict[str, object], ...]:
    content = yaml.safe_load(file.read_text()) or {}
    return tuple(entry for entry in content.get("defaults", []) if entry != "_self_")


@lru_cache(maxsize=256)
def _nodes(file: Path, files_version: str) -> yaml.Node | None:
    return yaml.compose(file.read_text())


def _line(node: yaml.Node | None, keys: list[str]) -> int | None:
    """The line, counted from 1, of a nested key in a YAML document; None if there is no such key."""
    line = None
    for key in keys:
        if not isinstance(node, yaml.MappingNode):
            return None
        item = next((item for item in _items(node) if item[0].value == key), None)
        if item is None:
            return None
        line, node = item[0].start_mark.line + 1, item[1]
    return line


def _items(node: yaml.MappingNode) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            yield key, value
