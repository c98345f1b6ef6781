"""What the report's charts claim: winners with their uncertainty, differences in pairs, and how training went."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from scipy import stats

from lab.comparison.compare import compare
from lab.comparison.read.collect import collect
from lab.records import write_json
from lab.report.page import report
from lab.report.panels.results.pareto import Cost, _bars, _points
from lab.report.report_data import ReportData, read_report_data
from lab.report.wording import shorten_distinctly
from tests.comparison.fake_runs import fake_sweep

LOSSES = {"both": [3.20, 3.22, 3.21], "neither": [3.30, 3.33, 3.31]}


def section(page: str, name: str) -> str:
    return re.search(rf'<section id="{name}".*?</section>', page, re.DOTALL)[0]  # type: ignore[index]


def data_of(root: Path) -> ReportData:
    return read_report_data(root, compare(collect(root, "softcap")))


def set_cost(root: Path, arm: str, seed: int, **costs: float) -> None:
    path = root / "softcap" / arm / f"seed-{seed}" / "summary.json"
    summary = json.loads(path.read_text())
    write_json(path, summary | {"costs": summary["costs"] | costs})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An arm that is slower on average, by less than its seeds differ."""
    fake_sweep(tmp_path, LOSSES)
    for arm, speeds in {"both": (1000.0, 1300.0, 1100.0), "neither": (1020.0, 1310.0, 1130.0)}.items():
        for seed, speed in enumerate(speeds):
            set_cost(tmp_path, arm, seed, tokens_per_second=speed)
    return tmp_path


def test_a_measured_cost_has_error_bars_and_names_no_winner(root: Path) -> None:
    panel = section(report(root, "softcap"), "pareto")
    assert "training speed, tokens/s" in panel
    assert '<polyline class="front"' not in panel
    bars = re.findall(r'<line class="whisker s(\d) c"', panel)
    assert sorted(bars) == ["0", "0", "1", "1"], "each arm has one for the loss and one for the speed"
    assert set(re.findall(r'<span class="pl[^>]*>([^<]+)</span>', panel)) == {"both", "neither"}


def test_the_bars_are_t_intervals_over_the_seeds(root: Path) -> None:
    data = data_of(root)
    speed = Cost(
        "speed", lambda arm, run: run.result.costs.get("tokens_per_second"), more_is_better=True, measured=True
    )
    both = _points(data, speed)[0]
    horizontal, vertical = _bars(both, 0.95)
    for bar, column, values in ((horizontal, 0, [1000.0, 1300.0, 1100.0]), (vertical, 1, LOSSES["both"])):
        expected = stats.t.interval(0.95, 2, stats.tmean(values), stats.sem(values))
        assert (bar.start[column], bar.end[column]) == pytest.approx(expected)
        assert bar.start[1 - column] == bar.end[1 - column]


def test_a_computed_cost_keeps_its_front(tmp_path: Path) -> None:
    fake_sweep(tmp_path, LOSSES)
    path = tmp_path / "softcap" / "neither"
    for run in path.iterdir():
        record = json.loads((run / "run.json").read_text())
        write_json(run / "run.json", record | {"costs": record["costs"] | {"kv_bytes_per_token": 512}})
    panel = section(report(tmp_path, "softcap"), "pareto")
    assert panel.count('<polyline class="front"') == 1


def test_evaluations_are_compared_in_pairs_and_their_bands_leave_room(tmp_path: Path) -> None:
    """Seeds differ by 1.0 and arms by 0.05 on each seed: the means have no band, the difference has a narrow one."""
    fake_sweep(tmp_path, LOSSES)
    for arm, offset in {"both": 0.0, "neither": 0.05}.items():
        for seed in range(3):
            points = [[8.0 * 2**power, 3.4 - 0.1 * power + offset + seed + 0.001 * seed * power] for power in range(5)]
            curve = {"x": "context (tokens)", "y": "loss (nats a token)", "points": points}
            folder = tmp_path / "softcap" / arm / f"seed-{seed}" / "evaluations"
            folder.mkdir()
            content = {"evaluator": "context", "metrics": {}, "curves": {"loss_by_context": curve}}
            (folder / "context.json").write_text(json.dumps(content))
    panel = section(report(tmp_path, "softcap"), "positions")
    means, differences = re.findall(r"<figure>.*?</figure>", panel, re.DOTALL)
    assert 'class="band' not in means
    assert "difference from both" in differences
    axis = re.search(r'data-y="(\S+) (\S+) linear"', differences)
    assert axis is not None
    low, high = map(float, axis.groups())
    assert -0.1 < low <= 0 < 0.05 < high < 0.2


def test_gradient_norm_and_learning_rate_have_curves(tmp_path: Path) -> None:
    fake_sweep(tmp_path, LOSSES, curves=True)
    for path in tmp_path.glob("softcap/*/seed-*/metrics.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines = [line | {"train/grad_norm": 1 + 1 / line["step"], "train/lr": 1e-3} for line in lines]
        path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    panel = section(report(tmp_path, "softcap"), "curves")
    tabs = re.findall(r'role="tab">([^<]+)<', panel)
    assert {"training gradient norm", "training learning rate"} <= set(tabs)
    assert "training learning rate, difference" not in panel
    assert "training loss, difference" in panel


def test_names_that_would_look_the_same_are_not_shortened() -> None:
    same = [f"{'a' * 30}{n}{'b' * 30}" for n in range(2)]
    assert shorten_distinctly(same) == {name: name for name in same}
    assert shorten_distinctly(["short", "x" * 60])["x" * 60] == "x" * 8 + "…" + "x" * 15
