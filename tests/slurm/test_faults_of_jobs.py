"""Whatever happens to a job, its run ends as if nothing had: bit for bit, every step once, nothing done twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.evidence import Result, check
from tests.slurm.once import once
from tests.slurm.shared import alone
from tests.slurm.storm import SEEDS, TOGETHER, Storm
from tests.slurm.workbench import STEPS, Workbench

pytestmark = pytest.mark.slow


class Past:
    """The storm when it is over.

    Attributes:
        noted: what was seen on the way.
        jobs: what Slurm's accounting says of each run's job, a word an attempt.
    """

    def __init__(self, content: dict[str, Any], references: dict[str, Result]) -> None:
        self.noted: dict[str, Any] = content["noted"]
        self.jobs: dict[str, list[str]] = content["jobs"]
        self._folders: dict[str, str] = content["folders"]
        self._trained: dict[str, list[int]] = content["trained"]
        self._references = references

    def log(self, name: str) -> str:
        return (Path(self._folders[name]) / "log.txt").read_text()

    def came_through(self, name: str, *, attempts: int) -> list[int]:
        """Check the run against the undisturbed one; how many steps each attempt has computed."""
        check(Path(self._folders[name]), self._references[name], attempts=attempts)
        return self._trained[name]


@pytest.fixture(scope="module")
def storm(breakable_cluster: Cluster, shared: Path, references: dict[int, Result]) -> Past:
    """Made once, by whichever process comes first; the other ones read what it left."""

    def run() -> dict[str, Any]:
        with alone(shared / "turn.lock"):
            cluster = Cluster(breakable_cluster.folder)
            calm = Workbench(shared / "calm", cluster.environment())
            calm.sweep(TOGETHER)
            try:
                noted = Storm(cluster, shared / "storm").run(calm)
            finally:
                cluster.clear()
        return {**noted, "calm": str(calm.run(TOGETHER))}

    content = once(shared, "storm-was", run)
    undisturbed = {name: references[seed] for name, seed in SEEDS.items()}
    return Past(content, undisturbed | {TOGETHER: Result.of(Path(content["calm"]))})


def test_a_restart_of_the_controller_disturbs_no_run(storm: Past) -> None:
    assert set(storm.noted["attempts_after_restart"].values()) == {1}
    assert storm.came_through("undisturbed", attempts=1) == [STEPS]


def test_a_requeued_run_continues_at_the_step_where_it_stopped(storm: Past) -> None:
    first, second = storm.came_through("requeued", attempts=2)
    assert 0 < first < STEPS
    assert first + second == STEPS
    assert storm.jobs["requeued"] == ["REQUEUED", "COMPLETED"]


def test_a_preempted_run_finishes_its_step_and_continues_after_it(storm: Past) -> None:
    first, second = storm.came_through("preempted", attempts=2)
    assert 0 < first < STEPS
    assert first + second == STEPS
    assert storm.noted["nodes"]["preempted"] == "n3"


def test_a_run_whose_time_is_up_continues_in_the_next_start(storm: Past) -> None:
    first, second = storm.came_through("out_of_time", attempts=2)
    assert 0 < first < STEPS
    assert first + second == STEPS
    assert "the time limit of its job" in storm.log("out_of_time")
    assert "TIMEOUT" not in storm.jobs["out_of_time"]


def test_a_killed_worker_costs_the_steps_since_the_last_checkpoint(storm: Past) -> None:
    first, second = storm.came_through("worker_killed", attempts=2)
    assert second == STEPS - storm.noted["killed"]["checkpoint"]
    assert first + second > STEPS


def test_a_run_of_a_lost_node_continues_from_its_last_checkpoint_on_another(storm: Past) -> None:
    first, second = storm.came_through("moved", attempts=2)
    assert second == STEPS - storm.noted["dead"]["checkpoint"]
    assert first + second >= STEPS
    assert storm.noted["nodes"]["moved"] == "n1"
    assert storm.noted["nodes_at_last"]["moved"] in ("n2", "n3", "n4")
    assert storm.jobs["moved"] == ["NODE_FAIL", "COMPLETED"]


def test_a_run_of_two_nodes_survives_the_loss_of_one(storm: Past) -> None:
    storm.came_through(TOGETHER, attempts=2)
    assert storm.noted["nodes"][TOGETHER] == "n[1-2]"
    assert "n1" not in storm.noted["nodes_at_last"][TOGETHER]
    assert storm.jobs[TOGETHER] == ["NODE_FAIL", "COMPLETED"]


def test_a_checkpoint_that_is_cut_short_is_passed_over_for_the_one_before(storm: Past) -> None:
    first, second = storm.came_through("damaged", attempts=2)
    damaged = storm.noted["damaged"]
    assert first == damaged["newest"]
    assert second == STEPS - damaged["before"]
    assert f"step-{damaged['newest']:09d}.ckpt is skipped: its SHA-256 is not" in storm.log("damaged")


def test_a_run_that_the_administrator_cancelled_waits_for_its_user(storm: Past) -> None:
    cancelled = storm.noted["cancelled"]
    assert cancelled["state"] == "CANCELLED"
    assert cancelled["row"]["failure"] == "cancelled"
    assert "cancelled by root" in cancelled["row"]["reason"]
    assert storm.noted["sent_again"].count("1 run in 1 job") == 1
    first, second = storm.came_through("cancelled", attempts=2)
    assert first + second == STEPS
