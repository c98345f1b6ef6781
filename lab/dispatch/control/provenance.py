"""The provenance of a run: host, versions, and the commit of the code."""

from __future__ import annotations

import functools
import platform
import shutil
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from lab.code_version import current, digest, repository
from lab.code_version import refusal as other_code
from lab.dispatch.launchers.local.machine import cpu
from lab.dispatch.worker.claim import Claim
from lab.records import (
    EVALUATIONS,
    ChangedComponents,
    Extensions,
    ProvenanceFacts,
    RunFolder,
    RunRecord,
    write_bytes,
)


@functools.cache
def of_process() -> ProvenanceFacts:
    """The facts that all runs of this process share. The code is that of the first call."""
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
    """The reason why this process may not run the run: it was made with other code that its user hasn't accepted.

    None if the process may run it.
    """
    return other_code(record.code, record.provenance.accepted_code)


def accept_code(run: RunFolder) -> None:
    """Record in a run that its user accepts this process's code. Does nothing if the run was made with this code.

    A run that a worker has claimed is left as it is.
    """
    if refusal(run.record) is None:
        return
    claim = Claim.take(run.path)
    if claim is not None:
        with claim:
            run.record = run.record.with_accepted_code(digest())


def take_up_components(run: RunFolder, files: Mapping[str, bytes], extensions: Extensions) -> None:
    """Replace a run's copy of the user's components by the file as it is now, and let it begin from the beginning.

    What the old file made is removed: checkpoints and evaluations. Only the process that holds the run's claim may call
    this. A crash in between leaves a copy that doesn't fit its record; calling this again mends that.

    Args:
        files: name → content.
        extensions: where the components come from now.
    """
    from lab.training.checkpoints import verified

    record = run.record
    verified.keep_only(run.path, [])
    shutil.rmtree(run.path / EVALUATIONS, ignore_errors=True)
    for name, content in files.items():
        write_bytes(run.path / name, content)
    attempt, before, after = run.state.attempts + 1, record.extensions.sha256, extensions.sha256
    run.record = record.with_components(extensions, ChangedComponents(attempt, round(time.time()), before, after))
    run.state = run.state.replace(progress=None)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
