"""The view's own curves and texts as TensorBoard reads them: means with bands, differences, charts, and Markdown."""

import html
import json
import os
import re
from pathlib import Path

import markdown
import pytest
from tensorboard.plugins.custom_scalar import layout_pb2

from lab.comparison.compare import compare
from lab.comparison.read.collect import collect
from lab.comparison.read.curves import band, difference
from lab.comparison.tensorboard.bands import POINTS_PER_CURVE, unit
from lab.comparison.tensorboard.custom_scalars import margin
from lab.comparison.tensorboard.serve import build_view
from lab.comparison.tensorboard.text_tab import escape, texts_of
from lab.records import State, write_json
from tests.comparison.fake_runs import STEPS, arm_curves, fake_run, fake_sweep, write_curves
from tests.comparison.test_tensorboard_view import summaries


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(step, value.simple_value) for step, value in summaries(folder, tag)]


def text(view: Path, tag: str) -> str:
    ((_, value),) = summaries(view / "about", tag)
    return value.tensor.string_val[0].decode()


def test_an_arms_own_run_is_its_mean_with_the_band_of_its_seeds_over_tokens(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": [3.0, 3.1, 3.3], "neither": [3.4, 3.6, 3.5]}, curves=True)
    view = build_view(tmp_path, "softcap")
    sweep = collect(tmp_path, "softcap")
    expected = band(arm_curves(sweep.arms["neither"], "val/loss"))
    assert expected.low is not None
    assert expected.high is not None
    for tag, values in zip(
        margin("mean", "tokens", "val/loss"), (expected.mean, expected.low, expected.high), strict=True
    ):
        found = curve(view / "neither", tag)
        assert [step for step, _ in found] == [step * 512 for step in (10, 20, 30, 40)]
        assert [value for _, value in found] == pytest.approx(values, rel=1e-6)


def test_an_arms_difference_from_the_baseline_is_paired_and_the_baseline_has_none(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": [3.0, 3.1, 3.3], "neither": [3.4, 3.6, 3.5]}, curves=True)
    view = build_view(tmp_path, "softcap")
    arms = collect(tmp_path, "softcap").arms
    expected = difference(arm_curves(arms["neither"], "val/loss"), arm_curves(arms["both"], "val/loss"))
    tags = margin("difference", "tokens", "val/loss")
    for tag, values in zip(tags, (expected.mean, expected.low, expected.high), strict=True):
        assert [value for _, value in curve(view / "neither", tag)] == pytest.approx(values, rel=1e-5)
        assert curve(view / "both", tag) == []


def test_over_flops_a_step_is_a_whole_number_of_the_unit_that_the_tag_names(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": [3.0, 3.1]}, curves=True)
    view = build_view(tmp_path, "softcap")
    assert unit([collect(tmp_path, "softcap")]).name == "MFLOPs"  # 40 · 512 · 7.5e6 FLOPs are 153,600 of them
    found = curve(view / "both", margin("mean", "MFLOPs", "val/loss").value)
    assert [step for step, _ in found] == [step * 512 * 7.5 for step in (10, 20, 30, 40)]


@pytest.mark.parametrize(("flops", "expected"), [(1e9, "MFLOPs"), (9e13, "MFLOPs"), (1e14, "GFLOPs"), (3e21, "PFLOPs")])
def test_the_unit_of_flops_leaves_the_longest_run_a_hundred_thousand_steps(
    tmp_path: Path, flops: float, expected: str
) -> None:
    run = fake_run(tmp_path)
    row = {"identity": run.identity, "arm": "both", "seed": 0, "axes": {}, "folder": "softcap/both/seed-0"}
    write_json(tmp_path / "softcap" / "plan.json", {"baseline": "both", "runs": [row | {"total_flops": flops}]})
    assert unit([collect(tmp_path, "softcap")]).name == expected


def test_one_seed_has_a_curve_whose_band_is_no_wider_than_it_and_that_is_reported(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": [3.0]}, curves=True)
    folder = build_view(tmp_path, "softcap") / "both"
    mean, low, high = (curve(folder, tag) for tag in margin("mean", "tokens", "val/loss"))
    assert mean == low == high
    assert len(mean) == 4
    assert said(folder) == "1 of 1 seeds (0); one seed, so no interval"


def said(folder: Path) -> str:
    """What TensorBoard says beside a mean, from its first point, the only one that holds it."""
    descriptions = [
        value.metadata.summary_description for _, value in summaries(folder, margin("mean", "tokens", "val/loss").value)
    ]
    assert not any(descriptions[1:])
    return descriptions[0]


def test_a_diverged_seed_is_in_no_mean_and_is_named_beside_it(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": [3.0, 3.2, None]}, curves=True)
    folder = build_view(tmp_path, "softcap") / "both"
    assert curve(folder, margin("mean", "tokens", "val/loss").value)[-1][1] == pytest.approx(3.1, rel=1e-6)
    assert said(folder) == "2 of 3 seeds (0, 1); 95% t interval; seed 2 diverged"


def test_an_arm_without_a_point_has_no_run_of_its_own(tmp_path: Path) -> None:
    fake_run(tmp_path, curves=True)
    fake_run(tmp_path, "neither", status="running", order=1)
    view = build_view(tmp_path, "softcap")
    runs = {path.parent.relative_to(view).as_posix() for path in view.rglob("*tfevents*")}
    assert runs == {"about", "both", "both/seed-0"}


def test_a_curve_has_no_more_points_than_a_chart_shows_the_first_and_the_last_among_them(tmp_path: Path) -> None:
    run = fake_run(tmp_path, curves=True)
    write_curves(run.path, 9990, 3.0)
    found = curve(build_view(tmp_path, "softcap") / "both", margin("mean", "tokens", "val/loss").value)
    assert len(found) == POINTS_PER_CURVE
    assert (found[0][0], found[-1][0]) == (10 * 512, 9990 * 512)


def test_a_view_is_rebuilt_with_the_curves_that_stand_and_anew_where_a_run_continued(tmp_path: Path) -> None:
    first = fake_run(tmp_path, status="running", curves=True)
    fake_run(tmp_path, "neither", order=1, baseline="both", curves=True)
    fake_run(tmp_path, "third", order=2, baseline="both", curves=True)
    view = build_view(tmp_path, "softcap")
    (before,) = view.glob("both/*tfevents*")
    tag = margin("mean", "tokens", "val/loss").value
    assert [step for step, _ in curve(view / "both", tag)] == [10 * 512, 20 * 512]
    (kept,) = view.glob("neither/*tfevents*")
    kept.resolve().write_bytes(b"kept")
    first.state = State(status="queued")  # the arms' files depend on the baseline's runs as well
    assert build_view(tmp_path, "softcap") == view
    assert b"kept" not in {path.read_bytes() for path in view.glob("neither/*tfevents*")}

    write_curves(first.path, STEPS, 3.0)
    os.utime(first.path / "metrics.jsonl", (2_000_000_000, 2_000_000_000))
    build_view(tmp_path, "softcap")
    (after,) = view.glob("both/*tfevents*")
    assert after.name > before.name  # TensorBoard reads it after the one that it knows
    assert [step for step, _ in curve(view / "both", tag)] == [step * 512 for step in (10, 20, 30, 40)]


def test_curves_whose_runs_have_not_changed_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_sweep(tmp_path, {"both": [3.0, 3.1], "neither": [3.4, 3.6]}, curves=True)
    view = build_view(tmp_path, "softcap")
    before = {path.name: path.read_bytes() for path in view.glob("*/*tfevents*")}
    monkeypatch.setattr("lab.comparison.tensorboard.bands.run_curves", lambda *_: pytest.fail("read again"))
    fake_run(tmp_path, "third", order=2, baseline="both", status="failed")  # the view changes, these curves don't
    build_view(tmp_path, "softcap")
    after = {path.name: path.read_bytes() for path in view.glob("*/*.mean.*")}
    assert after == {name: content for name, content in before.items() if ".mean." in name}


def test_a_metric_with_a_curve_has_a_chart_of_means_and_one_of_differences_over_tokens_and_flops(
    tmp_path: Path,
) -> None:
    fake_run(tmp_path, metrics=["val/loss", "far/accuracy", "train/loss"], results={"far/accuracy": 0.5}, curves=True)
    ((_, record),) = summaries(build_view(tmp_path, "softcap") / "about", "custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(record.tensor.string_val[0])
    said = {"mean": "mean over seeds", "difference": "difference from both, paired by seed"}
    assert [category.title for category in layout.category] == [
        f"{metric}: {kind}, with 95% t intervals"
        for metric in ("validation loss", "training loss")  # the accuracy was measured once, at the end
        for kind in said.values()
    ]
    for kind, category in zip(said, layout.category[:2], strict=True):
        assert [chart.title for chart in category.chart] == ["over MFLOPs", "over tokens"]
        drawn = [(series.value, series.lower, series.upper) for c in category.chart for series in c.margin.series]
        assert drawn == [margin(kind, axis, "val/loss") for axis in ("MFLOPs", "tokens")]


def test_what_is_measured_at_the_end_alone_is_no_curve(tmp_path: Path) -> None:
    for order, arm in enumerate(["both", "neither"]):
        run = fake_run(tmp_path, arm, order=order, metrics=["far/accuracy", "val/loss"], curves=True)
        with (run.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": STEPS, "far/accuracy": 0.5}) + "\n")
    view = build_view(tmp_path, "softcap")
    for kind in ("mean", "difference"):
        assert curve(view / "neither", margin(kind, "tokens", "far/accuracy").value) == []
        assert len(curve(view / "neither", margin(kind, "tokens", "val/loss").value)) == 4
    ((_, record),) = summaries(view / "about", "custom_scalars__config__")
    titles = [category.title for category in layout_pb2.Layout.FromString(record.tensor.string_val[0]).category]
    assert [title.partition(":")[0] for title in titles] == ["validation loss", "validation loss"]


def test_the_question_the_plan_and_the_table_are_texts(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": [3.0, 3.1], "neither": [3.4, None]}, curves=True)
    view = build_view(tmp_path, "softcap")
    assert text(view, "softcap/question") == "Does soft\\-capping still help once queries and keys are normed?"
    plan, table = text(view, "softcap/the plan"), text(view, "softcap/the table")
    assert "held equal: params; seeds 0, 1; metrics: validation loss." in plan
    assert "| neither | none | 1.23M | 7.50M | 2.05k | 1 finished, 1 diverged |" in plan
    both, neither = (line.replace("\\", "") for line in table.splitlines()[2:4])
    assert both.startswith("| both | 2 | 3.0500 ± 0.0707 | baseline | 1.23M | 7.50M | 2.05k |")
    assert neither.startswith("| neither | 1 (1 diverged) | 3.4000 | +0.4000 ")
    assert "one pair (seed 0): no interval" in neither
    assert "diverged in 1 of 2 seeds" in neither, "beside its number"


def test_a_sweep_without_a_question_reports_it(tmp_path: Path) -> None:
    fake_run(tmp_path, question=None)
    assert texts_of(compare(collect(tmp_path, "softcap")))["question"] == "The sweep softcap has no question."


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", "a|b", "**bold**", "[x](http://y)", "`a`\n# b", "é ∂ 長"]
)
def test_a_hostile_name_is_shown_as_it_is(hostile: str) -> None:
    shown = markdown.markdown(f"| a |\n|---|\n| {escape(hostile)} |", extensions=["markdown.extensions.tables"])
    (cell,) = re.findall("<td>(.*)</td>", shown)
    assert "<" not in cell
    assert html.unescape(cell) == " ".join(hostile.split())


def test_the_texts_of_several_sweeps_stand_side_by_side(tmp_path: Path) -> None:
    fake_run(tmp_path, curves=True)
    fake_run(tmp_path, "wide", sweep="width", baseline="wide", question="Wider?", curves=True)
    view = build_view(tmp_path, ["softcap", "width"])
    assert text(view, "width/question") == "Wider?"
    assert "softcap" not in text(view, "width/the table")
    assert curve(view / "width" / "wide", margin("mean", "tokens", "val/loss").value)
