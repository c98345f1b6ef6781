"""Curves over steps, tokens, FLOPs and seconds; bands and differences against naive loops."""

import json
import math
import random
import statistics
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from lab.comparison.read.collect import collect
from lab.comparison.read.curves import Band, MetricCurve, averaged_runs, band, difference, run_curve, run_curves
from lab.comparison.read.results import ArmResults, RunResult
from lab.records import RunFolder, write_json
from tests.comparison.fake_runs import STEPS, arm_curves, fake_run, fake_sweep
from tests.records.made import info


def points(folder: RunFolder, lines: list[dict[str, Any]], torn: str = "") -> RunResult:
    (folder.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + torn)
    return RunResult(str(folder.record.arm), folder.record.seed or 0, folder.identity, "running", folder)


def noisy(seed: int, every: int = 1, end: int = 40) -> MetricCurve:
    draw = random.Random(seed)
    x = tuple(float(step) for step in range(every, end + 1, every))
    return MetricCurve(x, tuple(3 + math.exp(-place / 8) + draw.gauss(0, 0.1) for place in x))


def naive(values: dict[float, list[float]], level: float) -> list[tuple[float, float, float, float]]:
    """x → values over seeds, to (x, mean, low, high), by the textbook."""
    found = []
    for x in sorted(values):
        mean, n = statistics.fmean(values[x]), len(values[x])
        half = stats.t.ppf((1 + level) / 2, n - 1) * statistics.stdev(values[x]) / math.sqrt(n)
        found.append((x, mean, mean - half, mean + half))
    return found


def rows(found: Band) -> list[tuple[float, ...]]:
    assert found.low is not None
    assert found.high is not None
    return list(zip(found.x, found.mean, found.low, found.high, strict=True))


def assert_rows(found: Band, expected: list[tuple[float, float, float, float]]) -> None:
    assert len(found.x) == len(expected)
    for got, wanted in zip(rows(found), expected, strict=True):
        assert got == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("n", [2, 3, 10])
def test_a_band_is_the_t_interval_over_seeds_at_every_point(n: int, level: float) -> None:
    curves = {seed: noisy(seed) for seed in range(n)}
    values = {x: [curve.y[i] for curve in curves.values()] for i, x in enumerate(curves[0].x)}
    found = band(curves, level)
    assert_rows(found, naive(values, level))
    assert found.seeds == tuple(range(n))


def test_a_difference_is_paired_by_seed_before_its_interval_is_taken() -> None:
    baseline = {seed: noisy(seed) for seed in range(4)}
    # Shifted by nearly the same on every seed: pairing takes the noise between the seeds away.
    arm = {seed: MetricCurve(c.x, tuple(y - 0.05 - seed / 1000 for y in c.y)) for seed, c in baseline.items()}
    found = difference(arm, baseline)
    values = {x: [arm[s].y[i] - baseline[s].y[i] for s in range(4)] for i, x in enumerate(baseline[0].x)}
    assert_rows(found, naive(values, 0.95))
    assert found.mean == pytest.approx([-0.0515] * STEPS)


def test_a_difference_is_over_the_seeds_that_both_have() -> None:
    arm, baseline = {seed: noisy(seed) for seed in (0, 1, 2)}, {seed: noisy(seed + 9) for seed in (1, 2, 5)}
    assert difference(arm, baseline).seeds == (1, 2)
    assert difference(arm, baseline) == difference({s: arm[s] for s in (1, 2)}, {s: baseline[s] for s in (1, 2)})
    assert difference(arm, {7: noisy(7)}) == Band((), (), None, None, ())


def test_one_seed_has_a_mean_and_no_interval() -> None:
    found = band({3: noisy(3)})
    assert (found.x, found.mean, found.low, found.high, found.seeds) == (noisy(3).x, noisy(3).y, None, None, (3,))


def test_seeds_of_different_cadence_are_joined_on_the_tokens_that_all_have() -> None:
    found = band({0: noisy(0, every=4), 1: noisy(1, every=6), 2: noisy(2, every=2)})
    assert found.x == (12.0, 24.0, 36.0)
    assert found.mean[1] == pytest.approx((noisy(0, 4).y[5] + noisy(1, 6).y[3] + noisy(2, 2).y[11]) / 3)


def test_a_seed_that_stopped_early_ends_the_band_where_it_stopped() -> None:
    assert band({0: noisy(0), 1: noisy(1, end=17)}).x == noisy(1, end=17).x


def test_a_seed_without_a_point_is_not_counted() -> None:
    assert band({0: noisy(0), 1: MetricCurve((), ())}).seeds == (0,)
    assert band({}) == Band((), (), None, None, ())


def test_over_seconds_values_lie_on_lines_between_points_and_never_beyond_them() -> None:
    sparse = MetricCurve((10.0, 20.0, 30.0, 40.0), (4.0, 3.0, 2.0, 1.0), "seconds")
    dense = MetricCurve((12.0, 18.0, 22.0, 26.0, 34.0), (5.0, 4.4, 4.0, 3.6, 2.8), "seconds")
    found = band({0: sparse, 1: dense})
    assert found.x == (20.0, 30.0)  # neither before the one's first point nor after its last
    assert found.mean == pytest.approx([(3.0 + 4.2) / 2, (2.0 + 3.2) / 2])
    gap = difference({0: dense}, {0: sparse})
    assert (gap.x, gap.mean) == ((20.0, 30.0), pytest.approx((1.2, 1.2)))


def test_curves_that_never_overlap_have_no_band() -> None:
    early, late = MetricCurve((1.0, 2.0), (3.0, 3.0), "flops"), MetricCurve((5.0, 6.0), (2.0, 2.0), "flops")
    assert difference({0: late}, {0: early}).x == ()


def test_curves_over_different_axes_are_refused() -> None:
    with pytest.raises(ValueError, match="curves over flops and tokens"):
        band({0: MetricCurve((1.0,), (1.0,), "flops"), 1: MetricCurve((1.0,), (1.0,), "tokens")})
    with pytest.raises(ValueError, match=r"level: .* 95"):
        band({0: noisy(0)}, level=95)


def test_x_is_the_step_its_tokens_its_flops_or_its_seconds(tmp_path: Path) -> None:
    run = fake_run(tmp_path, curves=True)
    found = run_curves(RunResult("both", 0, run.identity, "finished", run), ("val/loss",), ("step", "tokens", "flops"))
    steps = (10, 20, 30, 40)
    assert found["val/loss", "step"].x == steps
    assert found["val/loss", "tokens"].x == tuple(step * 512 for step in steps)
    assert found["val/loss", "flops"].x == tuple(step * 512 * 7.5e6 for step in steps)
    assert run_curve(RunResult("both", 0, run.identity, "finished", run), "val/loss", "seconds").x == steps


def test_flops_include_those_of_the_teacher(tmp_path: Path) -> None:
    run = fake_run(tmp_path, curves=True)
    need = {"path": "recipe.teacher", "identity": "e" * 64, "run": "a/b/seed-0", "flops_per_token": 2.5e6}
    write_json(run.path / "run.json", info(run) | {"needs": [need]})
    assert (
        run_curve(RunResult("both", 0, run.identity, "finished", run), "val/loss", "flops").x[-1] == STEPS * 512 * 10e6
    )


@pytest.mark.parametrize("needs", [["x"], [None], "x", 3, [{"flops_per_token": "y"}], [{"flops_per_token": 10**400}]])
def test_a_teacher_that_cant_be_read_leaves_the_flops_unknown(tmp_path: Path, needs: Any) -> None:
    run = fake_run(tmp_path, curves=True)
    result = RunResult("both", 0, run.identity, "finished", run)
    write_json(run.path / "run.json", info(run) | {"needs": needs})
    found = run_curves(result, ("val/loss",), ("flops", "tokens"))
    assert [len(found["val/loss", axis]) for axis in ("flops", "tokens")] == [0, 4]


def test_where_the_clock_steps_back_points_wait_until_it_is_past_what_it_reached(tmp_path: Path) -> None:
    times = {1: 10.0, 2: 20.0, 3: 30.0, 4: 15.0, 5: 30.0, 6: 31.0, 7: 40.0}
    lines = [{"step": s, "tokens": s, "time": time, "val/loss": 5.0 - s / 2} for s, time in times.items()]
    run = points(fake_run(tmp_path), lines)
    found = run_curve(run, "val/loss", "seconds")
    assert found == MetricCurve((10.0, 20.0, 30.0, 31.0, 40.0), (4.5, 4.0, 3.5, 2.0, 1.5), "seconds")
    assert len(run_curve(run, "val/loss")) == 7
    straight = MetricCurve((10.0, 35.5, 40.0), (1.0, 1.0, 1.0), "seconds")
    assert band({0: found, 1: straight}).mean[1] == pytest.approx((1.75 + 1) / 2)


def test_places_that_no_float_holds_are_left_out(tmp_path: Path) -> None:
    lines = [{"step": s, "tokens": s * 1e10, "val/loss": 3.0} for s in (1, 2, 1e300)]
    assert run_curve(points(fake_run(tmp_path), lines), "val/loss").x == (1e10, 2e10)
    run = points(fake_run(tmp_path, seed=1), [{"step": 1e-10, "tokens": 1e308, "val/loss": 3.0}])
    assert len(run_curve(run, "val/loss")) == 0


def test_an_evaluations_point_has_the_tokens_and_seconds_of_its_step(tmp_path: Path) -> None:
    lines = [{"step": s, "tokens": s * 64, "time": s / 2, "train/loss": 3.0} for s in (1, 2, 3)]
    run = points(fake_run(tmp_path), [*lines, {"step": 3, "recall/accuracy": 0.5}, {"step": 9, "recall/accuracy": 0.6}])
    assert run_curve(run, "recall/accuracy").x == (192.0, 576.0)
    assert run_curve(run, "recall/accuracy", "seconds") == MetricCurve((1.5,), (0.5,), "seconds")


def test_tokens_per_step_follow_from_the_summary_or_the_configuration_where_no_point_says(tmp_path: Path) -> None:
    folder = fake_run(tmp_path)
    run = points(folder, [{"step": 3, "recall/accuracy": 0.5}])
    assert run_curve(run, "recall/accuracy").x == ()
    (folder.path / "config.yaml").write_text("train: {context: 32, global_batch: 4}\n")
    assert run_curve(run, "recall/accuracy").x == (384.0,)
    measured = RunResult("both", 0, run.identity, "finished", folder, costs={"tokens": 640, "steps": 10})
    assert run_curve(measured, "recall/accuracy").x == (192.0,)


def test_what_a_run_never_recorded_is_an_empty_curve(tmp_path: Path) -> None:
    run = fake_run(tmp_path, curves=True)
    assert len(run_curve(RunResult("both", 0, run.identity, "finished", run), "far/accuracy")) == 0
    assert len(run_curve(RunResult("both", 1, "", "missing"), "val/loss")) == 0
    queued = fake_run(tmp_path, seed=2, status="queued")
    assert len(run_curve(RunResult("both", 2, queued.identity, "queued", queued), "val/loss")) == 0
    write_json(run.path / "run.json", {key: value for key, value in info(run).items() if key != "costs"})
    assert len(run_curve(RunResult("both", 0, run.identity, "finished", run), "val/loss", "flops")) == 0


@pytest.mark.parametrize("torn", ['{"step": 3, "tokens": 96, "val/lo', '{"step": 3, "tokens": 96, "val/loss": 1.0}'])
def test_a_line_that_is_still_being_written_is_left_out(tmp_path: Path, torn: str) -> None:
    lines = [{"step": s, "tokens": s * 32, "val/loss": 4.0 - s} for s in (1, 2)]
    run = points(fake_run(tmp_path), lines, torn)
    assert run_curve(run, "val/loss") == MetricCurve((32.0, 64.0), (3.0, 2.0))


def test_a_line_that_cannot_be_read_ends_the_curve(tmp_path: Path) -> None:
    lines = [{"step": s, "tokens": s * 32, "val/loss": 4.0 - s} for s in (1, 2)]
    run = points(fake_run(tmp_path), lines, '{"step": 3, "val/loss": 1.0, "\n{"step": 4, "val/loss": 1.0}\n')
    assert run_curve(run, "val/loss").x == (32.0, 64.0)


def test_a_value_that_is_not_finite_is_no_point_and_a_later_one_of_a_step_counts(tmp_path: Path) -> None:
    values = [(2, 3.0), (1, 4.0), (3, math.nan), (4, math.inf), (5, None), (2, 2.5)]
    lines = [{"step": step, "tokens": step, "val/loss": value} for step, value in values]
    assert run_curve(points(fake_run(tmp_path), lines), "val/loss") == MetricCurve((1.0, 2.0), (4.0, 2.5))


def test_a_metric_that_another_ends_in_is_distinguished_from_it(tmp_path: Path) -> None:
    lines = [
        {"step": 1, "tokens": 1, "far/val/loss": 9.0},
        {"step": 2, "tokens": 2, "far/val/loss": 9.0, "val/loss": 1.0},
    ]
    assert run_curve(points(fake_run(tmp_path), lines), "val/loss") == MetricCurve((2.0,), (1.0,))


def test_an_arms_mean_is_over_its_finished_runs_once_two_have(tmp_path: Path) -> None:
    def seeds(*statuses: str) -> list[int]:
        return list(
            averaged_runs(
                ArmResults("a", {}, {s: RunResult("a", s, "", status) for s, status in enumerate(statuses)}, {})
            )
        )

    assert seeds("running", "preempted", "queued") == [0, 1, 2]
    assert seeds("finished", "running", "failed") == [0, 1]
    assert seeds("finished", "running", "finished", "diverged") == [0, 2]
    assert seeds("diverged", "lost", "cancelled", "blocked", "missing") == []


def test_a_diverged_seed_is_in_no_mean(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": [3.0, 3.2, None]}, curves=True)
    arm = collect(tmp_path, "softcap").arms["both"]
    assert set(arm_curves(arm, "val/loss")) == {0, 1}
    assert len(run_curve(arm.runs[2], "val/loss")) == 2  # it has a curve, up to where it diverged
    assert band(arm_curves(arm, "val/loss")).mean[-1] == pytest.approx(3.1)
