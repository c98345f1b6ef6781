"""Run `lab` commands as a user would, in processes that have already imported torch.

A command has its own process, working folder, environment, output and exit code, as in a shell. Use it to test what
commands print. Tests of crashes and of starting up start Python itself.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests import forked


def lab(
    *arguments: str, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command until it ends.

    Args:
        arguments: the arguments after `lab`.
        cwd: the working folder; by default that of this process.
        environment: the whole environment; by default that of this process.
    """
    return forked.run("lab.cli.main", *arguments, cwd=cwd, environment=environment)
