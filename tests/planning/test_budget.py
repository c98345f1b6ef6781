"""What a budget buys, against adding up every run by hand."""

from __future__ import annotations

import dataclasses
import heapq
from pathlib import Path

import pytest

from lab.planning.forecast.budget import Budget, BudgetFit, fit_budget
from lab.planning.forecast.detectable import Detectable, Noise
from lab.planning.forecast.estimate import Speeds, at_tokens, estimate, validation_tokens
from lab.planning.forecast.history import FinishedRun, Hardware
from lab.planning.forecast.power import smallest_effect
from lab.planning.plan.build import plan_sweep
from lab.planning.plan.model import PlannedRun
from lab.refusals import RequestError
from tests.planning.plans import shipped

HERE = Hardware("cpu", "Xeon", 1, "2.13")
GPU = Hardware("NVIDIA H100", None, None, "2.13")
POWER = Detectable("val/loss", Noise(0.01, 5, "this sweep"), 2, 3, 0.1, 40)


def speeds(hardware: Hardware = HERE, rate: float = 2000.0) -> Speeds:
    run = shipped().runs[0]
    past = FinishedRun(
        sweep="s", arm="a", seed=0, identity=run.identity, experiment="gemma2_tiny", baseline="a", role="report",
        created="2026", tokens=1, metrics={}, hardware=hardware, workload=run.workload, tokens_per_second=rate,
        memory_bytes=None,
    )  # fmt: skip
    return Speeds([past], hardware)


def fitted(
    text: str, hardware: Hardware = HERE, parallel: int = 2, threads: int = 1, power: Detectable = POWER
) -> BudgetFit:
    budget = Budget.parse(text)
    gpu = hardware.device != "cpu"
    return fit_budget(shipped(), budget, speeds(hardware), power, parallel=parallel, threads=threads, gpu=gpu)


@pytest.mark.parametrize(
    ("text", "unit", "amount"),
    [
        ("200gpuh", "gpuh", 720_000.0),
        ("2h", "h", 7200.0),
        ("90m", "m", 5400.0),
        ("1.5 h", "h", 5400.0),
        ("16CPUh", "cpuh", 57_600.0),
        ("1e18flops", "flops", 1e18),
        ("3FLOPs", "flops", 3.0),
    ],
)
def test_a_budget_is_a_number_and_a_unit(text: str, unit: str, amount: float) -> None:
    budget = Budget.parse(text)
    assert (budget.unit, budget.amount) == (unit, amount)


@pytest.mark.parametrize("text", ["", "2", "h", "2d", "two hours", "-3h", "1e18", "2h30m", "0h", "0.0flops", "1e999h"])
def test_what_is_no_budget_is_refused_with_examples(text: str) -> None:
    with pytest.raises(RequestError, match=r"--budget '.*': .*(2h|1e18flops)"):
        Budget.parse(text)


def retrained(run: PlannedRun, tokens: int, seed: int) -> PlannedRun:
    return dataclasses.replace(run, seed=seed, experiment=at_tokens(run.experiment, tokens))


def by_hand(seeds: int, tokens: int) -> list[PlannedRun]:
    """Every run of the quickstart with so many seeds and tokens."""
    return [retrained(runs[0], tokens, seed) for runs in shipped().arms.values() for seed in range(seeds)]


def test_flops_need_no_measurement_and_are_those_of_all_runs() -> None:
    found = fit_budget(shipped(), Budget.parse("1e14flops"), None, POWER, parallel=1, threads=1, gpu=False)
    assert [choice.seeds for choice in found.choices][:4] == [2, 3, 5, 8]
    for choice in found.choices:
        used = sum(run.total_flops for run in by_hand(choice.seeds, choice.tokens))
        more = sum(run.total_flops for run in by_hand(choice.seeds, choice.tokens + 2048))
        assert used <= 1e14 < more
        assert choice.used == pytest.approx(used / 1e14)
        assert choice.effect == smallest_effect(0.01, choice.seeds, 3)
    assert found.own is not None
    assert found.own.tokens == 59 * 2048
    assert sum(run.total_flops for run in by_hand(found.own.seeds, 120_000)) <= 1e14
    assert sum(run.total_flops for run in by_hand(found.own.seeds + 1, 120_000)) > 1e14
    assert found.needed == pytest.approx(sum(run.total_flops for run in shipped().runs) / 1e14)


def makespan(runs: list[PlannedRun], workers: int) -> float:
    free = [0.0] * workers
    for run in runs:
        heapq.heappush(free, heapq.heappop(free) + (estimate(run, speeds()).seconds or 0.0))
    return max(free)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_hours_are_this_machines_with_so_many_runs_at_once(workers: int) -> None:
    found = fitted("1h", parallel=workers)
    assert found.own is not None
    assert makespan(by_hand(found.own.seeds, 120_000), workers) <= 3600
    assert makespan(by_hand(found.own.seeds + 1, 120_000), workers) > 3600
    choice = found.choices[1]
    assert makespan(by_hand(3, choice.tokens), workers) == pytest.approx(choice.used * 3600, rel=0.03)
    assert 0.9 < choice.used <= 1


def test_device_hours_add_up_however_many_run_at_once() -> None:
    found = fitted("1gpuh", GPU, parallel=5)
    choice = found.choices[0]
    seconds = sum(
        (run.tokens + validation_tokens(run.experiment) / 3) * run.costs.flops_per_token
        for run in by_hand(2, choice.tokens)
    )
    first = shipped().runs[0].costs.flops_per_token
    assert choice.used == pytest.approx(seconds / (2000 * first) / 3600, rel=0.03)
    assert choice.tokens > 100 * 2048


def test_core_hours_count_each_thread() -> None:
    one, two = (fitted("1cpuh", threads=threads).own for threads in (1, 2))
    assert one is not None
    assert two is not None
    assert one.seeds == pytest.approx(2 * two.seeds, abs=1)


def test_more_seeds_leave_fewer_tokens_and_detect_less() -> None:
    choices = fitted("3h").choices
    assert [choice.tokens for choice in choices] == sorted((c.tokens for c in choices), reverse=True)
    effects = [choice.effect or 0.0 for choice in choices]
    assert effects == sorted(effects, reverse=True)
    warm_up = shipped().runs[0].experiment.schedule.warmup_tokens
    assert all(choice.tokens > warm_up for choice in choices)


def test_too_small_a_budget_fits_nothing() -> None:
    found = fitted("1m")
    assert found.own is None
    assert found.choices == ()
    assert found.needed > 1


def test_unknown_noise_leaves_the_effect_unknown() -> None:
    found = fitted("2h", power=dataclasses.replace(POWER, noise=Noise()))
    assert {choice.effect for choice in found.choices} == {None}


def test_without_a_measurement_it_says_what_to_measure() -> None:
    for text, gpu in (("2h", False), ("3cpuh", False), ("3gpuh", True)):
        with pytest.raises(RequestError, match=r"run `lab train gemma2_tiny` once .*1e15flops"):
            fit_budget(shipped(), Budget.parse(text), Speeds([], HERE), POWER, parallel=1, threads=1, gpu=gpu)
    with pytest.raises(RequestError, match="measured on a GPU"):
        fitted("3gpuh")
    with pytest.raises(RequestError, match="these runs use a GPU; give gpuh"):
        fitted("3cpuh", GPU)


def test_tuning_runs_count_towards_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sweeps").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps" / "tuned.yaml").write_text(
        "question: Tuned?\nexperiment: gemma2_tiny\nseeds: 2\narms: {a: {}, b: {model/heads: mha}}\n"
        "tune: {axes: {optimizer.lr: [1e-3, 2e-3, 4e-3]}, seeds: 2}\n"
    )
    tuned = plan_sweep("tuned")
    found = fit_budget(tuned, Budget.parse("1e15flops"), None, POWER, parallel=1, threads=1, gpu=False)
    of_arm = [runs[0].total_flops for runs in tuned.arms.values()]
    assert found.needed == pytest.approx(sum((3 * 2 + 2) * flops for flops in of_arm) / 1e15)
