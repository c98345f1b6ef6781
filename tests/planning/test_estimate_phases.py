"""The time of a run has its phases and an interval; runs of too different a shape say nothing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import pytest
from scipy.stats import t

from lab.composition.compose import compose
from lab.planning.forecast.budget import Budget, fit_budget
from lab.planning.forecast.detectable import detectable
from lab.planning.forecast.estimate import Estimate, Speeds, estimate, estimates, validation_tokens
from lab.planning.forecast.history import FinishedRun
from lab.planning.forecast.makespan import makespan
from lab.planning.forecast.phases import ALONE, LEAST, OTHER_SHAPE, spread
from lab.planning.forecast.remaining import remaining
from lab.planning.plan.model import PlannedRun
from lab.planning.show.notes import notes
from lab.planning.show.preview import PlanPreview
from lab.records import EvaluationProgress, Progress
from tests.planning.plans import shipped
from tests.planning.test_estimate import HERE, measured

SECONDS = {"start-up": 6.0, "training": 60.0, "validation": 10.0, "checkpoints": 2.0, "evaluations/far": 30.0}


def timed(arm: str, speed: float, seconds: Mapping[str, float] = SECONDS, **workload: Any) -> FinishedRun:
    run = measured(arm, speed, **workload)
    return dataclasses.replace(run, seconds=seconds, validation_tokens=20_000.0)


def evaluated(arm: str) -> PlannedRun:
    """A run of the quickstart with an evaluation at its end."""
    run = shipped().arms[arm][0]
    with_evaluation = compose("gemma2_tiny", ["evaluate.far=context"]).experiment.evaluate
    return dataclasses.replace(run, experiment=dataclasses.replace(run.experiment, evaluate=with_evaluation))


def test_the_time_of_a_run_is_the_sum_of_its_phases() -> None:
    run = evaluated("mha")
    found = estimate(run, Speeds([timed("mha", 2000)], HERE))
    assert found.parts == pytest.approx(
        {
            "training": run.tokens / 2000,
            "validation": validation_tokens(run.experiment) / 2000,  # 20,000 tokens in 10 seconds
            "start-up": 6.0,
            "checkpoints": 2.0,
            "evaluations/far": 30.0,
        }
    )
    assert found.seconds == pytest.approx(sum(found.parts.values()))
    assert found.left_out == ()


def test_an_evaluation_that_nobody_measured_is_named_and_not_counted() -> None:
    run = evaluated("mha")
    found = estimate(run, Speeds([timed("mha", 2000, {**SECONDS, "evaluations/near": 9.0})], HERE))
    none = estimate(run, Speeds([timed("mha", 2000, {"start-up": 6.0})], HERE))
    assert "evaluations/far" in found.parts
    assert none.left_out == ("evaluations/far",)
    other = dataclasses.replace(timed("mha", 2000), experiment="another")
    assert estimate(run, Speeds([other], HERE)).left_out == ("evaluations/far",)


def test_the_interval_is_that_of_one_more_run() -> None:
    speeds = [2000.0, 2200.0, 1800.0, 2500.0]
    logs = [math.log(speed) for speed in speeds]
    mean = sum(logs) / 4
    sd = math.sqrt(sum((value - mean) ** 2 for value in logs) / 3)
    factor = math.exp(t.ppf(0.95, 3) * sd * math.sqrt(1.25))
    assert spread(speeds) == pytest.approx(factor)
    run = shipped().arms["mha"][0]
    found = estimate(run, Speeds([timed("mha", speed) for speed in speeds], HERE))
    assert (found.low, found.high) == pytest.approx((found.seconds / factor, found.seconds * factor))  # type: ignore[operator]
    assert spread([2000.0]) == ALONE
    assert spread([2000.0, 2000.0, 2000.0]) == LEAST


def ratio(found: Estimate) -> float:
    assert found.seconds is not None
    assert found.high is not None
    return found.high / found.seconds


def test_the_interval_is_wider_the_further_it_is_scaled() -> None:
    run = shipped().arms["mha"][0]
    flops = run.workload.flops_per_token

    def scaled(times: float) -> Estimate:
        return estimate(run, Speeds([timed("mha", 2000, digest="other", flops_per_token=flops / times)], HERE))

    own = estimate(run, Speeds([timed("mha", 2000)], HERE))
    assert ratio(own) == pytest.approx(ALONE)
    assert ratio(scaled(1)) == pytest.approx(ALONE * OTHER_SHAPE)
    assert ratio(scaled(1)) < ratio(scaled(2)) < ratio(scaled(3))


@pytest.mark.parametrize(
    ("changes", "is_known"),
    [
        ({"flops_per_token": 1 / 9}, True),
        ({"flops_per_token": 1 / 11}, False),
        ({"flops_per_token": 11}, False),
        ({"tokens_per_forward": 1 / 64}, True),
        ({"tokens_per_forward": 1 / 128}, False),
        ({"flops_per_token": 1 / 8, "tokens_per_forward": 1 / 16}, False),
    ],
)
def test_a_shape_too_far_away_gives_no_estimate(changes: dict[str, float], is_known: bool) -> None:
    run = shipped().arms["mha"][0]
    values = {
        key: type(value)(value * times) for key, times in changes.items() if (value := getattr(run.workload, key))
    }
    found = estimate(run, Speeds([timed("mha", 2000, digest="other", **values)], HERE))
    assert (found.basis != "unknown") is is_known
    assert (found.seconds is not None) is is_known
    if not is_known:
        assert (
            found.describe()
            == "unknown, as the measured runs have another shape: they say nothing about one of this size"
        )


def preview(past: list[FinishedRun], parallel: int) -> PlanPreview:
    plan = shipped()
    return PlanPreview(plan, {}, estimates(plan.runs, Speeds(past, HERE)), detectable(plan, past), parallel)


def test_the_plan_says_what_the_time_counts() -> None:
    everything = [timed("mha", 2000), timed("gemma2", 2000)]
    assert any("start-up, validation and evaluations are counted" in line for line in notes(preview(everything, 1)))
    assert any("; not counted: start-up" in line for line in notes(preview([measured("mha", 2000)], 1)))
    far = [measured("mha", 2000, digest="far", flops_per_token=1.0)]
    assert any(
        "time and memory: unknown, as the measured runs have another shape" in line for line in notes(preview(far, 1))
    )


def test_a_run_that_has_begun_needs_its_rest_alone() -> None:
    seconds = {**SECONDS, "evaluations/near": 9.0}
    run = shipped().arms["mha"][0]
    both = compose("gemma2_tiny", ["evaluate.far=context", "evaluate.near=recall"]).experiment.evaluate
    run = dataclasses.replace(run, experiment=dataclasses.replace(run.experiment, evaluate=both))
    whole = estimate(run, Speeds([timed("mha", 2000, seconds)], HERE))
    steps = run.experiment.train.steps

    def left(step: int, done: EvaluationProgress | None = None, *, is_running: bool = False) -> Estimate:
        return remaining(whole, Progress(step, steps, 0, evaluation=done), is_running=is_running)

    assert remaining(whole, None, is_running=False) == whole
    half = left(steps // 2)
    share = 1 - steps // 2 / steps
    halved = ("training", "validation", "checkpoints")
    assert half.parts == pytest.approx({name: s * (share if name in halved else 1) for name, s in whole.parts.items()})
    assert half.seconds == pytest.approx(sum(half.parts.values()))
    assert (half.low, half.high) == pytest.approx((half.seconds / half.factor, half.seconds * half.factor))  # type: ignore[operator]
    assert left(steps).seconds == pytest.approx(6.0 + 30.0 + 9.0)
    assert left(steps, EvaluationProgress("far", 1, 2, 0.25)).seconds == pytest.approx(6.0 + 22.5 + 9.0)
    assert left(steps, EvaluationProgress("near", 1, 1, 0.5), is_running=True).seconds == pytest.approx(4.5)
    lost = left(steps // 2, EvaluationProgress("near", 2, 2, 0.5))  # its last checkpoint is in the middle
    assert lost.seconds == half.seconds

    plan = dataclasses.replace(shipped(), runs=(run,))
    shown = preview([timed("mha", 2000, seconds)], 1)
    stopped = dataclasses.replace(shown, plan=plan, estimates={run.identity: whole}, left={run.identity: half})
    assert stopped.time_left([run]) == (half.seconds, half.low, half.high)


def test_runs_that_do_not_fill_the_last_round_are_counted_whole() -> None:
    assert makespan([(10.0, 1), (10.0, 1), (10.0, 1)], 2) == 20.0
    found = preview([timed("mha", 2000)], 3)
    runs = [run for runs in found.runs.values() for run in runs][:4]
    seconds = found.estimates[runs[0].identity].seconds
    left = found.time_left(runs[:1] * 4)
    assert left is not None
    assert left[0] == pytest.approx(2 * (seconds or 0))
    assert left[1] < left[0] < left[2]


def test_a_budget_of_hours_pays_for_start_up_and_evaluations() -> None:
    plan, past = shipped(), [timed("mha", 2000)]
    longer = [timed("mha", 2000, {**SECONDS, "start-up": 3600.0})]
    needed = [
        fit_budget(
            plan, Budget.parse("10h"), Speeds(runs, HERE), detectable(plan, runs), parallel=1, threads=1, gpu=False
        ).needed
        for runs in (past, longer)
    ]
    assert needed[1] - needed[0] == pytest.approx(8 * (3600 - 6) / 36_000)
