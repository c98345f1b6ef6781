"""A run's commit is that of the code, and of nothing that the code merely lies in."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lab.dispatch.control.provenance import code, of_process


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "x")
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_and_whether_the_code_differs_from_it(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    assert code(repository / "package") == (commit, False)
    (repository / "notes.txt").write_text("untracked")
    assert code(repository / "package") == (commit, False)
    (repository / "package" / "__init__.py").write_text("changed = 1")
    assert code(repository / "package") == (commit, True)


def test_an_environment_within_a_repository_is_not_of_its_commit(repository: Path) -> None:
    installed = repository / "venv" / "package"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert code(installed) == (None, None)


def test_code_outside_any_repository_has_no_commit(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").write_text("")
    assert code(tmp_path) == (None, None)


def test_versions_are_recorded_without_loading_the_libraries() -> None:
    facts = of_process()
    assert facts["torch"].startswith("2.")
    assert facts["lightning"].startswith("2.")
    assert facts["host"]
    assert facts["cpu"]
