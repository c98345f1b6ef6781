"""A sweep that is damaged, made by hand or half there: what can be shown is shown, the rest is named."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lab.comparison.compare import compare
from lab.comparison.read.collect import collect
from lab.comparison.read.results import SweepResults
from lab.comparison.tables import export
from lab.comparison.tables.documents import as_latex, as_markdown
from lab.comparison.tables.table import show
from lab.comparison.tensorboard import event_files
from lab.comparison.tensorboard.serve import _replace, build_view
from lab.records import RunFolder, write_json
from lab.refusals import RequestError
from lab.report.page import report
from tests.comparison.fake_runs import fake_run, fake_sweep
from tests.comparison.test_comparison_plans import plan, row
from tests.records.made import info, summary

LONG = "x" * 300


def shown(root: Path, sweep: str = "softcap") -> tuple[SweepResults, str]:
    """The sweep, and all that is said of it: the view is built, and every text can be written."""
    found = collect(root, sweep)
    comparison = compare(found)
    file = io.StringIO()
    show(comparison, Console(file=file, width=1000))
    texts = [export.as_json(comparison), export.as_csv(comparison), as_latex(comparison), as_markdown(comparison)]
    view = build_view(root, sweep)
    assert view.resolve().is_relative_to(root.resolve())
    said = "\n".join([file.getvalue(), *texts, report(root, sweep)])
    said.encode()
    return found, said


def change(run: RunFolder, **changes: Any) -> None:
    (run.path / "run.json").write_text(json.dumps(info(run) | changes))


def two(root: Path) -> tuple[RunFolder, RunFolder]:
    """A good run, and one to damage."""
    return fake_run(root, "both", 0, curves=True), fake_run(root, "neither", 0, order=1, curves=True)


# What run.json says.


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("arm", "../../../../evil"), ("arm", LONG), ("arm", "€" * 100), ("arm", ""), ("arm", ".hidden"), ("arm", 5),
        ("arm", "caf\udce9"), ("seed", True), ("seed", 10**100), ("seed", "0"), ("order", None), ("order", math.nan),
        ("role", ["tune"]), ("axes", [1]), ("tuned", "lr"), ("question", 5), ("baseline", 1), ("metrics", 5),
        ("metrics", [1]), ("metrics", "val/loss"), ("match", [1]), ("matching", "x"),
    ],
)  # fmt: skip
def test_a_run_with_something_wrong_in_its_run_json_is_listed_as_broken(tmp_path: Path, key: str, value: Any) -> None:
    root = tmp_path / "below" / "it" / "all"
    _, bad = two(root)
    change(bad, **{key: value})
    found, said = shown(root)
    assert list(found.arms) == ["both"]
    ((path, problem),) = found.broken
    assert path == bad.path
    assert f"run.json: {key}: expected " in problem
    assert f"run.json: {key}: expected" in said
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]


def test_a_tolerance_that_is_invalid_is_reported(tmp_path: Path) -> None:
    _, bad = two(tmp_path)
    change(bad, matching={"tolerance": "much"})
    assert "matching.tolerance: expected a number from 0 up" in collect(tmp_path, "softcap").broken[0][1]


def test_labels_that_are_null_are_not_there(tmp_path: Path) -> None:
    good, _ = two(tmp_path)
    labels = ("question", "baseline", "metrics", "match", "matching", "equivalence", "axes", "tuned")
    for run in two(tmp_path):
        change(run, **dict.fromkeys(labels), created="9999-12-31T23:59:59")
    found, _ = shown(tmp_path)
    assert (found.baseline, found.metrics, found.match, found.broken) == ("", ("val/loss",), None, ())
    assert good.path.is_dir()


def test_an_axis_with_a_number_beyond_all_bounds_is_text(tmp_path: Path) -> None:
    for order, value in enumerate((1, 10**400)):
        fake_run(tmp_path, f"arm_{order}", axes={"model/heads": value}, order=order)
    assert list(shown(tmp_path)[0].arms) == ["arm_0", "arm_1"]


# What plan.json says.


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("identity", 5), ("identity", None), ("folder", 7), ("folder", f"softcap/{LONG}/seed-0"), ("folder", LONG),
        ("folder", "softcap/../../x"), ("folder", "/a/b"), ("seed", "0"), ("seed", None), ("seed", True), ("arm", 3),
        ("arm", None), ("arm", LONG), ("arm", "../evil"), ("axes", []), ("tuned", [1]), ("cell", 1), ("role", None),
    ],
)  # fmt: skip
def test_a_row_of_a_plan_with_something_wrong_is_named(tmp_path: Path, key: str, value: Any) -> None:
    good, bad = two(tmp_path)
    plan(tmp_path, [row(good, "gqa", 0), row(bad, "mha", 0) | {key: value}])
    with pytest.raises(RequestError, match=rf"softcap/plan\.json: runs\[1\]\.{key}: expected .*; plan the sweep"):
        collect(tmp_path, "softcap")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("question", 5), ("baseline", ["a"]), ("metrics", 5), ("metrics", [1]), ("metrics", "val/loss"), ("match", [1]),
        ("matching", "x"), ("tune_metric", 5),
    ],
)  # fmt: skip
def test_a_label_of_a_plan_that_is_wrong_is_named(tmp_path: Path, key: str, value: Any) -> None:
    good, _ = two(tmp_path)
    plan(tmp_path, [row(good, "gqa", 0)], **{key: value})
    with pytest.raises(RequestError, match=rf"softcap/plan\.json: {key}: expected .*; plan the sweep again"):
        collect(tmp_path, "softcap")


def test_a_cell_without_a_value_of_an_axis_that_its_arm_tunes_is_named(tmp_path: Path) -> None:
    runs = [fake_run(tmp_path, f"gqa,{cell}", 5) for cell in "ab"]
    cells: list[dict[str, Any]] = [{"cell": "a", "tuned": {"lr": 1}}, {"cell": "b", "tuned": None}]
    plan(tmp_path, [row(run, "gqa", 5, role="tune", **cell) for run, cell in zip(runs, cells, strict=True)])
    with pytest.raises(RequestError, match=r"runs\[1\]\.tuned: expected the axes of the arm's other cells"):
        shown(tmp_path)


@pytest.mark.parametrize("content", ["[" * 100_000, "{}", '"runs"', "\x00", '{"runs": {}}', '{"runs": [[]]}'])
def test_a_file_that_is_not_a_plan_is_refused_by_its_path(tmp_path: Path, content: str) -> None:
    two(tmp_path)
    (tmp_path / "softcap" / "plan.json").write_text(content)
    with pytest.raises(RequestError, match=r"softcap/plan\.json: .*plan the sweep again"):
        collect(tmp_path, "softcap")


# State, summary and curves.


@pytest.mark.parametrize("state", ["", "[]", '{"version": 1, "heartbeat": "x"}', '{"version": 1, "progress": 5}'])
@pytest.mark.parametrize("status", ["finished", "diverged"])
def test_a_damaged_state_beside_a_good_summary_is_not_missed(tmp_path: Path, state: str, status: str) -> None:
    two(tmp_path)
    run = fake_run(tmp_path, "neither", 1, order=1, status=status, curves=True)
    (run.path / "state.json").write_text(state)
    found, _ = shown(tmp_path)
    assert found.arms["neither"].runs[1].status == status
    assert found.broken == ()


@pytest.mark.parametrize("changes", [{"attempts": None}, {"heartbeat": "x"}, {"progress": {"step": "5"}}])
def test_a_damaged_state_without_a_summary_is_listed_as_broken(tmp_path: Path, changes: dict[str, Any]) -> None:
    two(tmp_path)
    run = fake_run(tmp_path, "neither", 1, status="running")
    write_json(run.path / "state.json", {"version": 1, "status": "running"} | changes)
    found, _ = shown(tmp_path)
    assert [path for path, _ in found.broken] == [run.path]


@pytest.mark.parametrize("steps", [math.nan, math.inf, -1, 10**30, 10**400])
@pytest.mark.parametrize("points", ['{"step": 1, "val/loss": 3.0}\n{"step": 2, "val/loss": 2.0}\n', "[1]\n", "x\n"])
def test_steps_that_are_none_do_not_hinder_a_view(tmp_path: Path, steps: float, points: str) -> None:
    for run in (*two(tmp_path), fake_run(tmp_path, "both", 1, status="diverged")):
        content = summary(run)
        costs = {**content["costs"], "steps": steps}
        write_json(run.path / "summary.json", content | {"costs": costs})
        (run.path / "metrics.jsonl").write_text(points)
    view = build_view(tmp_path, "softcap")
    assert (view / "both" / "seed-0").is_dir()


# No run to compare.


def test_a_sweep_of_tuning_runs_alone_has_nothing_to_compare_yet(tmp_path: Path) -> None:
    for run in two(tmp_path):
        change(run, role="tune")
    with pytest.raises(RequestError, match=r"sweep 'softcap' .* has no run to compare yet: all .* are for tuning"):
        shown(tmp_path)


@pytest.mark.parametrize("rows", [[], [{"identity": "d" * 16}]])
def test_a_plan_that_lists_no_run_that_is_there_has_nothing_to_compare_yet(tmp_path: Path, rows: list[Any]) -> None:
    two(tmp_path)
    plan(tmp_path, rows)
    with pytest.raises(RequestError, match=r"'softcap' .* has no run to compare yet: its plan\.json lists no run"):
        shown(tmp_path)


def test_a_plan_alone_is_a_sweep_without_runs(tmp_path: Path) -> None:
    plan(tmp_path, [{"identity": "d" * 16}])
    with pytest.raises(RequestError, match="no run of sweep 'softcap'"):
        shown(tmp_path)


def test_an_arm_with_tuning_runs_alone_has_no_value(tmp_path: Path) -> None:
    good, bad = two(tmp_path)
    plan(tmp_path, [row(good, "gqa", 0), row(bad, "mha", 0, role="tune")])
    assert shown(tmp_path)[0].arms["mha"].runs == {}


@pytest.mark.parametrize("name", [LONG, "", ".", "..", "../elsewhere", "softcap/both", "file", "caf\udce9"])
def test_a_name_that_no_sweep_can_have_is_no_sweep(tmp_path: Path, name: str) -> None:
    two(tmp_path / "runs")
    plan(tmp_path, [], sweep="elsewhere")
    (tmp_path / "runs" / "file").write_text("")
    with pytest.raises(RequestError, match=r"no run of sweep '.*there are: softcap"):
        collect(tmp_path / "runs", name)
    with pytest.raises(RequestError, match="no run of sweep"):
        build_view(tmp_path / "runs", ["softcap", name])


# Names and texts that aren't text.


def test_names_that_are_not_text_can_be_shown(tmp_path: Path) -> None:
    good, other = two(tmp_path)
    odd = tmp_path / "softcap" / os.fsdecode(b"caf\xe9")
    os.rename(other.path.parent, odd)
    shutil.copytree(odd / "seed-0", odd / "seed-1")
    (odd / "seed-1" / "run.json").write_text("{")
    (events,) = (odd / "seed-0").glob("*tfevents*")
    os.rename(events, events.with_name(os.fsdecode(b"events.out.tfevents.\xe9")))
    found, said = shown(tmp_path)
    folder = found.arms["neither"].runs[0].folder
    assert folder is not None
    assert folder.path == odd / "seed-0"
    assert folder.name == "softcap/caf\\udce9/seed-0"
    ((path, problem),) = found.broken
    assert (path.parent.name, "caf\\udce9" in problem) == ("caf\\udce9", True)
    assert "caf\\udce9" in said
    (link,) = (tmp_path / "softcap" / ".tensorboard" / "neither" / "seed-0").glob("*udce9")
    assert link.resolve().parent == odd / "seed-0"
    assert good.path.is_dir()


def test_half_a_character_in_what_a_run_says_can_be_shown(tmp_path: Path) -> None:
    two(tmp_path)
    run = fake_run(tmp_path, "neither", 1, order=1, status="diverged")
    for name, changes in (("summary.json", {"reason": "half \ud800"}), ("run.json", {"question": "Half \udfff?"})):
        content = json.loads((run.path / name).read_text()) | changes
        (run.path / name).write_text(json.dumps(content | {"created": "2027-01-01"}))
    failed = fake_run(tmp_path, "neither", 2, order=1, status="failed")
    (failed.path / "state.json").write_text('{"version": 1, "status": "failed", "reason": "no \\ud800"}')
    found, said = shown(tmp_path)
    assert found.question == "Half \\udfff?"
    assert found.arms["neither"].runs[1].reason == "half \\ud800"
    assert found.arms["neither"].runs[2].reason == "no \\ud800"
    assert "half \\ud800" in said


def test_half_a_character_in_a_plan_can_be_shown(tmp_path: Path) -> None:
    good, _ = two(tmp_path)
    plan(tmp_path, [row(good, "gqa", 0)])
    path = tmp_path / "softcap" / "plan.json"
    path.write_text(path.read_text().replace("Which?", "Which \\ud800?"))
    assert shown(tmp_path)[0].question == "Which \\ud800?"


# The view.


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/tmp/evil-of-a-view", "."])
def test_nothing_is_written_out_of_a_view(tmp_path: Path, name: str) -> None:
    view = tmp_path / "sweep" / ".tensorboard"
    view.parent.mkdir()
    with pytest.raises(RequestError, match="outside"):
        _replace(view, {"good": b"1", name: b"2"}, apart=False)
    assert list(tmp_path.rglob("*")) == [view.parent]
    assert not Path("/tmp/evil-of-a-view").exists()


def test_a_metric_is_drawn_where_it_has_a_curve_and_not_where_a_longer_name_has(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": [3.0]}, metrics=["val/loss", "val/loss_x"])
    run = RunFolder(tmp_path / "softcap" / "both" / "seed-0")
    lines = [json.dumps({"step": step, "tokens": step, "val/loss_x": 1.0 / step}) for step in (1, 2, 3)]
    (run.path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (about,) = (build_view(tmp_path, "softcap") / "about").iterdir()
    content = about.read_bytes()
    assert b"mean over tokens/val/loss_x" in content
    assert b"mean over tokens/val/loss\x12" not in content


def test_a_tag_is_found_in_an_event_file_by_its_whole_name() -> None:
    for many in (1, 40):
        records = [
            event_files.EventRecord(n, event_files.scalars({"a/loss_x": 1.0, f"b{n}": 2.0})) for n in range(many)
        ]
        content = event_files.event_file(0.0, records)
        assert event_files.has_tag(content, "a/loss_x")
        assert event_files.has_tag(content, f"b{many - 1}")
        assert not event_files.has_tag(content, "a/loss")
