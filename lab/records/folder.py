"""A run's folder, `<root>/<sweep>/<arm>/seed-<n>/`. It is created in one step or not at all.

Every property reads its file anew, as other processes write these files.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from lab.records.atomic import write_text
from lab.records.checks import BrokenRecord
from lab.records.naming import check_name
from lab.records.run_files.points import METRICS_FILE, read_points
from lab.records.run_files.provenance import Provenance, ProvenanceFacts
from lab.records.run_files.run import RUN_FILE, RunRecord, read_run, write_run
from lab.records.run_files.state import STATE_FILE, State, read_state, write_state
from lab.records.run_files.summary import SUMMARY_FILE, Summary, read_summary, write_summary
from lab.refusals import RequestError

# Configurations are written by PyYAML's dumper, and PyYAML's loader reads them back exactly.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

CONFIG = "config.yaml"
TOKENIZER = "tokenizer"
"""The folder with the run's tokenizer, if that was trained or read from a file: encoding text then needs no corpus."""


class FolderTaken(RequestError, FileExistsError):
    """A run can't be created because its place is taken by something else. Nothing was changed."""


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
        """`sweep/arm/seed-n`: the folder's path below its root."""
        return "/".join(self.path.parts[-3:])

    @property
    def record_path(self) -> Path:
        """The path of run.json."""
        return self.path / RUN_FILE

    @property
    def config_path(self) -> Path:
        """The path of the frozen configuration."""
        return self.path / CONFIG

    @property
    def summary_path(self) -> Path:
        """The path of the summary, which may not exist yet."""
        return self.path / SUMMARY_FILE

    @property
    def metrics_path(self) -> Path:
        """The path of the curves, which may not exist yet."""
        return self.path / METRICS_FILE

    @property
    def exists(self) -> bool:
        """Whether this is a run's folder."""
        return os.path.isfile(self.path / RUN_FILE) and self.has_config

    @property
    def has_config(self) -> bool:
        """Whether the frozen configuration exists."""
        return os.path.isfile(self.path / CONFIG)

    @property
    def config(self) -> dict[str, Any]:
        """The frozen configuration."""
        path = self.path / CONFIG
        try:
            config = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
        except (OSError, yaml.YAMLError) as error:
            raise BrokenRecord(path, str(error)) from None
        if not isinstance(config, dict):
            raise BrokenRecord(path, "not a mapping of options")
        return config

    @property
    def record(self) -> RunRecord:
        """`run.json`: identity, sweep, arm, seed, axes, costs, and the provenance that the worker adds."""
        return read_run(self.path / RUN_FILE)

    @record.setter
    def record(self, record: RunRecord) -> None:
        write_run(self.path / RUN_FILE, record)

    @property
    def identity(self) -> str:
        """Hexadecimal identity of the resolved configuration."""
        return self.record.identity

    @property
    def state(self) -> State:
        """The run's state, as its last writer left it."""
        return read_state(self.path / STATE_FILE)

    @state.setter
    def state(self, state: State) -> None:
        write_state(self.path / STATE_FILE, state)

    @property
    def summary(self) -> Summary | None:
        """Final metrics and costs; None until the run has finished or diverged."""
        return read_summary(self.path / SUMMARY_FILE)

    @summary.setter
    def summary(self, summary: Summary) -> None:
        write_summary(self.path / SUMMARY_FILE, summary)

    def metrics(self) -> list[dict[str, float]]:
        """The curves, one point a line of `metrics.jsonl`, in the order written; empty before the first."""
        return read_points(self.metrics_path)

    def add_provenance(self, facts: Provenance | ProvenanceFacts) -> None:
        """Record how the run is run; see `Provenance.with_facts`. Only the process that holds the run may do so."""
        self.record = self.record.with_provenance(facts)

    @classmethod
    def make(
        cls, path: Path | str, config_yaml: str, record: RunRecord, fill: Callable[[Path], None] | None = None
    ) -> tuple[RunFolder, bool]:
        """Create the run with this identity at `path`, unless it exists.

        Of several processes that call this, exactly one creates the run. If `path` holds a run of another identity, the
        run is created at `<path>-<first 8 of its identity>`. Nothing is ever moved or overwritten.

        Args:
            fill: adds further files to the folder that it is given, before the run becomes visible.
        Returns:
            the run, and whether this call created it.
        Raises:
            ValueError: a part of sweep/arm/seed isn't a safe file name, or the identity isn't hexadecimal.
            FolderTaken: both places hold something else.
        """
        path = Path(path)
        for part in path.parts[-3:]:
            check_name(part)
        identity = record.identity
        if not re.fullmatch(r"[0-9a-f]{8,}", identity):
            raise ValueError(f"identity: expected at least 8 hexadecimal digits, got {identity!r}")
        places = [path, path.with_name(f"{path.name}-{identity[:8]}")]
        for place in places:
            if _identity_at(place) == identity:
                return cls(place), False
        for place in places:
            if _make(place, config_yaml, record, fill):
                return cls(place), True
            if _identity_at(place) == identity:
                return cls(place), False
        problem = f"{places[0]} and {places[1].name} hold something other than run {identity[:8]}"
        raise FolderTaken(problem, kind="exists")


def _identity_at(path: Path) -> str | None:
    try:
        return RunFolder(path).identity
    except BrokenRecord:
        return None


def _make(path: Path, config_yaml: str, record: RunRecord, fill: Callable[[Path], None] | None) -> bool:
    """Create the folder under a temporary name, then rename it; False if `path` already holds something.

    Renaming onto a folder that isn't empty fails on every file system, so only one of several processes succeeds.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    temporary.mkdir()
    try:
        write_text(temporary / CONFIG, config_yaml)
        write_run(temporary / RUN_FILE, record)
        write_state(temporary / STATE_FILE, State())
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
