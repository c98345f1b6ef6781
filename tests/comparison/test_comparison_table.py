import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from scipy import stats

from lab.comparison.compare import Comparison, compare
from lab.comparison.metrics import better, title
from lab.comparison.read.collect import collect
from lab.comparison.tables import export
from lab.comparison.tables.table import show
from lab.units import count, measure
from tests.comparison.fake_runs import fake_run, fake_sweep

BOTH, WORSE, SAME = [3.20, 3.22, 3.21], [3.30, 3.33, 3.31], [3.21, 3.20, 3.22]


def compared(root: Path, **options: Any) -> Comparison:
    return compare(collect(root, "softcap"), **options)


def printed(comparison: Comparison, *, width: int | None = None, colours: bool = False) -> str:
    """What `show` writes into a pipe, or onto a terminal `width` columns wide."""
    file = io.StringIO()
    terminal: dict[str, Any] = {"force_terminal": width is not None, "width": width, "_environ": {"TERM": "xterm"}}
    show(comparison, Console(file=file, highlight=False, **terminal))
    return file.getvalue() if colours else re.sub(r"\x1b\[[\d;]*m", "", file.getvalue())


def line(text: str, arm: str) -> str:
    return next(line for line in text.splitlines() if line.strip().startswith(f"{arm} "))


def test_a_row_has_mean_difference_interval_and_costs_in_readable_units(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": BOTH, "neither": WORSE})
    interval = stats.ttest_rel(WORSE, BOTH).confidence_interval()
    shown = line(printed(compared(tmp_path)), "neither")
    assert shown.split() == [
        *("neither", "3", "3.3133", "+0.1033", f"[{interval.low:+.4f},", f"{interval.high:+.4f}]", "worse"),
        *("1.23M", "7.50M", "2.05k", "34.5k"),
    ]


def test_the_baselines_row_reports_it(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": BOTH, "neither": WORSE})
    assert line(printed(compared(tmp_path)), "both").split()[:4] == ["both", "3", "3.2100", "baseline"]


def test_a_pipe_gets_full_width_and_nothing_cut(tmp_path: Path) -> None:
    arm = "an_arm_with_a_name_that_" + 4 * "goes_on_and_"
    metrics = ("val/loss", "val/bits_per_byte", "far/recall_accuracy")
    results = {"val/bits_per_byte": 1.1, "far/recall_accuracy": 0.5}
    fake_sweep(tmp_path, {"both": BOTH, arm: WORSE}, metrics=metrics, results=results)
    text = printed(compared(tmp_path))
    assert "…" not in text
    assert arm in text
    header = next(line for line in text.splitlines() if line.strip().startswith("arm "))
    assert len(header) > 200
    for name in ("validation loss", "validation bits per byte", "far recall accuracy", "KV bytes/token", "tokens/s"):
        assert name in header


def test_a_narrow_terminal_gets_a_table_a_metric_and_nothing_cut(tmp_path: Path) -> None:
    metrics = ("val/loss", "val/bits_per_byte")
    fake_sweep(tmp_path, {"both": BOTH, "neither": WORSE}, metrics=metrics, results={"val/bits_per_byte": 1.1})
    text = printed(compared(tmp_path), width=90)
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= 90
    assert sum(line.strip().startswith("neither ") for line in text.splitlines()) == 3  # two metrics, and costs


@pytest.mark.parametrize(("values", "colour"), [(WORSE, "31"), ([2.9, 2.91, 2.92], "32"), (SAME, None)])
def test_red_is_worse_green_is_better_and_no_colour_is_unclear(
    tmp_path: Path, values: list[float], colour: str | None
) -> None:
    fake_sweep(tmp_path, {"both": BOTH, "other": values})
    shown = line(printed(compared(tmp_path), width=200, colours=True), "other")
    for code in ("31", "32"):
        assert (f"\x1b[{code}m" in shown) == (code == colour)


def test_colour_is_not_needed_to_read_the_verdict(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": BOTH, "lower": [2.9, 2.91, 2.92], "higher": WORSE, "same": SAME})
    text = printed(compared(tmp_path))
    assert " better " in line(text, "lower")
    assert " worse " in line(text, "higher")
    assert not {"better", "worse"} & set(line(text, "same").split())


def test_higher_is_better_for_an_accuracy(tmp_path: Path) -> None:
    for order, (arm, base) in enumerate({"both": 0.5, "neither": 0.7}.items()):
        for seed in range(3):
            fake_run(
                tmp_path,
                arm,
                seed,
                order=order,
                metrics=["far/accuracy"],
                results={"far/accuracy": base + seed / (100 + order)},
            )
    comparison = compared(tmp_path)
    assert comparison.rows[1].cells["far/accuracy"].verdict == "better"
    assert "Higher far accuracy is better." in printed(comparison)


def test_a_metric_of_unknown_direction_is_called_different_and_never_better(tmp_path: Path) -> None:
    for order, (arm, base) in enumerate({"both": 0.5, "neither": 0.7}.items()):
        for seed in range(3):
            fake_run(
                tmp_path,
                arm,
                seed,
                order=order,
                metrics=["attention/entropy"],
                results={"attention/entropy": base + order * seed / 1000},
            )
    comparison = compared(tmp_path)
    assert comparison.rows[1].cells["attention/entropy"].verdict == "different"
    assert "attention entropy: which direction is better isn't known" in printed(comparison).lower()


def test_the_legend_says_what_the_interval_is_and_which_direction_is_better(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": BOTH, "neither": WORSE})
    text = printed(compared(tmp_path, level=0.9))
    assert "difference [90%]" in text
    assert "less baseline (both)" in text
    assert "90% paired t interval" in text
    assert "Lower validation loss is better." in text


def test_states_are_counted_beside_the_seeds_that_finished(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": BOTH, "neither": [3.3, None, 3.33]})
    fake_run(tmp_path, "neither", 3, order=1, baseline="both", status="running")
    text = printed(compared(tmp_path))
    assert "2 (1 diverged, 1 running)" in line(text, "neither")
    assert "3 (1 missing)" in line(text, "both")
    assert "(2 of 3 seeds paired)" in line(text, "neither")


def test_an_arm_without_results_is_shown(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": BOTH, "neither": [None, None, None]})
    shown = line(printed(compared(tmp_path)), "neither")
    assert "0 (3 diverged)" in shown
    assert "–" in shown


def test_one_pair_is_shown_without_an_interval(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": [3.2], "neither": [3.3]})
    assert "+0.1000 (one pair (seed 0): no interval)" in line(printed(compared(tmp_path)), "neither")


def test_a_finished_run_whose_metric_is_nan_is_reported(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": [3.2, 3.3, math.nan]})
    assert "both: validation loss is not finite for seed 2, so the mean is over the other 2." in printed(
        compared(tmp_path)
    )


def test_a_finished_run_that_did_not_measure_a_metric_is_reported(tmp_path: Path) -> None:
    fake_run(tmp_path, seed=0, metrics=["val/accuracy"], results={"val/accuracy": 0.5})
    fake_run(tmp_path, seed=1, metrics=["val/accuracy"])
    assert "both: 1 run of 2 finished without a validation accuracy." in printed(compared(tmp_path))


def test_the_question_is_the_title_and_the_sweeps_name_where_there_is_none(tmp_path: Path) -> None:
    fake_run(tmp_path)
    fake_run(tmp_path, sweep="unasked", question=None)
    assert printed(compared(tmp_path)).startswith("Does soft-capping still help")
    assert printed(compare(collect(tmp_path, "unasked"))).startswith("unasked\n")


def test_the_caption_says_how_far_the_arms_are_below_the_unigram_loss(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": BOTH, "neither": [3.5, 3.5, 3.5]})
    assert "5.5000 nats per token; the arms are 2.0000 to 2.2900 below it." in printed(compared(tmp_path))


def test_the_caption_names_an_arm_that_learnt_less_than_counting(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": BOTH, "neither": [5.6, 5.6, 5.6]})
    assert "NOT below it: neither by 0.1000." in printed(compared(tmp_path))


def test_markup_in_a_name_is_printed_and_not_obeyed(tmp_path: Path) -> None:
    fake_run(tmp_path, "[red]window[", question="[bold]what[/bold]?", baseline="[red]window[")
    text = printed(compared(tmp_path))
    assert "[bold]what[/bold]?" in text
    assert "[red]window[" in text


def test_a_baseline_without_runs_is_reported(tmp_path: Path) -> None:
    fake_run(tmp_path, "neither", baseline="both")
    assert "The baseline both has no runs" in printed(compared(tmp_path))


def test_runs_that_are_left_out_are_reported(tmp_path: Path) -> None:
    fake_run(tmp_path, identity="a" * 16)
    fake_run(tmp_path, identity="b" * 16)
    assert "Left out: 1 run," in printed(compared(tmp_path))


def test_json_is_strict_versioned_and_holds_every_seed(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": BOTH, "neither": [3.3, None, math.nan]})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    data = json.loads(export.as_json(compared(tmp_path)), parse_constant=refuse)
    assert data["version"] == 2
    assert (data["sweep"], data["baseline"], data["level"]) == ("softcap", "both", 0.95)
    assert data["metrics"] == [{"metric": "val/loss", "title": "validation loss", "better": "lower"}]
    neither = data["arms"][1]
    assert neither["states"] == {"finished": 2, "diverged": 1}
    assert [seed["status"] for seed in neither["seeds"]] == ["finished", "diverged", "finished"]
    assert neither["seeds"][2]["metrics"]["val/loss"] is None
    cell = neither["metrics"]["val/loss"]
    assert (cell["n"], cell["pairs"], cell["not_finite"]) == (1, 1, [2])
    assert cell["difference"] == pytest.approx(0.1)
    assert cell["low"] is None
    assert (neither["parameters"], neither["tokens_per_second"]) == (1_234_567, 34_500)


def test_csv_has_a_line_an_arm_and_metric_with_the_axes_as_the_sweep_writes_them(tmp_path: Path) -> None:
    metrics = ("val/loss", "val/bits_per_byte")
    for order, (arm, window) in enumerate({"both": 128, "neither": None}.items()):
        for seed, loss in enumerate(BOTH):
            axes, more = {"model/window": window}, {"val/bits_per_byte": 1.1}
            fake_run(
                tmp_path,
                arm,
                seed,
                loss=loss + order * (1 + seed / 100 - 0.01),
                order=order,
                axes=axes,
                metrics=metrics,
                results=more,
            )
    lines = list(csv.DictReader(io.StringIO(export.as_csv(compared(tmp_path)))))
    assert [(line["arm"], line["metric"]) for line in lines] == [(a, m) for a in ("both", "neither") for m in metrics]
    assert [line["axis:model/window"] for line in lines] == ["128", "128", "null", "null"]
    assert float(lines[2]["difference"]) == pytest.approx(1.0)
    assert (lines[2]["verdict"], lines[2]["pairs"], lines[2]["states"]) == ("worse", "3", "finished:3")
    assert lines[0]["difference"] == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(0, "0"), (7, "7"), (999, "999"), (12.34, "12.3"), (999.7, "1.00k"), (1000, "1.00k"), (34_500, "34.5k")],
        *[(1_234_567, "1.23M"), (999_950, "1.00M"), (99_960, "100k"), (-2_048, "-2.05k"), (7.5e21, "7500E")],
        *[(None, "–"), (math.nan, "nan"), (0.25, "0.25")],
    ],
)
def test_counts_have_three_digits_and_a_prefix(value: float | None, text: str) -> None:
    assert count(value) == text


@pytest.mark.parametrize(
    ("value", "signed", "text"),
    [
        *[(3.21449, False, "3.2145"), (3.2, True, "+3.2000"), (-0.01234, True, "-0.0123"), (0.0, True, "+0.0000")],
        *[(0.00012345, True, "+1.23e-04"), (123.456, False, "123.5"), (34_500, True, "+34.5k"), (None, True, "–")],
    ],
)
def test_measures_keep_the_digits_that_matter(value: float | None, signed: bool, text: str) -> None:
    assert measure(value, signed=signed) == text


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        *[
            ("val/loss", "lower"),
            ("val/bits_per_byte", "lower"),
            ("val/perplexity", "lower"),
            ("gradient_spikes", "lower"),
        ],
        *[("far/recall_accuracy", "higher"), ("train/tokens_per_second", "higher"), ("val/gloss", None), ("x", None)],
    ],
)
def test_a_metrics_ending_says_its_direction(metric: str, direction: str | None) -> None:
    assert better(metric) == direction


def test_a_metrics_title_is_in_words() -> None:
    assert title("val/bits_per_byte") == "validation bits per byte"
    assert title("train/loss") == "training loss"
