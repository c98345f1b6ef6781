"""docs/compare.md: its commands do what it says, on runs of a moment, and its words are the lab's."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import pytest

from lab.comparison.statistics.resampling import BOOTSTRAP_PAIRS, SIGN_FLIP_PAIRS
from lab.comparison.statistics.verdicts import Verdict
from tests.comparison.browser import free_port
from tests.docs.blocks import Command, blocks, commands
from tests.docs.typed import ROOT, Typed, tiny, write

DOC = ROOT / "docs" / "compare.md"


@pytest.mark.slow
def test_the_pages_commands_do_what_it_says(run: Typed) -> None:
    """`mqar` is a sweep that takes a moment; all else is as it stands there."""
    found = blocks(DOC)
    for block in found:
        if block.file:
            write(Path(block.file), block.text)
    run(Command("lab plan caps", ("24 runs",)))
    run(Command("lab plan sizes", ("18 runs",)))
    assert "can't be compared" not in run(Command("lab plan vocabularies", ("8 runs",))).stdout
    write(Path("sweeps/tiny.yaml"), tiny(seeds=2))
    tried = []
    for block in found:
        for command in commands(block) if not block.language else []:
            line = command.line.replace("mqar", "tiny")
            tried.append(line.split()[1])
            said = _shown(line) if tried[-1] == "tensorboard" else run(Command(line, command.output)).stdout
            if tried[-1] == "compare":
                assert "can't tell" in said or "identical" in said or "better" in said or "worse" in said
    assert set(tried) == {"submit", "compare", "report", "tensorboard"}
    page = Path("runs/tiny/report.html").read_text(encoding="utf-8")
    assert "Does the page say what happens?" in page


def _shown(line: str) -> str:
    """What `lab tensorboard` says: it serves the runs until Ctrl-C, and ends without a complaint."""
    command = [sys.executable, "-m", "lab.cli.main", *line.split()[1:], "--port", str(free_port())]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    pipe: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True, "env": environment}
    # Tests that a shell has put in the background ignore Ctrl-C, and so would what they start.
    with subprocess.Popen(command, preexec_fn=_heed_ctrl_c, **pipe) as process, _killed_if_left(process):
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            address = re.search(r"http://127\.0\.0\.1:\d+/", said)
            assert address, said
            with urllib.request.urlopen(address[0] + "data/plugins_listing") as answer:
                assert {"hparams", "custom_scalars", "text"} <= set(json.load(answer))
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    return said


def _heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def _killed_if_left(process: subprocess.Popen[str]) -> Iterator[None]:
    """End a process that a failed check leaves behind: waiting for it would take for ever."""
    try:
        yield
    finally:
        process.kill()


def test_the_page_has_every_verdict_and_says_from_how_many_seeds_there_is_which_test() -> None:
    text = DOC.read_text(encoding="utf-8")
    rows = " ".join(re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE))
    assert [verdict for verdict in get_args(Verdict) if verdict not in rows] == []
    numbers = {6: "six", 10: "ten"}
    assert f"From {numbers[SIGN_FLIP_PAIRS]} seeds there is the exact sign-flip test" in text
    assert f"from {numbers[BOOTSTRAP_PAIRS]} the bootstrap's interval" in text


def test_the_page_shows_every_picture_that_is_made_for_it() -> None:
    text = DOC.read_text(encoding="utf-8")
    shown = {DOC.parent / file for file in re.findall(r"""[("](images/compare/[^)"]+)[)"]""", text)}
    assert shown == set((DOC.parent / "images" / "compare").iterdir())
    assert [path.name for path in shown if path.stat().st_size > 300_000] == [], "a page is to load fast"
