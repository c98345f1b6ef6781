"""An empty folder to work in, and the lab's command there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.docs.typed import Typed, typed_in


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """run(command): in the temporary folder, where `lab` is this one."""
    tools, work = tmp_path / "bin", tmp_path / "work"
    tools.mkdir()
    work.mkdir(exist_ok=True)
    monkeypatch.chdir(work)
    return typed_in(work, tools, os.environ)
