"""`runs_per_job: auto`: short runs share jobs, long ones don't, and what isn't known is sent alone. Needs no Slurm."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.dispatch.launchers.slurm.send.packing import FLOPS_PER_JOB, resolved
from lab.dispatch.launchers.slurm.send.settings import Settings
from lab.records import RunFolder


def runs(n: int) -> list[RunFolder]:
    return [RunFolder(Path(f"/nowhere/caps/both/seed-{seed}")) for seed in range(n)]


def per_job(flops: list[float], **settings: object) -> int:
    planned = runs(len(flops))
    options = {"runs_per_job": "auto", **settings}
    by_name = {run.name: value for run, value in zip(planned, flops, strict=True)}
    return resolved(Settings(**options), planned, by_name).per_job  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("flops", "expected"),
    [
        ([FLOPS_PER_JOB / 100] * 24, 24),
        ([FLOPS_PER_JOB / 10] * 24, 8),  # three jobs of eight, not two of ten and one of four
        ([FLOPS_PER_JOB / 10] * 25, 9),
        ([FLOPS_PER_JOB] * 5, 1),
        ([FLOPS_PER_JOB * 50] * 5, 1),
        ([FLOPS_PER_JOB / 100] * 7 + [FLOPS_PER_JOB / 2], 2),  # by the longest
    ],
)
def test_jobs_are_as_few_as_hold_the_budget_and_equally_full(flops: list[float], expected: int) -> None:
    assert per_job(flops) == expected
    jobs = -(-len(flops) // expected)
    assert expected == 1 or max(flops) * expected <= FLOPS_PER_JOB
    assert expected == 1 or max(flops) * -(-len(flops) // max(1, jobs - 1)) > FLOPS_PER_JOB or jobs == 1


def test_runs_side_by_side_fill_their_job() -> None:
    assert per_job([FLOPS_PER_JOB] * 5, side_by_side=4) == 4


def test_runs_of_several_processes_or_of_unknown_length_are_sent_alone() -> None:
    assert per_job([1.0] * 5, tasks_per_node=2) == 1
    assert resolved(Settings(runs_per_job="auto"), runs(5)).per_job == 1
    assert resolved(Settings(runs_per_job="auto"), []).per_job == 1


def test_a_number_stays() -> None:
    settings = Settings(runs_per_job=3)
    assert resolved(settings, runs(5), {}) is settings


def test_settings_keep_auto_in_the_journal() -> None:
    settings = Settings(runs_per_job="auto", side_by_side=2)
    settings.check()
    assert Settings.of(settings.as_dict()) == settings
