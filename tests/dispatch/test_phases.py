"""Where the seconds of a run go, what it is doing, and how long the rest takes; by clocks that the tests set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from lab.dispatch.status import status
from lab.dispatch.status.table import line
from lab.dispatch.worker.attempt import FINISHED, PREEMPTED, Report, Stop, execute
from lab.dispatch.worker.claim import Claim
from lab.dispatch.worker.post_training_evaluation import (
    EvaluationReport,
    evaluation_seconds,
    with_evaluation_seconds,
)
from lab.records import EvaluationProgress, Phase, Progress, RunFolder, State, Status, Summary, write_json
from lab.training.progress.interruptions import Interruptions
from lab.training.progress.outcome import Outcome
from lab.training.progress.phase_clock import PhaseClock

Make = Callable[..., RunFolder]


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time

    def pass_(self, seconds: float) -> None:
        self.time += seconds


def at(step: int, phase: Phase = "training", evaluation: EvaluationProgress | None = None) -> Progress:
    return Progress(step, 10, 100 * step, 2.0, 50.0, phase, evaluation)


def test_every_second_belongs_to_one_phase() -> None:
    clock = Clock()
    phases = PhaseClock({"training": 7.0}, since=clock() - 3, now=clock)
    for seconds, progress in (
        (4.0, at(0)),
        (20.0, at(5, "validation")),
        (2.0, at(5)),
        (20.0, at(10, "checkpoints")),
        (1.0, at(10)),
        (0.5, at(10, "evaluations", EvaluationProgress("recall", 1, 2))),
        (5.0, at(10, "evaluations", EvaluationProgress("recall", 1, 2, 0.5))),
        (5.0, at(10, "evaluations", EvaluationProgress("far", 2, 2))),
    ):
        clock.pass_(seconds)
        phases.note(progress)
    clock.pass_(8.0)
    expected = {
        "start-up": 7.0, "training": 47.5, "validation": 2.0, "checkpoints": 1.0, "evaluations/recall": 10.0,
        "evaluations/far": 8.0,
    }  # fmt: skip
    assert phases.seconds() == expected
    assert sum(expected.values()) == 7.0 + clock() - 97.0


def attempt(run: RunFolder, monkeypatch: pytest.MonkeyPatch, status: str, seconds: Mapping[Phase, float]) -> int:
    """One attempt of a run that spends so many seconds in these phases, by a clock that the test sets."""
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)

    def train(run: RunFolder, report: Report, stop: Stop) -> Outcome:
        for phase, spent in seconds.items():
            report(at(10, phase))
            clock.pass_(spent)
        summary = Summary(status="finished")
        if status == "finished":
            run.summary = summary
        return Outcome(status, None, summary)  # type: ignore[arg-type]

    code = execute(run, train, stop=Stop(), capture=False)
    monkeypatch.undo()
    return code


def test_the_summary_has_the_seconds_of_all_attempts(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make("caps/both/seed-0")
    assert attempt(run, monkeypatch, "preempted", {"start-up": 3, "training": 30}) == PREEMPTED
    assert run.state.seconds == {"start-up": 3, "training": 30}
    second: Mapping[Phase, float] = {"start-up": 4, "training": 20, "validation": 6, "checkpoints": 1}
    assert attempt(run, monkeypatch, "finished", second) == FINISHED
    summary = run.summary
    assert summary is not None
    assert summary.seconds == {"start-up": 7, "training": 50, "validation": 6, "checkpoints": 1}
    assert sum(summary.seconds.values()) == 33 + 31
    assert run.state.seconds == summary.seconds


def test_a_worker_killed_after_its_summary_leaves_the_seconds_of_its_state(make: Make) -> None:
    run = make("caps/both/seed-0")
    run.summary = Summary(status="finished")
    run.state = State(status="running", attempts=1, seconds={"training": 9.0})
    assert execute(run, lambda run, report, stop: Outcome("finished", None), stop=Stop(), capture=False) == FINISHED
    assert run.summary is not None
    assert run.summary.seconds == {"training": 9.0}


def test_states_of_the_first_version_are_read(make: Make) -> None:
    run = make("caps/both/seed-0")
    progress = {"step": 3, "steps": 9, "tokens": 30, "loss": 2.0, "tokens_per_second": 10.0}
    write_json(run.path / "state.json", {"version": 1, "status": "running", "attempts": 1, "progress": progress})
    state = run.state
    assert state.progress == Progress(3, 9, 30, 2.0, 10.0)
    assert (state.seconds, state.eta()) == ({}, 6.0)


def row_of(make: Make, progress: Progress | None) -> status.StatusRow:
    run = make("caps/both/seed-3")
    Claim.take(run.path)
    run.state = State(status="running", attempts=1, progress=progress)
    return status.read_row(run)


def test_the_time_to_go_has_validation_checkpoints_and_evaluations(make: Make) -> None:
    later = replace(at(4), evaluations=2, seconds_after_steps=5.0)
    row = row_of(make, replace(later, evaluation_seconds=30.0))
    assert (row.eta, row.training_eta) == (600 / 50 + 5 + 30, 600 / 50 + 5)
    assert "47 s to go" in line(row)
    unknown = row_of(make, later)
    assert (unknown.eta, unknown.training_eta) == (None, 17.0)
    assert "17 s + 2 evaluations to go" in line(unknown)
    assert row_of(make, at(4)).eta == 12.0


def test_an_evaluation_is_named_with_how_far_it_is(make: Make) -> None:
    evaluation = EvaluationProgress("recall", 2, 3, 0.4)
    assert evaluation.text == "evaluating recall, 2 of 3, 40%"
    row = row_of(make, replace(at(10, "evaluations", evaluation), evaluations=3, evaluation_seconds=48.0))
    assert "48 s to go  evaluating recall, 2 of 3, 40%" in line(row)
    unknown = row_of(make, replace(at(10, "evaluations", evaluation), evaluations=3))
    assert "to go" not in line(unknown)
    assert (unknown.phase, unknown.evaluation, unknown.evaluation_done) == ("evaluations", "recall", 0.4)


@pytest.mark.parametrize("stopped", ["preempted", "lost", "failed"])
def test_a_run_that_stopped_in_an_evaluation_says_in_which(make: Make, stopped: Status) -> None:
    progress = replace(at(10, "evaluations", EvaluationProgress("recall", 2, 3, 0.4)), evaluations=3)
    run = make("caps/both/seed-3")
    run.state = State(status=stopped, attempts=1, progress=progress)
    row = status.read_row(run)
    assert "stopped in recall, 2 of 3, 40%" in line(row)
    assert "evaluating" not in line(row)
    assert (row.phase, row.eta) == (None, None)
    run.state = State(status="finished", attempts=1, progress=progress)
    assert "recall" not in line(status.read_row(run))


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        ("start-up", "starting"),
        ("building", "building native kernels"),
        ("validation", "validating"),
        ("checkpoints", "writing a checkpoint"),
    ],
)
def test_what_is_no_step_is_said(make: Make, phase: Phase, words: str) -> None:
    assert line(row_of(make, at(4, phase))).endswith(words)


def test_a_run_that_has_reported_nothing_is_starting(make: Make) -> None:
    assert line(row_of(make, None)).endswith("starting")


def test_evaluations_report_their_share_and_the_time_of_the_rest() -> None:
    clock, sent = Clock(), list[Progress]()
    report = EvaluationReport(sent.append, at(10), ["near", "far"], {"near": 20.0, "far": 7.0}, clock)
    report.begin("near")
    clock.pass_(5)
    report.note(1, 100, "")
    clock.pass_(5)
    report.note(50, 100, "context 8")
    report.begin("far")
    assert [progress.evaluation_seconds for progress in sent] == [27.0, 22.0, 17.0, 7.0]
    assert [progress.evaluation.text for progress in sent if progress.evaluation] == [
        "evaluating near, 1 of 2",
        "evaluating near, 1 of 2, 1%",
        "evaluating near, 1 of 2, 50%",
        "evaluating far, 2 of 2",
    ]
    unmeasured = EvaluationReport(sent.append, at(10), ["near", "far"], {"near": 20.0}, clock)
    unmeasured.begin("near")
    assert sent[-1].evaluation_seconds is None


def test_the_seconds_of_evaluations_are_those_of_other_runs_of_the_sweep(make: Make) -> None:
    run = make("caps/both/seed-9")
    for seed, seconds in enumerate((4.0, 6.0, 50.0)):
        sibling = make(f"caps/both/seed-{seed}")
        sibling.summary = Summary(status="finished", seconds={"training": 9.0, "evaluations/far": seconds})
    assert evaluation_seconds(run) == {"far": 6.0}
    sent = list[Progress]()
    with_evaluation_seconds(run, ["far"], sent.append)(at(3))
    with_evaluation_seconds(run, ["far", "near"], sent.append)(at(3))
    with_evaluation_seconds(run, [], sent.append)(at(3))
    assert [progress.evaluation_seconds for progress in sent] == [6.0, None, 0]


def test_validations_to_come_take_as_long_as_those_before() -> None:
    interruptions = Interruptions()
    assert interruptions.seconds_left(4) == 0
    for seconds in (2.0, 4.0):
        interruptions.note("validation", seconds)
    interruptions.note("checkpoints", 1.0)
    assert interruptions.seconds_left(4) == 4 * 3 + 1
    assert interruptions.seconds_left(0) == 0
