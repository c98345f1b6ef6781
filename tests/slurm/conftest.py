"""One Slurm for each pytest process, so that a fault of one test never meets another's jobs, and as new for each test.

It is the idle one that `make slurm-up` started, if no other pytest has it, or one of our own. LAB_REQUIRE_SLURM=1 makes
a skipped test a failed one.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.slurm.cluster import FOLDER, Cluster
from tests.slurm.command import running
from tests.slurm.once import once, place
from tests.slurm.packages import missing, remedy

if TYPE_CHECKING:
    from tests.slurm.evidence import Result


def _why_not() -> str | None:
    absent = missing()
    return f"No Slurm here: {', '.join(absent)} missing. {remedy()}" if absent else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skipped by a mark, so that pytest says it once a file and not once a test."""
    said = _why_not()
    if said is None or os.environ.get("LAB_REQUIRE_SLURM"):
        return
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason=said))


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    if (said := _why_not()) is not None:
        pytest.fail(said, pytrace=False)
    with _persons() as persons:
        if persons is not None:
            yield persons
            return
        own = Cluster.start()
        yield own
        if request.session.testsfailed:
            own.stop()
            print(f"The cluster's logs stay in {own.folder / 'log'}")
        else:
            own.remove()


@pytest.fixture(autouse=True)
def _as_new(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a test that used the cluster: no jobs, and whatever it killed is up again."""
    used = request.getfixturevalue("cluster") if "cluster" in request.fixturenames else None
    yield
    if used is not None:
        used.clear()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this session that all its pytest processes share."""
    return place(tmp_path_factory)


@pytest.fixture(scope="session")
def references(shared: Path) -> dict[int, Result]:
    """By seed, what a run leaves that nothing happens to: on this machine, without a cluster."""
    from tests.slurm.evidence import Result
    from tests.slurm.workbench import Workbench

    def run() -> dict[str, str]:
        bench = Workbench(shared / "undisturbed", os.environ)
        bench.sweep("undisturbed", range(8))
        bench.lab("submit", "undisturbed", "--on", "local", "--threads", "1")
        return {str(seed): str(bench.run("undisturbed", seed)) for seed in range(8)}

    return {int(seed): Result.of(Path(folder)) for seed, folder in once(shared, "undisturbed-were", run).items()}


@contextmanager
def _persons() -> Iterator[Cluster | None]:
    """The cluster that `make slurm-up` started, unless there is none, it is in use, or another pytest has it."""
    found = running(FOLDER)
    if found is None or found.squeue("--states=PENDING,RUNNING,COMPLETING"):
        yield None
        return
    with (FOLDER / "pytest.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield found
