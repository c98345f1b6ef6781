"""Under what circumstances a run ran: host, versions, and the commit of the code."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import lab


@functools.cache
def of_process() -> dict[str, Any]:
    """What is the same for every run of this process. The code counts as it was when first asked.

    Keys: host, platform, cpu, python, torch, lightning, numpy (versions), commit and dirty (None without a repository).
    """
    commit, dirty = code(Path(lab.__file__).parent)
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "lightning", "numpy")},
        "commit": commit,
        "dirty": dirty,
    }


def code(package: Path) -> tuple[str | None, bool | None]:
    """Commit of the repository that tracks this package, and whether tracked files differ from it."""
    # An installed package may lie in an environment within some other repository: that one's commit would say nothing.
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    commit = _git(package, "rev-parse", "HEAD")
    changes = _git(package, "status", "--porcelain", "--untracked-files=no")
    return commit, None if changes is None else bool(changes)


def _git(folder: Path, *arguments: str) -> str | None:
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}  # many workers ask at once, and none means to write
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, env=environment
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
