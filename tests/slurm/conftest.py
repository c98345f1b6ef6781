"""Two Slurm clusters for a run of pytest, shared by its processes, and started when a test needs one.

`cluster` is for tests that only send, watch and cancel jobs. They use it at the same time, and each sees its own jobs
alone. `fragile_cluster` is for tests that break a cluster or change its configuration: one at a time has it, all of it,
and as new. LAB_REQUIRE_SLURM=1 makes a skipped test a failed one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.once import once, place
from tests.slurm.packages import missing, remedy
from tests.slurm.shared import alone, joined

if TYPE_CHECKING:
    from tests.slurm.evidence import Result

CLUSTERS = {"calm_cluster", "breakable_cluster"}


def _why_not() -> str | None:
    absent = missing()
    return f"No Slurm here: {', '.join(absent)} missing. {remedy()}" if absent else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip by a mark, so that pytest says it once a file and not once a test. Put those that take turns first.

    Next to each other they come to one process, which then waits for no other one.
    """
    said = None if os.environ.get("LAB_REQUIRE_SLURM") else _why_not()
    for item in items:
        if said is not None and CLUSTERS & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.skip(reason=said))
    items.sort(key=lambda item: "breakable_cluster" not in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def calm_cluster(request: pytest.FixtureRequest, shared: Path) -> Iterator[Cluster]:
    yield from _joined(request, shared, "calm", or_persons=True)


@pytest.fixture(scope="session")
def breakable_cluster(request: pytest.FixtureRequest, shared: Path) -> Iterator[Cluster]:
    yield from _joined(request, shared, "breakable")


def _joined(request: pytest.FixtureRequest, shared: Path, name: str, *, or_persons: bool = False) -> Iterator[Cluster]:
    if (said := _why_not()) is not None:
        pytest.fail(said, pytrace=False)
    with joined(request, shared, name, or_persons=or_persons) as cluster:
        yield cluster


@pytest.fixture
def cluster(calm_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The shared cluster, as the only one that this process knows; no jobs of other tests are seen."""
    own = calm_cluster.of_one_test()
    _point(monkeypatch, own)
    yield own
    own.clear()


@pytest.fixture
def fragile_cluster(breakable_cluster: Cluster, shared: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A whole cluster, as the only one that this process knows, for this test alone; afterwards it is mended."""
    with alone(shared / "turn.lock"):
        whole = Cluster(breakable_cluster.folder)  # anew: another process may have restarted daemons
        _point(monkeypatch, whole)
        yield whole
        whole.clear()


def _point(monkeypatch: pytest.MonkeyPatch, cluster: Cluster) -> None:
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name, value)


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
