"""The baseline's own noise: over its seeds, and along the end of its runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lab.comparison.compare import compare
from lab.comparison.read.collect import collect
from lab.comparison.statistics.noise import POINTS, at_end, spread_about_lines
from lab.comparison.tables import export
from lab.records import last_points
from tests.comparison.fake_runs import fake_run, fake_sweep
from tests.comparison.test_comparison_table import printed


def curve(folder: Path, values: list[float], every: int = 10, filler: int = 0, begin: int = 1) -> None:
    lines = []
    for step, value in enumerate(values, begin):
        lines += [json.dumps({"step": step * every - 1, "train/loss": 9.0, "note": "x" * 80})] * filler
        lines.append(json.dumps({"step": step * every, "tokens": step, "val/loss": value}))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def test_the_spread_about_a_line_is_that_of_numpys_residuals() -> None:
    generator = np.random.default_rng(0)
    tails, squares, degrees = [], 0.0, 0
    for n in (4, 5, 7):
        x, y = np.sort(generator.random(n)), generator.random(n)
        _, residuals, *_ = np.polyfit(x, y, 1, full=True)
        squares, degrees = squares + float(residuals[0]), degrees + n - 2
        tails.append(list(zip(map(float, x), map(float, y), strict=True)))
    assert spread_about_lines(tails) == pytest.approx((squares / degrees) ** 0.5)


def test_points_at_one_place_have_no_line() -> None:
    assert spread_about_lines([[(7, 1.0), (7, 2.0), (7, 3.0)]]) is None


def test_a_loss_that_falls_in_a_line_has_no_noise_and_nothing_has_none_to_tell() -> None:
    assert spread_about_lines([[(step, 5 - 0.1 * step) for step in range(5)]]) == pytest.approx(0, abs=1e-12)
    assert spread_about_lines([]) is None
    assert spread_about_lines([[(0, 1.0), (1, 2.0)]]) is None


def test_the_noise_along_runs_is_found_again() -> None:
    generator = np.random.default_rng(1)
    tails = [[(x, 3 - 0.02 * x + float(generator.normal(0, 0.01))) for x in range(POINTS)] for _ in range(500)]
    assert spread_about_lines(tails) == pytest.approx(0.01, rel=0.06)


@pytest.mark.parametrize("filler", [0, 200, 5_000])
def test_the_last_points_are_read_from_the_end_however_far_apart_they_are(tmp_path: Path, filler: int) -> None:
    curve(tmp_path, [5.0, 4.0, 3.0, 2.5, 2.25, 2.125, 2.0625], filler=filler)
    found = last_points(tmp_path / "metrics.jsonl", "val/loss", POINTS)
    assert found == [(30, 3.0), (40, 2.5), (50, 2.25), (60, 2.125), (70, 2.0625)]


def test_half_a_line_and_values_that_are_none_are_no_points(tmp_path: Path) -> None:
    text = (
        '{"step": 1, "val/loss": 3.0}\n{"step": 2, "val/loss": null}\n{"step": 3, "val/loss": 2.5}\n{"step": 4, "val/lo'
    )
    (tmp_path / "metrics.jsonl").write_text(text)
    assert last_points(tmp_path / "metrics.jsonl", "val/loss", POINTS) == [(1, 3.0), (3, 2.5)]
    assert last_points(tmp_path / "metrics.jsonl", "val/accuracy", POINTS) == []
    assert last_points(tmp_path / "nothing.jsonl", "val/loss", POINTS) == []


def test_a_loss_that_no_run_can_have_measured_is_no_point_of_the_baselines_noise(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": [3.20, 3.22]})
    for seed in range(2):
        curve(tmp_path / "softcap" / "both" / f"seed-{seed}", [3.3, 3.2, 3.2, 3.3, 1e308], begin=20)
    comparison = compare(collect(tmp_path, "softcap"))
    tail = list(enumerate([3.3, 3.2, 3.2, 3.3]))
    assert comparison.noise["val/loss"].points_sd == pytest.approx(spread_about_lines([tail]))
    assert export.as_json(comparison)


def test_a_curve_that_falls_over_the_whole_run_is_no_noise(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": [3.20, 3.22]})
    for seed in range(2):
        curve(tmp_path / "softcap" / "both" / f"seed-{seed}", [5.0, 4.0, 3.5, 3.25, 3.2])
    floor = compare(collect(tmp_path, "softcap")).noise["val/loss"]
    assert (floor.runs, floor.points_sd) == (0, None)
    assert floor.seeds_sd == pytest.approx(0.02 / 2**0.5)


def test_the_end_of_a_run_is_its_last_quarter() -> None:
    points = [(float(step), 1.0) for step in range(0, 101, 5)]
    assert at_end(points) == points[-6:]
    assert at_end([]) == []


def test_the_comparison_tells_the_baselines_noise_and_no_other_arms(tmp_path: Path) -> None:
    losses = [3.20, 3.22, 3.27]
    fake_sweep(tmp_path, {"both": [*losses, None], "neither": [3.0, 3.0, 3.0, 3.0]})
    tails = {0: [4.0, 3.5, 3.4, 3.32, 3.19, 3.20], 1: [3.6, 3.5, 3.38, 3.3, 3.22], 2: [3.3, 3.28, 3.27]}
    for seed, values in tails.items():
        curve(tmp_path / "softcap" / "both" / f"seed-{seed}", values, begin=20)
        curve(tmp_path / "softcap" / "neither" / f"seed-{seed}", [1, 9, 1, 9, 1], begin=20)
    comparison = compare(collect(tmp_path, "softcap"))
    floor = comparison.noise["val/loss"]
    assert (floor.seeds, floor.seeds_sd) == (3, pytest.approx(float(np.std(losses, ddof=1))))
    enough = [list(enumerate(values[-POINTS:])) for values in (tails[0], tails[1])]
    assert (floor.runs, floor.points_sd) == (2, pytest.approx(spread_about_lines(enough)))
    assert f"Noise of the baseline, validation loss: standard deviation {floor.seeds_sd:.4f} over 3 seeds, " in (
        printed(comparison)
    )
    (data,) = export.as_data(comparison)["noise"]
    assert data["points_sd"] == floor.points_sd
    assert (data["metric"], data["points"]) == ("val/loss", POINTS)


def test_without_a_baseline_and_with_one_seed_there_is_no_noise_to_tell(tmp_path: Path) -> None:
    fake_run(tmp_path, "neither", baseline="both")
    assert compare(collect(tmp_path, "softcap")).noise == {}
    fake_run(tmp_path, "both", baseline="both")
    assert "Noise" not in printed(compare(collect(tmp_path, "softcap")))
