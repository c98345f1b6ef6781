"""Under what circumstances a run ran: host, versions, and the commit of the code."""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from lab.code_version import current, digest, repository
from lab.code_version import refusal as other_code
from lab.dispatch.launchers.local.machine import cpu
from lab.dispatch.worker.claim import Claim
from lab.records import RunFolder, write_json


@functools.cache
def of_process() -> dict[str, Any]:
    """What is the same for every run of this process. The code counts as it was when first asked.

    Keys: host, platform, cpu, python, torch, lightning, numpy (versions), commit and dirty (None without a repository),
    code_digest.
    """
    here = current()
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "cpu": cpu(),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "lightning", "numpy")},
        "commit": here.commit,
        "dirty": None if here.commit is None else here.changes is not None,
        "code_digest": here.digest,
    }


def code(package: Path) -> tuple[str | None, bool | None]:
    """Commit of the repository that tracks this package, and whether tracked files differ from it."""
    commit, changes = repository(package)
    return commit, None if commit is None else changes is not None


def refusal(info: Mapping[str, Any]) -> str | None:
    """Why this process may not run a run with this run.json: it was made with other code, and nobody agreed to that.

    None if it may.
    """
    return other_code(info.get("code"), info.get("provenance", {}).get("accepted_code"))


def accept_code(run: RunFolder) -> None:
    """Write into a run that its user agreed to its being run with this code. Nothing if it is made with it anyway.

    A run that somebody holds is left alone: it is being run.
    """
    if refusal(run.info) is None:
        return
    claim = Claim.take(run.path)
    if claim is not None:
        with claim:
            info = run.info
            known = info.get("provenance", {})
            accepted = [*known.get("accepted_code", ()), digest()]
            write_json(run.path / "run.json", info | {"provenance": known | {"accepted_code": accepted}})


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
