"""Folders and files stay small enough to take in at a glance."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.structure.sources import ROOT, SOURCES

MOST_FILES = 12
MOST_LINES = 330

LARGE_FOLDERS = {
    "components": "one file for each kind of component; the folder is the list of them",
    "lab/interop/families": "a catalogue: one data file for each family of published models",
}
"""Folder → why it may hold more files."""


def number_of_files() -> dict[str, int]:
    """Folder below the project's root → the files in it, of any type but compiled ones."""
    files = [path for package in ("components", "lab") for path in (ROOT / package).rglob("*") if path.is_file()]
    names = [path.parent.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts]
    return dict(Counter(names))


def number_of_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_a_folder_holds_at_most_twelve_files() -> None:
    large = {folder: files for folder, files in number_of_files().items() if files > MOST_FILES}
    assert large.keys() == LARGE_FOLDERS.keys(), large


def test_a_file_has_at_most_330_lines() -> None:
    lines = {path.relative_to(ROOT).as_posix(): number_of_lines(path) for path in SOURCES}
    assert not {name: number for name, number in lines.items() if number > MOST_LINES}
