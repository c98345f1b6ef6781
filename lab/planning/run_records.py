"""The run records under a root, read once for a whole plan: a plan looks at them for several reasons."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from lab.composition import memo
from lab.records import BrokenRecord, RunFolder, RunRecord, run_paths


def run_records(root: Path) -> tuple[tuple[RunFolder, RunRecord], ...]:
    """Every run below the root with its record. Within a `memo.scope`, the files are read once.

    Folders that can't be read are left out: `lab status` lists them.
    """
    return memo.cached(("run records", root), lambda: tuple(_read(root)))


def _read(root: Path) -> Iterator[tuple[RunFolder, RunRecord]]:
    for path in run_paths(root):
        run = RunFolder(path)
        with suppress(BrokenRecord):
            yield run, run.record
