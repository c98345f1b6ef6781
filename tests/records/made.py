"""Run folders for tests, made and looked at as the plain JSON that stands in their files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.records import RunFolder, RunRecord
from lab.records.checks import Fields


def record(content: Mapping[str, Any]) -> RunRecord:
    """The record in a run.json with this content."""
    return RunRecord.of(Fields(content))


def make_run(path: Path | str, config_yaml: str, content: RunRecord | Mapping[str, Any]) -> RunFolder:
    """The run at `path` with this run.json, made if it isn't there."""
    content = content if isinstance(content, RunRecord) else record(content)
    return RunFolder.make(path, config_yaml, content)[0]


def info(run: RunFolder) -> dict[str, Any]:
    """What a run's run.json holds."""
    content: dict[str, Any] = json.loads((run.path / "run.json").read_bytes())
    return content


def summary(run: RunFolder) -> dict[str, Any]:
    """What a run's summary.json holds."""
    content: dict[str, Any] = json.loads((run.path / "summary.json").read_bytes())
    return content
