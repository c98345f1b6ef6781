"""`lab.results` and `lab.curves`: what the run folders hold, a row a run or a row a point."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
from scipy import stats

import lab
from lab.refusals import RequestError
from tests.comparison.fake_runs import fake_run, fake_sweep

LOSSES = {"both": [3.20, 3.22], "neither": [3.30, None]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    fake_sweep(tmp_path / "runs", LOSSES, curves=True, results={"val/accuracy": 0.5})
    return tmp_path / "runs"


def test_a_row_a_run_with_axes_metrics_and_costs(root: Path) -> None:
    runs = lab.results("softcap", root=root)
    assert list(runs.columns[:8]) == ["sweep", "arm", "is_baseline", "seed", "status", "reason", "identity", "run"]
    assert list(zip(runs["arm"], runs["seed"], runs["status"], strict=True)) == [
        ("both", 0, "finished"), ("both", 1, "finished"), ("neither", 0, "finished"), ("neither", 1, "diverged"),
    ]  # fmt: skip
    assert list(runs["is_baseline"]) == [True, True, False, False]
    assert list(runs["model/softcap"]) == ["gemma2", "gemma2", "none", "none"]
    assert list(runs["val/loss"])[:3] == [3.20, 3.22, 3.30]
    assert set(runs["parameters"]) == {1_234_567}
    assert list(runs["run"]) == [f"softcap/{arm}/seed-{seed}" for arm in LOSSES for seed in (0, 1)]
    assert all((root / run / "run.json").exists() for run in runs["run"])


def test_what_a_run_has_not_is_not_a_number(root: Path) -> None:
    fake_run(root, "neither", 2, status="queued", order=1)
    runs = lab.results("softcap", root=root)
    row = runs[(runs["arm"] == "neither") & (runs["seed"] == 2)].iloc[0]
    assert row["status"] == "queued"
    assert math.isnan(row["val/loss"])
    missing = runs[(runs["arm"] == "both") & (runs["seed"] == 2)].iloc[0]
    assert missing["status"] == "missing"
    assert missing.isna()["run"]


def test_several_sweeps_stand_below_each_other(root: Path) -> None:
    fake_sweep(root, {"wide": [3.0]}, sweep="widths", axes={"model.d_model": 256})
    runs = lab.results("softcap", "widths", root=root)
    assert list(runs["sweep"]) == ["softcap"] * 4 + ["widths"]
    assert runs["model.d_model"].iloc[-1] == 256
    assert runs["model.d_model"].isna().sum() == 4


@pytest.mark.parametrize("x", ["step", "tokens", "seconds"])
def test_a_curve_has_one_row_for_each_point(root: Path, x: str) -> None:
    points = lab.curves("softcap", metric="val/loss", x=x, root=root)  # type: ignore[arg-type]
    assert list(points.columns) == ["sweep", "arm", "is_baseline", "seed", x, "val/loss"]
    name = {"seconds": "time"}.get(x, x)
    for (arm, seed), of_run in points.groupby(["arm", "seed"]):
        lines = (root / "softcap" / str(arm) / f"seed-{seed}" / "metrics.jsonl").read_text().splitlines()
        kept = [(line[name], line["val/loss"]) for line in map(json.loads, lines) if "val/loss" in line]
        assert list(zip(of_run[x], of_run["val/loss"], strict=True)) == kept


def test_without_pandas_rows_are_dicts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    runs = lab.results("softcap", root=root)
    assert [row["val/loss"] for row in runs[:3]] == [3.20, 3.22, 3.30]
    assert len({tuple(row) for row in runs}) == 1, "every row has the same keys"
    assert {row["seed"] for row in lab.curves("softcap", root=root)} == {0, 1}


def test_a_mistake_names_the_nearest(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_ROOT", str(root))
    assert len(lab.results("softcap")) == 4, "LAB_ROOT names the folder"
    for ask, said in [
        (lambda: lab.results("softcup"), "did you mean 'softcap'"),
        (lambda: lab.results(), "name at least one sweep"),
        (lambda: lab.curves("softcap", metric="val/los"), "did you mean 'val/loss'"),
        (lambda: lab.curves("softcap", x="tokns"), "did you mean 'tokens'"),  # type: ignore[arg-type]
    ]:
        with pytest.raises(RequestError, match=said):
            ask()


def test_a_metric_without_a_curve_is_distinguished_from_one_that_isnt_there(root: Path) -> None:
    with pytest.raises(RequestError, match=r"'unigram/loss': it is measured only at the end; lab\.results has it"):
        lab.curves("softcap", metric="unigram/loss", root=root)
    with pytest.raises(RequestError, match="'train/los'; did you mean 'train/loss'"):
        lab.curves("softcap", metric="train/los", root=root)


def test_names_that_collide_stand_side_by_side(tmp_path: Path) -> None:
    axes = {"seed": 99, "arm": "zz", "tokens": 5}
    fake_run(tmp_path, axes=axes, results={"seconds": 1.5})
    (row,) = lab.results("softcap", root=tmp_path).to_dict("records")
    assert (row["seed"], row["arm"], row["status"]) == (0, "both", "finished")
    assert (row["axis:seed"], row["axis:arm"], row["axis:tokens"]) == (99, "zz", 5)
    assert (row["seconds"], row["cost:seconds"], row["tokens"]) == (1.5, 60.0, 40 * 512)


def test_the_verdict_on_its_arm_stands_beside_each_run(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": [3.20, 3.22, 3.21], "neither": [3.30, 3.33, 3.31]})
    runs = lab.results("softcap", root=tmp_path)
    assert list(runs["verdict:val/loss"].isna()) == [True] * 3 + [False] * 3
    assert set(runs["verdict:val/loss"][3:]) == {"worse"}


def test_a_row_for_each_arm_and_metric_has_the_verdict(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": [3.20, 3.22, 3.21], "neither": [3.30, 3.33, 3.31]}, metrics=("val/loss", "x"))
    rows = lab.verdicts("softcap", root=tmp_path)
    names = [("both", "val/loss"), ("both", "x"), ("neither", "val/loss"), ("neither", "x")]
    assert list(zip(rows["arm"], rows["metric"], strict=True)) == names
    assert list(rows["verdict"].isna()) == [True, True, False, False]
    assert list(rows["verdict"])[2:] == ["worse", "can't tell"]
    row = rows.iloc[2]
    expected = stats.ttest_rel([3.30, 3.33, 3.31], [3.20, 3.22, 3.21])
    assert row["difference"] == pytest.approx(0.31 / 3)
    assert row["p_holm"] == pytest.approx(expected.pvalue)
    assert (row["low"], row["high"]) == pytest.approx(tuple(expected.confidence_interval()))
    assert math.isnan(rows.iloc[0]["difference"])
