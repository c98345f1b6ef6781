"""Which code this is: its commit, what differs from that, and a digest of what a worker runs.

A run's result is made by its configuration and by this code. So the code is written into every plan and every run, and
a worker that is other code than a run was made with refuses the run.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent
"""The folder of the package `lab`."""

NOT_RUN = ("cli", "comparison", "planning", "report")
"""Subpackages of `lab` that no worker runs: a changed table or command leaves queued runs as they were."""


@dataclass(frozen=True)
class Code:
    """The code of a process.

    Attributes:
        commit: of the repository that tracks the lab; None without one, as for an installed wheel.
        changes: SHA-256 of the uncommitted changes to tracked files; None where there are none, or no repository.
        digest: SHA-256 of the Python files of `components` and of `lab` without NOT_RUN. The same for a checkout and
            for the wheel that is built from it.
    """

    commit: str | None
    changes: str | None
    digest: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@functools.cache
def current() -> Code:
    """The code of this process, as it was when first asked."""
    commit, changes = repository(PACKAGE)
    return Code(commit, changes, digest())


@functools.cache
def digest() -> str:
    """The content digest of the code that a worker runs, as it was when first asked."""
    return digest_of(folders())


def folders() -> dict[str, Path]:
    """The packages whose code counts, and where they are."""
    spec = importlib.util.find_spec("components")  # importing it would import torch
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return {"components": Path(spec.submodule_search_locations[0]), "lab": PACKAGE}


def digest_of(packages: Mapping[str, Path]) -> str:
    """SHA-256 over the names below their package and the contents of the Python files that a worker runs."""
    found = hashlib.sha256()
    for package, folder in sorted(packages.items()):
        for name, path in sorted(_sources(folder)):
            if package != "lab" or name.split("/")[0] not in NOT_RUN:
                content = path.read_bytes()
                found.update(f"{package}/{name} {len(content)}\n".encode() + content)
    return found.hexdigest()


def repository(package: Path) -> tuple[str | None, str | None]:
    """Commit of the repository that tracks this package, and the digest of what differs from it in tracked files."""
    # An installed package may lie in an environment within some other repository: that one's commit would say nothing.
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    commit = _git(package, "rev-parse", "HEAD")
    changes = _git(package, "diff", "HEAD", "--binary", "--no-ext-diff", "--no-color")
    return commit, hashlib.sha256(changes.encode()).hexdigest() if changes else None


def described(code: Mapping[str, Any]) -> str:
    """Recorded code in a few words for a person: `commit 1a2b3c4d with changes (digest 5e6f7a8b)`."""
    known, changed = code.get("commit"), code.get("changes")
    where = f"commit {known[:8]}{' with changes' if changed else ''}" if known else "no commit"
    return f"{where} (digest {str(code.get('digest'))[:8]})"


def refusal(recorded: Mapping[str, Any] | None, accepted: list[str] | None = None) -> str | None:
    """Why this process may not run what was made with the recorded code; None if it may.

    Args:
        recorded: the `code` of a run or a plan; None where none was recorded, which says nothing against it.
        accepted: digests of other code that the user agreed to.
    """
    if not recorded or recorded.get("digest") in (None, digest()) or digest() in (accepted or ()):
        return None
    return f"made with {described(recorded)}; the code here is {described(current().as_dict())}"


def _sources(folder: Path) -> Iterator[tuple[str, Path]]:
    for place, _, files in os.walk(folder):
        for file in files:
            if file.endswith(".py"):
                path = Path(place, file)
                yield path.relative_to(folder).as_posix(), path


def _git(folder: Path, *arguments: str) -> str | None:
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}  # many workers ask at once, and none means to write
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
