"""A run's folder, `<root>/<sweep>/<arm>/seed-<n>/`: made whole or not at all, found, and named.

What is asked of a folder is read from its files each time: other processes write them.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from lab.records.atomic import write_json, write_text
from lab.records.state import State, read_state, write_state
from lab.refusals import RequestError

# Configurations are written by PyYAML's dumper, and this reads back exactly what it wrote.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

TOKENIZER = "tokenizer"
"""Folder of a run that keeps its tokenizer, where that is learnt or read: the run needs no corpus to encode text."""

LONGEST_NAME = 100  # file systems stop at 255 bytes, and TensorBoard shows sweep, arm and seed in one line


class BrokenRun(ValueError):
    """A file of a run folder is missing or cannot be read as what it should be. The message names it."""


class FolderTaken(RequestError, FileExistsError):
    """A run cannot be made because other content stands in its place; nothing was changed."""


class RunFolder:
    """One run on disk.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunFolder) and self.path == other.path

    def __hash__(self) -> int:
        return hash(self.path)

    @property
    def name(self) -> str:
        """`sweep/arm/seed-n`, as the folder stands below its root."""
        return "/".join(self.path.parts[-3:])

    @property
    def exists(self) -> bool:
        """Whether a run stands here."""
        return (self.path / "run.json").is_file() and self.has_config

    @property
    def has_config(self) -> bool:
        """Whether the frozen configuration is there."""
        return (self.path / "config.yaml").is_file()

    @property
    def config(self) -> dict[str, Any]:
        """The frozen configuration."""
        path = self.path / "config.yaml"
        try:
            found = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
        except (OSError, yaml.YAMLError) as error:
            raise BrokenRun(f"{path}: {error}") from None
        if not isinstance(found, dict):
            raise BrokenRun(f"{path}: not a mapping of options")
        return found

    @property
    def info(self) -> dict[str, Any]:
        """`run.json`: identity, sweep, arm, seed, axes, costs, and the provenance that the worker adds."""
        path = self.path / "run.json"
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise BrokenRun(f"{path}: {error}") from None
        if not isinstance(found, dict) or not isinstance(found.get("identity"), str):
            raise BrokenRun(f"{path}: has no identity")
        return found

    @property
    def identity(self) -> str:
        """Hexadecimal identity of the resolved configuration."""
        return str(self.info["identity"])

    @property
    def state(self) -> State:
        """Where the run stands, as its last writer left it."""
        try:
            return read_state(self.path / "state.json")
        except ValueError as error:
            raise BrokenRun(str(error)) from None

    @state.setter
    def state(self, state: State) -> None:
        write_state(self.path / "state.json", state)

    @property
    def summary(self) -> dict[str, Any] | None:
        """Final metrics and costs; None until the run has finished or diverged."""
        path = self.path / "summary.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise BrokenRun(f"{path}: {error}") from None
        if not isinstance(found, dict):
            raise BrokenRun(f"{path}: not a summary")
        return found

    def metrics(self) -> list[dict[str, Any]]:
        """The curves, one dict a line of `metrics.jsonl`, in the order written; empty before the first.

        A last line without its end is being written, or was when its writer died, and is left out.
        """
        path = self.path / "metrics.jsonl"
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except FileNotFoundError:
            return []
        found = []
        for number, line in enumerate(lines[:-1], start=1):
            try:
                found.append(json.loads(line))
            except ValueError as error:
                raise BrokenRun(f"{path}, line {number}: {error}") from None
        return found

    def add_provenance(self, **facts: Any) -> None:
        """Add to `provenance` in `run.json`. Only the process that holds the run may.

        A fact that an earlier attempt recorded otherwise (another host, another torch) is kept under `earlier`, oldest
        first: a result that two machines had a hand in must say so.
        """
        info = self.info
        before = info.get("provenance", {})
        changed = {key: before[key] for key, value in facts.items() if key in before and before[key] != value}
        after = before | facts
        if changed:
            after["earlier"] = [*before.get("earlier", []), changed]
        write_json(self.path / "run.json", info | {"provenance": after})

    @classmethod
    def create(cls, path: Path | str, config_yaml: str, info: dict[str, Any]) -> RunFolder:
        """The run with this identity at `path`: made if it isn't there, left as it is if it is.

        However many processes ask for it, exactly one makes it. Where another identity's run stands at `path`, the run
        is at `<path>-<first 8 of its identity>` instead; nothing is ever moved or overwritten.

        Raises:
            ValueError: a part of sweep/arm/seed isn't a safe file name, or `info` has no identity.
            FolderTaken: both places hold something else.
        """
        return cls.make(path, config_yaml, info)[0]

    @classmethod
    def make(
        cls, path: Path | str, config_yaml: str, info: dict[str, Any], fill: Callable[[Path], None] | None = None
    ) -> tuple[RunFolder, bool]:
        """As `create`, and whether this call made it.

        Args:
            fill: puts what else belongs to the run into the folder that it is given, before the run appears.
        """
        path = Path(path)
        for part in path.parts[-3:]:
            check_name(part)
        identity = info.get("identity")
        if not isinstance(identity, str) or not re.fullmatch(r"[0-9a-f]{8,}", identity):
            raise ValueError(f"identity: expected at least 8 hexadecimal digits, got {identity!r}")
        places = [path, path.with_name(f"{path.name}-{identity[:8]}")]
        for place in places:
            if _identity_at(place) == identity:
                return cls(place), False
        for place in places:
            if _make(place, config_yaml, info, fill):
                return cls(place), True
            if _identity_at(place) == identity:
                return cls(place), False
        raise FolderTaken(f"{places[0]} and {places[1].name} hold something other than run {identity[:8]}")


def check_name(name: str) -> None:
    """Refuse a sweep, arm or seed name that isn't safe as one part of a path on any file system.

    Raises:
        ValueError: saying what is wrong with it.
    """
    if not name or len(name) > LONGEST_NAME:
        raise ValueError(f"name {name!r}: expected 1 to {LONGEST_NAME} characters")
    if name.startswith("."):
        raise ValueError(f"name {name!r}: must not begin with a dot")
    if "/" in name or "\\" in name or not name.isprintable():
        raise ValueError(f"name {name!r}: must not contain slashes or control characters")


def find_runs(root: Path | str, sweep: str | None = None) -> list[RunFolder]:
    """Every run below the root (of one sweep, if given), by sweep, then the arms' order, then seed.

    Folders half made, broken or not runs are passed over; `find_broken` reports the broken ones.
    """
    found = []
    for path in run_paths(root, sweep):
        run = RunFolder(path)
        with contextlib.suppress(BrokenRun):
            info = run.info
            order = (path.parts[-3], info.get("order", 0), path.parts[-2], info.get("seed", 0), path.name)
            if run.has_config:
                found.append((order, run))
    return [run for _, run in sorted(found, key=lambda pair: pair[0])]


def find_broken(root: Path | str, sweep: str | None = None) -> list[tuple[Path, str]]:
    """Folders that stand where runs stand and can't be read as one, each with what is wrong with it."""
    found = []
    for path in run_paths(root, sweep):
        run = RunFolder(path)
        try:
            _ = run.info, run.state
            if not run.exists:
                found.append((path, f"{path / 'config.yaml'}: missing"))
        except BrokenRun as error:
            found.append((path, str(error)))
    return sorted(found)


def run_paths(
    root: Path | str, sweep: str | None = None, closed: list[tuple[Path, str]] | None = None
) -> Iterator[Path]:
    """Every folder that stands where runs stand, by name; whether it is one, its files tell.

    Args:
        closed: takes the folders that may not be looked into, each with why; without it the first is an error.
    """
    for sweep_path in _folders(Path(root), closed=closed):
        if sweep is None or sweep_path.name == sweep:
            for arm_path in _folders(sweep_path, closed=closed):
                # A link would show the same run twice: views for TensorBoard are folders of links.
                yield from _folders(arm_path, "seed-", links=False, closed=closed)


def _folders(
    path: Path, prefix: str = "", *, links: bool = True, closed: list[tuple[Path, str]] | None = None
) -> list[Path]:
    try:
        with os.scandir(path) as entries:
            found = [e.name for e in entries if e.is_dir(follow_symlinks=links) and e.name.startswith(prefix)]
        return [path / name for name in sorted(found) if not name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError as error:
        if closed is None:
            raise
        closed.append((path, f"{path}: {error.strerror}"))
        return []


def _identity_at(path: Path) -> str | None:
    try:
        return RunFolder(path).identity
    except BrokenRun:
        return None


def _make(path: Path, config_yaml: str, info: dict[str, Any], fill: Callable[[Path], None] | None) -> bool:
    """Make the folder whole under another name, then rename it; False if something already stands at `path`.

    Renaming onto a folder that isn't empty fails on every file system, so of racing makers one succeeds.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    temporary.mkdir()
    try:
        write_text(temporary / "config.yaml", config_yaml)
        write_json(temporary / "run.json", info)
        write_state(temporary / "state.json", State())
        if fill is not None:
            fill(temporary)
        os.rename(temporary, path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return False
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True
