"""Commands of the documentation, run as a user would type them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import Command

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """run(command): in the temporary folder, where `lab` is this one."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "lab").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lab.cli.main "$@"\n')
    (tools / "lab").chmod(0o755)
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def call(command: Command) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command.line, shell=True, cwd=work, env=environment, capture_output=True, text=True, check=False
        )
        said = done.stdout + done.stderr
        refused = any(line.startswith("lab: ") for line in command.output)
        assert done.returncode == (2 if refused else 0), f"{command.line}\n{said}"
        assert "Traceback" not in said
        place = 0
        for line in command.output:
            place = said.find(line, place)
            assert place >= 0, f"{command.line} doesn't print {line!r}:\n{said}"
        return done

    monkeypatch.chdir(work)
    return call
