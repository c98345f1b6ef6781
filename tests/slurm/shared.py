"""Clusters that all pytest processes of a run share: who needs one first starts it, and it ends after the last."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.slurm.cluster import FOLDER, Cluster


@contextmanager
def joined(request: pytest.FixtureRequest, folder: Path, name: str, *, or_persons: bool = False) -> Iterator[Cluster]:
    """The run's cluster of this name.

    Args:
        folder: that the run's processes share.
        or_persons: the one that `make slurm-up` started will do, if nothing runs there.
    """
    with alone(folder / f"{name}.lock"):
        place = folder / f"{name}.txt"
        cluster = Cluster.join(Path(place.read_text())) if place.exists() else None
        if cluster is None and or_persons and (persons := Cluster.join(FOLDER)) is not None:
            cluster = None if persons.live() else persons
        if cluster is None:
            cluster = Cluster.start()
        place.write_text(str(cluster.folder))
    yield cluster
    if request.session.testsfailed:
        print(f"The cluster's logs stay in {cluster.folder / 'log'}")
    cluster.leave(keep_logs=bool(request.session.testsfailed))


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """While no other process of the run does the same."""
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
