"""Under what circumstances a run ran: host, versions, and the commit of the code."""

from __future__ import annotations

import functools
import platform
from importlib import metadata
from pathlib import Path

from lab.code_version import current, digest, repository
from lab.code_version import refusal as other_code
from lab.dispatch.launchers.local.machine import cpu
from lab.dispatch.worker.claim import Claim
from lab.records import ProvenanceFacts, RunFolder, RunRecord


@functools.cache
def of_process() -> ProvenanceFacts:
    """What is the same for every run of this process. The code counts as it was when first asked."""
    here = current()
    return ProvenanceFacts(
        host=platform.node(),
        platform=platform.platform(),
        cpu=cpu(),
        python=platform.python_version(),
        torch=_version("torch"),
        lightning=_version("lightning"),
        numpy=_version("numpy"),
        commit=here.commit,
        dirty=None if here.commit is None else here.changes is not None,
        code_digest=here.digest,
    )


def code(package: Path) -> tuple[str | None, bool | None]:
    """Commit of the repository that tracks this package, and whether tracked files differ from it."""
    commit, changes = repository(package)
    return commit, None if commit is None else changes is not None


def refusal(record: RunRecord) -> str | None:
    """Why this process may not run a run with this record: it was made with other code, and nobody agreed to that.

    None if it may.
    """
    return other_code(record.code, record.provenance.accepted_code)


def accept_code(run: RunFolder) -> None:
    """Write into a run that its user agreed to its being run with this code. Nothing if it is made with it anyway.

    A run that somebody holds is left alone: it is being run.
    """
    if refusal(run.record) is None:
        return
    claim = Claim.take(run.path)
    if claim is not None:
        with claim:
            run.record = run.record.with_accepted_code(digest())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
