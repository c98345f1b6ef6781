"""What is said of an arm, and what must be said beside it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from lab.comparison.compare import compare
from lab.comparison.read.collect import collect
from lab.comparison.statistics.paired import PairedDifference, paired_difference
from lab.comparison.statistics.verdicts import Judgement, judge
from lab.comparison.tables import export
from lab.planning.forecast.power import POWER, equivalence_power, power, seeds_needed
from tests.comparison.fake_runs import fake_run, fake_sweep
from tests.comparison.test_comparison_plans import plan, row
from tests.comparison.test_comparison_table import line, printed

BOTH = [3.20, 3.22, 3.21, 3.24, 3.19]
NOISE = [0.004, -0.003, 0.001, -0.004, 0.002]


def shifted(by: float, noise: float = 1.0) -> list[float]:
    return [base + by + noise * each for base, each in zip(BOTH, NOISE, strict=True)]


def difference(values: list[float]) -> PairedDifference:
    return paired_difference(dict(enumerate(values)), dict.fromkeys(range(len(values)), 0.0))


def judged(values: list[float], better: str | None = "lower", **options: float) -> Judgement:
    return judge({"arm": difference(values)}, better, **options)["arm"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("by", "better", "verdict"),
    [
        *[(-1, "lower", "better"), (1, "lower", "worse"), (-1, "higher", "worse"), (1, "higher", "better")],
        *[(1, None, "different"), (-1, None, "different"), (0, "lower", "can't tell"), (0, None, "can't tell")],
    ],
)
def test_the_direction_of_the_metric_decides_what_a_certain_difference_is(
    by: int, better: str | None, verdict: str
) -> None:
    assert judged([0.02 * by + each for each in NOISE], better).verdict == verdict


def test_a_verdict_takes_the_corrected_p_value_and_not_the_interval() -> None:
    values = [0.004 + each for each in NOISE]
    alone = judged(values)
    assert alone.p is not None
    assert 0.02 < alone.p < 0.06
    level = 1 - alone.p - 0.001
    assert judged(values, level=level).verdict == "worse"
    many = judge({"arm": difference(values), "other": difference(NOISE)}, "lower", level=level)
    assert difference(values).interval is not None
    assert many["arm"].p_holm == pytest.approx(2 * alone.p)
    assert many["arm"].verdict == "can't tell"


def test_a_certain_difference_within_the_margin_is_equivalent_and_beyond_it_is_worse() -> None:
    values = [0.02 + each for each in NOISE]
    assert judged(values).verdict == "worse"
    found = judged(values, margin=0.05)
    assert found.verdict == "equivalent"
    assert found.p_holm is not None
    assert found.p_holm < 0.05
    assert judged(values, margin=0.02).verdict == "worse"
    assert found.equivalence is not None
    assert found.equivalence.margin == 0.05


def test_being_equivalent_is_corrected_over_the_arms_too() -> None:
    values = [0.045 + each for each in NOISE]
    alone = judged(values, margin=0.05).equivalence
    assert alone is not None
    assert alone.p is not None
    many = judge({str(n): difference(values) for n in range(3)}, "lower", margin=0.05)
    assert many["0"].equivalence is not None
    assert many["0"].equivalence.p_holm == pytest.approx(min(1.0, 3 * alone.p))


def test_the_seeds_needed_would_find_what_was_seen_with_the_power_of_a_plan() -> None:
    found = judge({"arm": difference([0.001 + each for each in NOISE]), "other": difference(NOISE)}, "lower")["arm"]
    sd = difference(NOISE).sd
    assert sd is not None
    assert found.verdict == "can't tell"
    assert found.seeds_needed == seeds_needed(0.001, sd, 2)
    assert power(0.001, sd, found.seeds_needed, 2) >= POWER > power(0.001, sd, found.seeds_needed - 1, 2)


def test_with_a_margin_they_are_those_that_show_equivalence_where_that_takes_fewer() -> None:
    values = [0.0002 + each for each in NOISE]
    sd, mean = difference(values).sd, difference(values).mean
    assert sd is not None
    assert mean is not None
    finding, found = judged(values).seeds_needed, judged(values, margin=0.003)
    assert found.verdict == "can't tell"
    assert found.seeds_needed is not None
    assert finding is not None
    assert 5 < found.seeds_needed < finding
    assert equivalence_power(0.003, sd, found.seeds_needed, effect=mean) >= POWER


@pytest.mark.parametrize("seed", range(60))
def test_more_seeds_are_needed_than_there_are(seed: int) -> None:
    n = 2 + seed % 6
    drawn = np.random.default_rng(seed).normal(0.5, 1, (3, n))
    values = {str(arm): difference([float(value) for value in drawn[arm]]) for arm in range(3)}
    for margin in (None, 0.7):
        for found in judge(values, "lower", margin=margin).values():
            assert (found.seeds_needed is None) == (found.verdict != "can't tell")
            assert found.seeds_needed is None or found.seeds_needed > n


def test_identical_arms_are_equivalent_only_to_a_margin_and_from_five_seeds_on() -> None:
    found = judged([0.0, 0.0, 0.0])
    assert (found.verdict, found.p, found.seeds_needed) == ("can't tell", 1, None)
    found = judged([0.0, 0.0, 0.0], margin=1e-6)
    assert (found.verdict, found.seeds_needed) == ("can't tell", 5)
    assert judged([0.0] * 4, margin=1e-6).verdict == "can't tell"
    assert judged([0.0] * 5, margin=1e-6).verdict == "equivalent"


def test_the_same_step_on_a_few_seeds_tells_nothing() -> None:
    """An accuracy of twenty questions moves by 0.05 on both of two seeds once in a while, whatever the arms are."""
    found = judged([0.05, 0.05], "higher")
    assert (found.verdict, found.p, found.seeds_needed) == ("can't tell", 0.5, 6)
    assert judged([0.05] * 5, "higher").verdict == "can't tell"
    assert judged([0.05] * 6, "higher").verdict == "better"
    two = {"arm": difference([0.05] * 6), "other": difference([0.05, 0.04, -0.03, 0.01, -0.02, 0.02])}
    assert judge(two, "higher")["arm"].seeds_needed == 7
    assert judge({**two, "arm": difference([0.05] * 7)}, "higher")["arm"].verdict == "better"


@pytest.mark.parametrize("values", [[], [0.5]])
def test_less_than_two_pairs_tell_nothing(values: list[float]) -> None:
    found = judged(values, margin=1.0)
    assert (found.verdict, found.p, found.p_holm, found.seeds_needed) == ("can't tell", None, None, None)


# In the comparison, the table, the JSON and the CSV.


def test_an_arm_that_diverged_says_so_beside_its_number_everywhere(tmp_path: Path) -> None:
    lower: list[float | None] = [*shifted(-0.05)]
    lower[3] = None
    fake_sweep(tmp_path, {"both": BOTH, "lower": lower, "lost": [None] * 5})
    comparison = compare(collect(tmp_path, "softcap"))
    cell = comparison.rows[1].cells["val/loss"]
    assert (cell.verdict, cell.diverged, cell.sample.n) == ("better", "1 of 5 seeds", 4)
    data = json.loads(export.as_json(comparison))["arms"]
    assert data[1]["metrics"]["val/loss"]["diverged"] == "1 of 5 seeds"
    assert data[1]["metrics"]["val/loss"]["remarks"] == ["diverged in 1 of 5 seeds", "4 of 5 seeds paired"]
    assert data[2]["metrics"]["val/loss"]["diverged"] == "5 of 5 seeds"
    assert data[0]["metrics"]["val/loss"]["diverged"] is None
    text = printed(comparison)
    assert "better (diverged in 1 of 5 seeds)" in line(text, "lower")
    assert "(diverged in 5 of 5 seeds)" in line(text, "lost")
    assert "lower diverged in 1 of 5 seeds: its numbers leave these out, so they may look better than they are." in text
    assert ",1 of 5 seeds,diverged in 1 of 5 seeds; 4 of 5 seeds paired,,,5.5\n" in export.as_csv(comparison)


def test_a_baseline_that_diverged_says_so_and_its_seed_is_in_no_difference(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": [*BOTH[:4], None], "lower": shifted(-0.05)})
    comparison = compare(collect(tmp_path, "softcap"))
    assert "baseline (diverged in 1 of 5 seeds)" in line(printed(comparison), "both")
    found = comparison.rows[1].cells["val/loss"]
    assert found.difference is not None
    assert (found.difference.seeds, found.difference.unpaired) == ((0, 1, 2, 3), (4,))
    assert found.diverged is None


def test_the_table_says_how_many_seeds_would_tell(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": BOTH, "near": shifted(0.002), "nearest": shifted(0.00001), "same": BOTH})
    comparison = compare(collect(tmp_path, "softcap"))
    text = printed(comparison)
    needed = comparison.rows[1].cells["val/loss"].seeds_needed
    assert f"can't tell ({needed} seeds)" in line(text, "near")
    assert "can't tell (over 1,000 seeds)" in line(text, "nearest")
    assert "can't tell" not in line(text, "same")
    assert "identical on every seed" in line(text, "same")
    assert "Can't tell (seeds): that many seeds would tell with 80% power" in text


def test_the_margin_of_the_plan_makes_arms_equivalent_in_the_first_metric_alone(tmp_path: Path) -> None:
    rows = []
    for arm, losses in (("gqa", BOTH), ("mha", shifted(0.01))):
        for seed, loss in enumerate(losses):
            rows.append(row(fake_run(tmp_path, arm, seed, loss=loss, results={"train/loss": loss}), arm, seed))
    plan(tmp_path, rows, metrics=["val/loss", "train/loss"], equivalence=0.03)
    comparison = compare(collect(tmp_path, "softcap"))
    cells = comparison.rows[1].cells
    assert (cells["val/loss"].verdict, cells["train/loss"].verdict) == ("equivalent", "worse")
    assert cells["train/loss"].equivalence is None
    data = export.as_data(comparison)
    assert data["equivalence"] == 0.03
    told = data["arms"][1]["metrics"]["val/loss"]["equivalence"]
    assert told["margin"] == 0.03
    assert told["p"] == told["p_holm"] < 0.05
    assert -0.03 < told["interval"][0] < told["interval"][1] < 0.03
    text = printed(comparison)
    assert " equivalent " in line(text, "mha")
    assert "Equivalent: validation loss shown to be within ±0.03 of the baseline's, by two one-sided tests" in text


@pytest.mark.parametrize("wrong", [None, 0, -1, "0.1", True])
def test_a_plan_with_no_margin_or_none_that_can_be_makes_nothing_equivalent(tmp_path: Path, wrong: object) -> None:
    runs = [fake_run(tmp_path, arm, 0) for arm in ("gqa", "mha")]
    plan(tmp_path, [row(run, arm, 0) for run, arm in zip(runs, ("gqa", "mha"), strict=True)], equivalence=wrong)
    assert collect(tmp_path, "softcap").equivalence is None


def test_the_legend_says_what_is_corrected_and_where_an_interval_misleads(tmp_path: Path) -> None:
    arms = {"both": BOTH, "close": shifted(0.004)} | {f"null_{n}": shifted(0.0, 0.5 + n / 4) for n in range(3)}
    fake_sweep(tmp_path, arms)
    comparison = compare(collect(tmp_path, "softcap"), level=0.94)
    text = printed(comparison)
    assert "the paired t test has p < 0.06, corrected by Holm's procedure for the 4 arms of a metric" in text
    p = comparison.rows[1].cells["val/loss"].p_holm
    assert p is not None
    assert (
        "close: the interval of its validation loss excludes 0, but with this many arms an interval may do so "
        f"by chance: corrected p = {p:.2g}." in text
    )
    fake_sweep(tmp_path, {"both": BOTH, "other": shifted(0.05)}, sweep="two")
    assert "corrected" not in printed(compare(collect(tmp_path, "two")))


def test_a_verdict_that_sign_flips_do_not_give_is_reported(tmp_path: Path) -> None:
    base = [3.0] * 8
    outlier = [3.0 + d for d in (0.02, 0.021, 0.019, 0.02, 0.022, 0.018, 0.02, -0.004)]
    fake_sweep(tmp_path, {"both": base, "arm": outlier})
    comparison = compare(collect(tmp_path, "softcap"))
    cell = comparison.rows[1].cells["val/loss"]
    assert cell.verdict == "worse"
    assert cell.sign_flip_p == 2 * 2 / 2**8
    assert "sign-flip" not in printed(comparison)
    sharper = compare(collect(tmp_path, "softcap"), level=0.99)
    assert sharper.rows[1].cells["val/loss"].verdict == "worse"
    assert (
        "arm: the verdict on validation loss rests on the t test; the exact sign-flip test, which assumes less, "
        "has p = 0.016." in (printed(sharper))
    )


def test_bootstrap_and_sign_flips_come_with_ten_and_six_pairs(tmp_path: Path) -> None:
    values = [float(x) for x in np.random.default_rng(0).normal(3, 0.1, 10)]
    for n in (5, 6, 9, 10):
        fake_sweep(tmp_path, {"both": [3.0] * n, "arm": values[:n]}, sweep=f"of_{n}")
        cell = export.as_data(compare(collect(tmp_path, f"of_{n}")))["arms"][1]["metrics"]["val/loss"]
        assert (cell["sign_flip_p"] is None) == (n < 6)
        assert (cell["bootstrap"] is None) == (n < 10)


def test_a_value_that_is_not_finite_is_strict_json(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": [*BOTH], "arm": [math.nan, math.inf, *BOTH[2:]]})
    assert "NaN" not in export.as_json(compare(collect(tmp_path, "softcap")))
