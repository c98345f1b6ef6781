"""Hundreds of runs are sent by processes that are killed or race: tests/slurm has the same storms in a smaller size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lab.records import RunFolder
from tests.dispatch.conftest import make  # noqa: F401  fixture
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import breakable_cluster, fragile_cluster, shared  # noqa: F401  fixtures
from tests.slurm.killed import Moment, killed_again_and_again, killed_once, raced

Make = Callable[..., RunFolder]


def test_200_runs_of_a_submission_that_is_killed_again_and_again_are_trained_once(
    fragile_cluster: Cluster,  # noqa: F811
    tmp_path: Path,
) -> None:
    killed_again_and_again(fragile_cluster, tmp_path, runs=200, per_job=25)


@pytest.mark.parametrize("when", ["before", "after"])
def test_200_runs_of_a_submission_killed_halfway_are_sent_once(
    fragile_cluster: Cluster,  # noqa: F811
    make: Make,  # noqa: F811
    tmp_path: Path,
    when: Moment,
) -> None:
    killed_once(fragile_cluster, make, tmp_path, when, per_array=10)


def test_of_three_submissions_of_200_runs_at_once_one_sends_each_run(
    fragile_cluster: Cluster,  # noqa: F811
    make: Make,  # noqa: F811
    tmp_path: Path,
) -> None:
    raced(fragile_cluster, make, tmp_path, runs=200)
