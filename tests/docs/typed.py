"""Commands of the documentation, run as a user would type them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.docs.blocks import Command

ROOT = Path(__file__).parents[2]

Typed = Callable[[Command], subprocess.CompletedProcess[str]]


def typed_in(work: Path, tools: Path, environment: Mapping[str, str]) -> Typed:
    """call(command): run it in a folder where `lab` is this one, and check its exit code and what it prints.

    Args:
        work: the folder.
        tools: an empty folder for PATH.
        environment: of the command.
    """
    (tools / "lab").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lab.cli.main "$@"\n')
    (tools / "lab").chmod(0o755)
    known = {**environment, "PATH": f"{tools}:{environment['PATH']}", "PYTHONPATH": str(ROOT)}

    def call(command: Command) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command.line, shell=True, cwd=work, env=known, capture_output=True, text=True, check=False
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

    return call


def tiny(seeds: int) -> str:
    """sweeps/tiny.yaml: two arms of runs that take a moment, where a page's own take minutes."""
    return f"""
question: Does the page say what happens?
experiment: gemma2_tiny
seeds: {seeds}
baseline: a
arms: {{a: {{}}, b: {{model/span: global}}}}
overrides:
  {{train.tokens: 2k, train.context: 64, train.global_batch: 4, validation.tokens: 512, validation.every: 1k,
   schedule.warmup_tokens: 256, model.d_model: 32, model.n_layers: 2, model.mlp.d_ff: 48, model.heads.head_dim: 8}}
"""


def write(path: Path, text: str) -> None:
    """A file of the documentation, with the folders that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
