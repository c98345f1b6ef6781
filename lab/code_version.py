"""The version of the code: its commit, its uncommitted changes, and a digest of the files that a worker runs.

A run's result depends on its configuration and on this code. So every plan and every run records the code, and a worker
with other code refuses the run.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lab.records import Code

PACKAGE = Path(__file__).parent
"""The folder of the package `lab`."""

_SOURCES = (".py", ".cpp", ".h", ".hh", ".hpp", ".hxx", ".inc")
"""Python, and the C++ of native kernels."""

NOT_RUN = ("cli", "comparison", "planning", "report")
"""Subpackages of `lab` that no worker runs: a change to a table or a command doesn't affect queued runs."""


@functools.cache
def current() -> Code:
    """The code of this process, as it was at the first call."""
    commit, changes = repository(PACKAGE)
    return Code(commit, changes, digest())


@functools.cache
def digest() -> str:
    """The digest of the code that a worker runs, as it was at the first call."""
    return digest_of(folders())


def folders() -> dict[str, Path]:
    """Package → folder, of the packages whose code counts."""
    spec = importlib.util.find_spec("components")  # importing it would import torch
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return {"components": Path(spec.submodule_search_locations[0]), "lab": PACKAGE}


def digest_of(packages: Mapping[str, Path]) -> str:
    """SHA-256 of the Python and C++ files that a worker runs: their names below their package, and their contents.

    Args:
        packages: name → its folder, or its file.
    """
    code_hash = hashlib.sha256()
    for package, folder in sorted(packages.items()):
        for name, path in sorted(_sources(folder)):
            if package != "lab" or name.split("/")[0] not in NOT_RUN:
                content = path.read_bytes()
                code_hash.update(f"{package}/{name} {len(content)}\n".encode() + content)
    return code_hash.hexdigest()


def repository(package: Path) -> tuple[str | None, str | None]:
    """(commit, digest of the uncommitted changes) of the repository that tracks this package; None without one."""
    # An installed package may be in an environment inside another repository, whose commit has nothing to do with it.
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    commit = _git(package, "rev-parse", "HEAD")
    changes = _git(package, "diff", "HEAD", "--binary", "--no-ext-diff", "--no-color")
    return commit, hashlib.sha256(changes.encode()).hexdigest() if changes else None


def refusal(recorded: Code | None, accepted: Sequence[str] = ()) -> str | None:
    """Why this process may not run what was made with the recorded code; None if it may.

    Args:
        recorded: the `code` of a run or a plan; None where none was recorded, and then it may.
        accepted: digests of other code that the user accepted.
    """
    if recorded is None or recorded.digest == digest() or digest() in accepted:
        return None
    return f"made with {recorded.describe()}; the code here is {current().describe()}"


def _sources(folder: Path) -> Iterator[tuple[str, Path]]:
    if folder.is_file():  # a package of one module
        yield folder.name, folder
    for place, _, files in os.walk(folder):
        for file in files:
            if file.endswith(_SOURCES):
                path = Path(place, file)
                yield path.relative_to(folder).as_posix(), path


def _git(folder: Path, *arguments: str) -> str | None:
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}  # many workers call git at once, and none of them writes
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=20,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
