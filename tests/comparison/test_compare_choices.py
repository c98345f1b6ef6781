"""`lab compare` with metrics, columns and sweeps of one's choice."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from lab.comparison.choose_metrics import choose_metrics
from lab.comparison.compare import compare
from lab.comparison.read.collect import collect
from tests import forked
from tests.comparison.fake_runs import fake_run, fake_sweep
from tests.comparison.test_comparison_table import BOTH, SAME, WORSE, line, printed


@pytest.fixture
def root(tmp_path: Path) -> Path:
    fake_sweep(tmp_path, {"both": BOTH, "neither": WORSE}, results={"context/loss": 4.0})
    fake_sweep(tmp_path, {"wide": SAME, "narrow": WORSE}, sweep="widths")
    return tmp_path


def lab(root: Path, *arguments: str) -> str:
    done = forked.run("lab.cli.main", "compare", *arguments, "--root", str(root))
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def refusal(root: Path, *arguments: str) -> str:
    done = forked.run("lab.cli.main", "compare", *arguments, "--root", str(root))
    assert done.returncode == 2
    return done.stderr or str(json.loads(done.stdout)["error"]["message"])


def test_another_metric_replaces_the_sweeps_own(root: Path) -> None:
    table = lab(root, "softcap", "--metric", "context/loss")
    assert "context loss" in table
    assert "validation loss  " not in table
    assert line(table, "neither").split()[2:4] == ["4.0000", "0"] or "identical on every seed" in line(table, "neither")


def test_a_metric_that_no_run_has_is_refused_with_the_nearest(root: Path) -> None:
    message = refusal(root, "softcap", "--metric", "val/los")
    assert "--metric" in message
    assert "did you mean 'val/loss'?" in message


def test_the_margin_of_equivalence_stays_with_its_metric(root: Path) -> None:
    sweep = replace(collect(root, "softcap"), equivalence=0.5)
    for metrics, margin in ((["val/loss"], 0.5), (["context/loss", "val/loss"], 0.5)):
        cell = compare(choose_metrics(sweep, metrics)).rows[1].cells["val/loss"]
        assert cell.equivalence is not None
        assert cell.equivalence.margin == margin
        assert cell.verdict == "equivalent"
    assert compare(choose_metrics(sweep, ["context/loss"])).rows[1].cells["context/loss"].equivalence is None


def test_the_columns_are_those_that_are_asked_for(root: Path) -> None:
    table = lab(root, "softcap", "--columns", "mean,sd,p,mfu")
    (head,) = [line for line in table.splitlines() if line.strip().startswith("arm ")]
    assert head.split() == ["arm", "validation", "loss", "s.d.", "p", "(Holm)", "MFU"]
    assert line(table, "neither").split()[:3] == ["neither", "3.3133", "0.0153"]
    assert "parameters" in lab(root, "softcap", "--columns", "parameters").splitlines()[2]


@pytest.mark.parametrize(("form", "names"), [("--latex", ("& p (Holm)", "\\\\")), ("--markdown", ("| p (Holm) |", ""))])
def test_documents_have_the_same_columns(root: Path, form: str, names: tuple[str, str]) -> None:
    text = lab(root, "softcap", "--columns", "mean,p", form)
    assert names[0] in text
    assert "±" in text.replace(r"$\pm$", "±")
    assert "parameters" not in text.partition("Difference")[0]


def test_csv_has_the_columns_that_are_asked_for_and_says_which_row_it_is(root: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(lab(root, "softcap", "widths", "--csv", "--columns", "verdict,p_holm"))))
    assert list(rows[0]) == ["sweep", "arm", "metric", "verdict", "p_holm"]
    assert [(row["sweep"], row["arm"], row["verdict"]) for row in rows] == [
        ("softcap", "both", ""), ("softcap", "neither", "worse"), ("widths", "wide", ""), ("widths", "narrow", "worse"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--columns", "men"], "did you mean 'mean'?"),
        (["--columns", "verdct", "--csv"], "did you mean 'verdict'?"),
        (["--columns", "mean", "--json"], "--columns: has no effect with --json"),
        (["--columns", "mean", "--csv", "--latex"], "exclude each other"),
    ],
)
def test_columns_that_there_are_not_are_refused(root: Path, arguments: list[str], message: str) -> None:
    assert message in refusal(root, "softcap", *arguments)


@pytest.mark.slow
def test_a_verdict_is_about_the_arms_of_one_sweep(root: Path) -> None:
    both = json.loads(lab(root, "softcap", "widths", "--json"))["sweeps"]
    assert both == [json.loads(lab(root, name, "--json")) for name in ("softcap", "widths")]
    table = lab(root, "softcap", "widths")
    assert table == f"{lab(root, 'softcap')}\n{lab(root, 'widths')}"
    assert json.loads(lab(root, "softcap", "softcap", "--json"))["sweep"] == "softcap"


def test_what_was_not_measured_is_not_called_a_lack_of_seeds(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": BOTH, "neither": WORSE}, metrics=("val/los",))
    text = printed(compare(collect(tmp_path, "softcap")))
    assert "(not measured in the arm or the baseline)" in line(text, "neither")
    assert "No run has measured val/los; did you mean 'val/loss'?" in text
    assert "no seed in common" not in text


def test_a_metric_of_one_side_says_which_side_lacks_it(tmp_path: Path) -> None:
    fake_run(tmp_path, "both", 0, metrics=("recall",), results={"recall": 0.5})
    fake_run(tmp_path, "neither", 0, metrics=("recall",), order=1)
    cell = compare(collect(tmp_path, "softcap")).rows[1].cells["recall"]
    assert cell.remarks == ("not measured in the arm",)


def test_an_arm_without_a_finished_seed_says_so(tmp_path: Path) -> None:
    fake_run(tmp_path, "both", 0)
    fake_run(tmp_path, "neither", 0, status="running", order=1)
    cell = compare(collect(tmp_path, "softcap")).rows[1].cells["val/loss"]
    assert cell.remarks == ("no seed of the arm has finished",)


def test_seeds_that_differ_are_no_pair(tmp_path: Path) -> None:
    fake_run(tmp_path, "both", 0)
    fake_run(tmp_path, "neither", 1, order=1)
    cell = compare(collect(tmp_path, "softcap")).rows[1].cells["val/loss"]
    assert cell.remarks == ("no seed in common with the baseline",)


def test_values_that_are_not_finite_are_no_lack_of_seeds(tmp_path: Path) -> None:
    fake_run(tmp_path, "both", 0)
    fake_run(tmp_path, "neither", 0, order=1, loss=float("nan"))
    cell = compare(collect(tmp_path, "softcap")).rows[1].cells["val/loss"]
    assert cell.remarks == ("not finite: seed 0",)
