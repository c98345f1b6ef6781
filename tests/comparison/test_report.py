"""What a report is made of, and the command that makes it."""

from __future__ import annotations

import math
import os
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from lab.cli.main import cli
from lab.comparison.compare import compare
from lab.comparison.read.collect import collect
from lab.records import State
from lab.refusals import RequestError
from lab.report.page import report
from lab.report.panels.audit import reproducibility
from lab.report.panels.results import pareto
from lab.report.report_data import MOST_CHARTED, ReportData, read_report_data
from lab.report.scales import scale, short_count
from lab.report.thinning import POINTS_PER_LINE, envelope, thin
from lab.report.wording import decimals_for, fixed
from tests.comparison.fake_runs import fake_run, fake_sweep
from tests.comparison.report_runs import SWEEP, rich_sweep

LOSSES = {"both": [3.20, 3.22, 3.24], "cap_only": [3.19, 3.32, 3.30], "neither": [3.50, 3.52, None]}


def facts(root: Path, sweep: str = "softcap") -> ReportData:
    return read_report_data(root, compare(collect(root, sweep)))


def ask(root: Path, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["report", *arguments, "--root", str(root)], standalone_mode=False)
    return (2, str(done.exception)) if isinstance(done.exception, RequestError) else (done.exit_code, done.output)


def test_the_command_says_where_the_page_is(tmp_path: Path) -> None:
    fake_sweep(tmp_path, LOSSES)
    code, said = ask(tmp_path, "softcap")
    path = tmp_path / "softcap" / "report.html"
    assert (code, said.split(" (")[0]) == (0, f"Wrote {path}")
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    code, _ = ask(tmp_path, "softcap", "--out", str(tmp_path / "elsewhere.html"))
    assert code == 0
    assert (tmp_path / "elsewhere.html").is_file()


def test_its_own_page_doesnt_count_as_a_run(tmp_path: Path) -> None:
    fake_sweep(tmp_path, LOSSES)
    ask(tmp_path, "softcap")
    assert collect(tmp_path, "softcap").broken == ()


@pytest.mark.parametrize("where", ["nowhere/report.html", "."])
def test_a_place_that_cant_be_written_is_refused_by_name_and_nothing_is_left(tmp_path: Path, where: str) -> None:
    root = tmp_path / "runs"
    fake_sweep(root, LOSSES)
    code, said = ask(root, "softcap", "--out", str(tmp_path / where))
    assert code == 2
    assert str(tmp_path / where.partition("/")[0]) in said
    assert "\n" not in said
    assert os.listdir(tmp_path) == ["runs"]


def test_an_unknown_sweep_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    fake_sweep(tmp_path, LOSSES)
    code, said = ask(tmp_path, "softcup")
    assert (code, "did you mean 'softcap'?" in said) == (2, True)


def test_a_report_that_fails_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_sweep(tmp_path, LOSSES)
    ask(tmp_path, "softcap")
    path = tmp_path / "softcap" / "report.html"
    before = path.read_text(encoding="utf-8")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    code, said = ask(tmp_path, "softcap")
    assert (code, "No space left on device" in said) == (2, True)
    assert path.read_text(encoding="utf-8") == before
    assert sorted(os.listdir(path.parent)) == ["both", "cap_only", "neither", "report.html"]


def test_the_sentence_says_what_was_found_and_how_far_it_is(tmp_path: Path) -> None:
    fake_sweep(tmp_path, LOSSES)
    text = words(report(tmp_path, "softcap"), "sentence")
    assert text.startswith("On validation loss, ")
    assert "can't be told from" in text
    assert "So far 8 of 9 runs have finished (1 diverged)." in text
    assert "Some seed diverged in neither." in text


def test_before_anything_has_run_every_panel_says_what_would_fill_it(tmp_path: Path) -> None:
    for arm in ("both", "neither"):
        fake_run(tmp_path, arm, status="queued")
    page = report(tmp_path, "softcap")
    assert "No verdict yet" in words(page, "sentence")
    assert "So far 0 of 2 runs have finished (2 queued)." in words(page, "sentence")
    empty = re.findall(r'<section id="(\w+)" class="empty">', page)
    assert empty == ["forest", "effects", "pareto", "curves", "positions", "recall", "attention", "scaling"]
    assert len(re.findall(r'<div class="missing"><p>.+?</p><code>lab .+?</code></div>', page)) == len(empty)


def test_a_sweep_without_its_baseline_is_reported(tmp_path: Path) -> None:
    fake_run(tmp_path, "neither", baseline="both")
    assert "which has no runs" in words(report(tmp_path, "softcap"), "sentence")


def test_what_is_broken_is_passed_over_and_told(tmp_path: Path) -> None:
    rich_sweep(tmp_path)
    run = tmp_path / SWEEP / "global" / "seed-0"
    (run / "evaluations" / "context.json").write_text("{")
    (run / "evaluations" / "recall.json").write_text(
        '{"evaluator": "recall", "curves": {"x": {"points": [["a", null]]}}}'
    )
    odd = '{"evaluator": "stability", "metrics": [1], "curves": [], "details": "none"}'
    (run / "evaluations" / "stability.json").write_text(odd)
    (tmp_path / SWEEP / "global" / "seed-1" / "run.json").write_text("{")
    (tmp_path / SWEEP / "global" / "seed-2" / "config.yaml").write_text("{a: [")
    page = report(tmp_path, SWEEP)
    assert "Can’t be read: seed-1" in page
    assert "2 of 3" in page


def test_only_so_many_arms_are_drawn_the_baseline_and_the_best(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {f"arm{i}": [4.0 - 0.1 * i] for i in range(12)}, curves=True)
    found = facts(tmp_path)
    assert [arm.name for arm in found.charted] == ["arm0", *(f"arm{i}" for i in range(5, 12))]
    assert [arm.slot for arm in found.charted] == list(range(MOST_CHARTED))
    assert "Charts show the baseline and the 7 best of 12 arms by val/loss." in report(tmp_path, "softcap")


def test_a_hundred_runs_stay_well_below_eight_megabytes(tmp_path: Path) -> None:
    losses: dict[str, list[float | None]] = {
        f"arm{i}": [3.0 + 0.01 * i + 0.001 * s for s in range(5)] for i in range(20)
    }
    fake_sweep(tmp_path, losses, curves=True)
    assert len(report(tmp_path, "softcap").encode()) < 2_000_000


def test_pictures_beyond_the_budget_are_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lab.report.panels.measurements import attention

    rich_sweep(tmp_path)
    size = (tmp_path / SWEEP / "global" / "seed-0" / "evaluations" / "attention_maps" / "maps.png").stat().st_size
    monkeypatch.setattr(attention, "PICTURE_BYTES", 3 * size)
    page = report(tmp_path, SWEEP)
    assert page.count("data:image/png") == 3
    assert "1 picture left out" in page


def test_configurations_differ_in_what_they_differ_seeds_aside(tmp_path: Path) -> None:
    rich_sweep(tmp_path)
    found = facts(tmp_path, SWEEP)
    assert found.arms[0].differs == {}
    assert found.arms[1].differs["model.d_ff"] == (128, 136)
    assert set(found.arms[1].differs) == {"model.d_ff", "note"}
    assert all(arm.uneven == () for arm in found.arms)
    config = tmp_path / SWEEP / "global" / "seed-1" / "config.yaml"
    config.write_text(config.read_text().replace("128", "127"))
    assert facts(tmp_path, SWEEP).arms[0].uneven == ("model.d_ff",)


def test_slurm_jobs_are_found_by_their_task(tmp_path: Path) -> None:
    rich_sweep(tmp_path)
    assert [run.jobs for run in facts(tmp_path, SWEEP).arms[0].runs] == [("4711_0",), ("4711_1",), ("4711_2",)]


def test_hours_count_every_process(tmp_path: Path) -> None:
    rich_sweep(tmp_path)
    # 9 finished runs and a diverged one of 60 s each on two GPUs.
    assert reproducibility.hours(facts(tmp_path, SWEEP).runs) == pytest.approx((10 * 60 * 2 / 3600, 0))


def test_the_command_of_a_run_is_safe_to_paste(tmp_path: Path) -> None:
    rich_sweep(tmp_path)
    runs = list(facts(tmp_path, SWEEP).runs)
    assert reproducibility.train_command(runs[0]) == "lab train gemma2_tiny note=global seed=0"
    assert "'note=<img" in str(reproducibility.train_command(runs[3]))


def test_restarts_are_counted(tmp_path: Path) -> None:
    run = fake_run(tmp_path)
    run.state = State(status="finished", attempts=3)
    assert "2 restarts or requeues, in 1 run" in report(tmp_path, "softcap")


def test_a_run_says_where_its_seconds_went(tmp_path: Path) -> None:
    run = fake_run(tmp_path)
    assert run.summary is not None
    seconds = {"start-up": 6.0, "training": 80.0, "evaluations/recall": 14.0}
    run.summary = replace(run.summary, seconds=seconds)
    assert "1.7 min in all: start-up 6 s, training 80 s, evaluations recall 14 s" in report(tmp_path, "softcap")


def test_the_front_holds_whom_nobody_beats_on_both(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"a": [3.0], "b": [2.9], "c": [3.1]})
    arms = {arm.name: arm for arm in facts(tmp_path).arms}

    def front(costs: dict[str, tuple[float, float]], more: bool, direction: str) -> list[str]:
        held = [pareto.ArmPoint(arms[name], cost, value, ()) for name, (cost, value) in costs.items()]
        return [place.arm.name for place in pareto.front(held, more, direction)]

    assert front({"a": (1, 3.0), "b": (2, 2.9), "c": (2, 3.1)}, False, "lower") == ["a", "b"]
    assert front({"a": (1, 3.0), "b": (2, 2.9), "c": (2, 3.1)}, True, "lower") == ["b"]
    assert front({"a": (1, 3.0), "b": (2, 2.9), "c": (2, 3.1)}, False, "higher") == ["a", "c"]
    assert front({"a": (1, 3.0), "b": (1, 3.0)}, False, "lower") == ["a"]


def test_thinning_keeps_the_ends_and_every_extreme() -> None:
    draw = random.Random(0)
    y = [draw.gauss(0, 1) for _ in range(5000)]
    y[1234], y[3210] = 50.0, -50.0
    xs, ys = thin(range(5000), y)
    assert len(xs) <= POINTS_PER_LINE + 2
    assert (xs[0], xs[-1], max(ys), min(ys)) == (0, 4999, 50.0, -50.0)
    assert xs == sorted(xs)
    assert all(y[int(a)] == b for a, b in zip(xs, ys, strict=True))
    assert thin([0, 1, 2], [1, math.nan, 3]) == ([0, 2], [1, 3])


def test_a_thinned_band_is_nowhere_narrower_than_the_band() -> None:
    draw = random.Random(0)
    low = [draw.gauss(-3, 1) for _ in range(3000)]
    high = [draw.gauss(3, 1) for _ in range(3000)]
    xs, lows, highs = envelope(range(3000), low, high)
    assert len(xs) <= POINTS_PER_LINE
    at = 0
    for x in range(3000):
        while at + 1 < len(xs) and xs[at + 1] <= x:
            at += 1
        other = min(at + 1, len(xs) - 1)
        assert min(lows[at], lows[other]) <= low[x]
        assert max(highs[at], highs[other]) >= high[x]


@pytest.mark.parametrize(
    ("values", "log", "labels"),
    [
        ([0.0, 1.0], False, ["0", "0.25", "0.50", "0.75", "1.00"]),
        ([-0.3, 0.1], False, ["−0.3", "−0.2", "−0.1", "0", "0.1"]),
        ([64, 512], True, ["100", "200", "500"]),
        ([1e3, 1e7], True, ["1k", "10k", "100k", "1M", "10M"]),
        ([0, 3.2e6], False, ["0", "1M", "2M", "3M"]),
    ],
)
def test_ticks_are_round(values: list[float], log: bool, labels: list[str]) -> None:
    found = [text for _, text in scale(values, log=log).ticks]
    assert found == labels


@pytest.mark.parametrize("values", [[], [1.0], [0.0, 0.0], [math.nan], [-1e-90, 1e-90], [1e90, 2e90]])
@pytest.mark.parametrize("log", [False, True])
def test_an_axis_of_anything_has_two_ends(values: list[float], log: bool) -> None:
    found = scale(values, log=log)
    assert found.low < found.high
    assert all(0 <= place <= 1 for place, _ in found.ticks)
    assert all(
        -1e-9 <= found.at(value) <= 1 + 1e-9 for value in values if math.isfinite(value) and (value > 0 or not log)
    )


def test_numbers_have_the_decimals_that_their_spread_warrants() -> None:
    assert decimals_for([2.44], [0.0032]) == 4
    assert decimals_for([2.44], [0.32]) == 2
    assert decimals_for([240.0], [3.2]) == 1
    assert fixed(-0.00001, 3) == "0.000"
    assert fixed(-0.5, 2, signed=True) == "−0.50"
    assert fixed(math.nan, 2) == "nan"
    assert fixed(1.5e9, 2, signed=True) == "+1.50G"
    assert [short_count(value) for value in (0, 20_000, 1.5e6, 512)] == ["0", "20k", "1.5M", "512"]


def words(page: str, name: str) -> str:
    """The text of the first element of a class, as a reader sees it."""
    import html

    (inner,) = re.findall(rf'<p class="{name}">(.*?)</p>', page, re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", "", inner))
