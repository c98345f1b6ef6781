"""Which file, and which line of it, set a configuration key: for messages, and to tell a swap from a slip."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from lab.composition.sources import available, display


class Origin:
    """The files that took part in a composition.

    Args:
        experiment: the experiment's file.
        hydra_overrides: what Hydra was given (choices of groups and its search path).
    """

    def __init__(self, experiment: Path, hydra_overrides: list[str]) -> None:
        self.experiment = experiment
        self.hydra_overrides = hydra_overrides

    @cached_property
    def files(self) -> list[tuple[Path, str]]:
        """(file, package) in the order in which they were merged: later ones win."""
        with initialize_config_dir(version_base="1.3", config_dir=str(self.experiment.parent)):
            loader = GlobalHydra.instance().config_loader()
            defaults = loader.compute_defaults_list(self.experiment.stem, self.hydra_overrides, RunMode.RUN).defaults
        found = []
        for default in defaults:
            group, _, name = (default.config_path or "").rpartition("/")
            path = self.experiment if default.primary else available("experiments", group).get(name)
            if path is not None and not group.startswith("hydra"):
                found.append((path, "" if default.primary else (default.package or "")))
        return found

    def setting(self, path: str) -> tuple[Path, int] | None:
        """(file, line) that set a key last, or None if no file did."""
        for file, package in reversed(self.files):
            if package and path != package and not path.startswith(f"{package}."):
                continue
            keys = path.removeprefix(package).lstrip(".").split(".")
            line = _line(file, [key for key in keys if key])
            if line is not None:
                return file, line
        return None

    def describe(self, path: str) -> str:
        """ "experiments/x.yaml:12" for the file and line that set a key, or the experiment's file."""
        at = self.setting(path)
        return f"{display(at[0])}:{at[1]}" if at else display(self.experiment)

    def choice_of(self, file: Path, group: str) -> str | None:
        """The option of a group (`model/heads`) that a file or a file it inherits from chooses, or None."""
        package = next((package for path, package in self.files if path == file), "")
        own = package.replace(".", "/")
        for entry in reversed(_defaults(file)):
            if isinstance(entry, str):
                inherited = available("experiments", own).get(entry.lstrip("/"))
                chosen = self.choice_of(inherited, group) if inherited and inherited != file else None
                if chosen is not None:
                    return chosen
                continue
            for key, option in entry.items():
                name = str(key).removeprefix("override ").strip()
                full = name.lstrip("/") if name.startswith("/") or not own else f"{own}/{name}"
                if full == group:
                    return str(option)
        return None


def _defaults(file: Path) -> list[Any]:
    content = yaml.safe_load(file.read_text()) or {}
    return [entry for entry in content.get("defaults", []) if entry != "_self_"]


def _line(file: Path, keys: list[str]) -> int | None:
    """The line (from 1) of a nested key in a YAML file, or None."""
    node = yaml.compose(file.read_text())
    line = None
    for key in keys:
        if not isinstance(node, yaml.MappingNode):
            return None
        found = next(((k, v) for k, v in _items(node) if k.value == key), None)
        if found is None:
            return None
        line, node = found[0].start_mark.line + 1, found[1]
    return line


def _items(node: yaml.MappingNode) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            yield key, value
