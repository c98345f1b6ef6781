"""`lab` as a user types it, less the seconds of importing torch: forked from a process that has done so.

The command has its own process, folder, environment, output and exit code, as in a shell. It is for tests of what
commands print; those of crashes and start-up start Python.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests import forked


def lab(
    *arguments: str, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end.

    Args:
        cwd: by default this process's folder.
        environment: all of it; by default this process's.
    """
    return forked.run("lab.cli.main", *arguments, cwd=cwd, environment=environment)
