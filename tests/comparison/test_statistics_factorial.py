"""Effects of a grid's axes: against an analysis of variance, a regression, and hand-made grids with holes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import AnovaRM
from statsmodels.stats.multitest import multipletests

from lab.comparison.compare import compare
from lab.comparison.read.collect import collect
from lab.comparison.read.results import ArmResults, RunResult, SweepResults
from lab.comparison.statistics.factorial import Effect, Factorial, factorial
from lab.comparison.tables import export
from tests.comparison.fake_runs import fake_run
from tests.comparison.test_comparison_table import printed

Loss = Callable[[tuple[Any, ...], int], float | None]


def swept(axes: Mapping[str, list[Any]], loss: Loss, seeds: int = 4, baseline: str | None = None) -> SweepResults:
    """A grid with a loss for each cell and seed; None for a run that diverged."""
    arms = {}
    for values in itertools.product(*axes.values()):
        name = ",".join(f"{axis}={value}" for axis, value in zip(axes, values, strict=True))
        runs = {}
        for seed in range(seeds):
            found = loss(values, seed)
            status = "diverged" if found is None else "finished"
            runs[seed] = RunResult(
                name, seed, f"{name}/{seed}", status, metrics={} if found is None else {"val/loss": found}
            )
        arms[name] = ArmResults(name, dict(zip(axes, values, strict=True)), runs, {})
    return SweepResults("grid", None, baseline or next(iter(arms)), ("val/loss",), "none", arms)


def noisy(values: tuple[Any, ...], seed: int) -> float:
    """A loss with a seed's own level, noise, and effects of the first two axes that depend on each other."""
    generator = np.random.default_rng([seed, *(len(str(value)) for value in values)])
    first, second = (len(str(value)) for value in values[:2])
    return float(3 + 0.1 * seed + 0.02 * first + 0.01 * second + 0.015 * first * second + generator.normal(0, 0.01))


AXES: dict[str, list[Any]] = {"heads": ["a", "bb"], "window": ["c", "dd"]}
THREE: dict[str, list[Any]] = {"heads": ["a", "bb"], "window": ["c", "dd", "eee"], "norm": ["f", "gg"]}


def table(sweep: SweepResults) -> Any:
    rows = [
        {**arm.axes, "seed": seed, "loss": value}
        for arm in sweep.arms.values()
        for seed, value in arm.values("val/loss").items()
    ]
    return pandas.DataFrame(rows)


def effect(found: Factorial, *levels: str) -> Effect:
    return next(each for each in found.effects if each.levels == levels)


def test_with_two_levels_the_p_values_are_those_of_an_analysis_of_variance_with_repeated_measures() -> None:
    sweep = swept(AXES, noisy, seeds=6)
    found = factorial(sweep, "val/loss")
    anova = AnovaRM(table(sweep), "loss", "seed", within=["heads", "window"]).fit().anova_table
    for levels, row in ((("bb",), "heads"), (("dd",), "window"), (("bb", "dd"), "heads:window")):
        assert effect(found, *levels).p == pytest.approx(anova.loc[row, "Pr > F"], rel=1e-6)


def test_the_effects_are_the_coefficients_of_a_regression_with_seeds_as_blocks() -> None:
    sweep = swept(THREE, noisy, seeds=5)
    found = factorial(sweep, "val/loss")
    sums = ols("loss ~ C(heads, Sum) * C(window, Sum) * C(norm, Sum) + C(seed)", table(sweep)).fit()
    data = table(sweep)
    for name, levels in THREE.items():
        fitted = {level: float(sums.predict(data.assign(**{name: level})).mean()) for level in levels}
        for level in levels[1:]:
            assert effect(found, level).mean == pytest.approx(fitted[level] - fitted[levels[0]], rel=1e-8)
    for (f, g), level_f, level_g in [(("heads", "window"), "bb", "eee"), (("window", "norm"), "dd", "gg")]:
        corners = {
            (a, b): float(sums.predict(data.assign(**{f: a, g: b})).mean())
            for a in (THREE[f][0], level_f)
            for b in (THREE[g][0], level_g)
        }
        expected = sum((1 if (a == level_f) == (b == level_g) else -1) * value for (a, b), value in corners.items())
        assert effect(found, level_f, level_g).mean == pytest.approx(expected, rel=1e-8)


def test_each_effect_has_the_t_interval_and_p_value_of_its_contrast_over_seeds() -> None:
    sweep = swept(THREE, noisy, seeds=5)
    found = factorial(sweep, "val/loss", level=0.9)
    assert [len(each.factors) for each in found.effects] == [1] * 4 + [2] * 5
    data = table(sweep)
    heads = data.groupby(["seed", "heads"])["loss"].mean().unstack()
    expected = stats.ttest_1samp(heads["bb"] - heads["a"], 0.0)
    each = effect(found, "bb")
    assert each.values == pytest.approx(list(heads["bb"] - heads["a"]))
    assert each.p == pytest.approx(expected.pvalue, rel=1e-9)
    interval = expected.confidence_interval(0.9)
    assert each.interval is not None
    assert (each.interval.low, each.interval.high) == pytest.approx((interval.low, interval.high))
    corrected = multipletests([each.p for each in found.effects], method="holm")[1]
    assert [each.p_holm for each in found.effects] == pytest.approx(list(corrected))


def test_a_purely_additive_grid_has_no_interaction_and_a_crossed_one_nothing_else() -> None:
    def additive(values: tuple[Any, ...], seed: int) -> float:
        return 3.0 + seed + (0.5 if values[0] == "bb" else 0.0) + (0.25 if values[1] == "dd" else 0.0)

    found = factorial(swept(AXES, additive), "val/loss")
    assert [each.mean for each in found.effects] == pytest.approx([0.5, 0.25, 0.0])

    def crossed(values: tuple[Any, ...], seed: int) -> float:
        return 3.0 + seed + (0.5 if (values[0] == "bb") == (values[1] == "dd") else 0.0)

    found = factorial(swept(AXES, crossed), "val/loss")
    assert [each.mean for each in found.effects] == pytest.approx([0.0, 0.0, 1.0])


def test_the_baselines_levels_are_what_the_others_are_beside() -> None:
    found = factorial(swept(AXES, noisy, baseline="heads=bb,window=c"), "val/loss")
    assert [factor.reference for factor in found.factors] == ["bb", "c"]
    assert found.effects[0].name == "heads: a less bb"
    assert found.effects[-1].name == "heads a (not bb) × window dd (not c)"
    other = factorial(swept(AXES, noisy), "val/loss")
    assert found.effects[0].mean == pytest.approx(-other.effects[0].mean)


def test_values_of_an_axis_are_as_the_file_writes_them() -> None:
    axes: dict[str, list[Any]] = {"window": [16, None], "tied": [True, False], "one": ["same"]}
    found = factorial(swept(axes, noisy), "val/loss")
    assert [(factor.name, factor.levels) for factor in found.factors] == [
        ("window", ("16", "null")),
        ("tied", ("true", "false")),
    ]


def test_axes_in_step_are_one_factor() -> None:
    sizes = [(2, 64), (4, 128)]
    flat = swept({"size": sizes, "heads": ["a", "bb"]}, lambda values, seed: 3.0 + seed + values[0][0])
    arms = {}
    for name, arm in flat.arms.items():
        (layers, d_model), heads = arm.axes.values()
        arms[name] = ArmResults(name, {"layers": layers, "d_model": d_model, "heads": heads}, arm.runs, {})
    found = factorial(SweepResults("grid", None, next(iter(arms)), ("val/loss",), "none", arms), "val/loss")
    assert [(factor.name, factor.levels) for factor in found.factors] == [
        ("layers & d_model", ("2, 64", "4, 128")),
        ("heads", ("a", "bb")),
    ]
    assert effect(found, "4, 128").mean == pytest.approx(2.0)


def test_a_missing_cell_is_reported_and_not_averaged_away() -> None:
    sweep = swept(THREE, noisy)
    del sweep.arms["heads=bb,window=dd,norm=f"]
    found = factorial(sweep, "val/loss")
    assert found.effects == ()
    assert found.reason == "1 of 12 cells have no arm, such as heads=bb, window=dd, norm=f"


def test_a_seed_that_diverged_in_one_cell_is_left_out_whole_and_said() -> None:
    def loss(values: tuple[Any, ...], seed: int) -> float | None:
        return None if (values, seed) == (("bb", "dd"), 2) else noisy(values, seed) + 100 * (seed == 2)

    found = factorial(swept(AXES, loss), "val/loss")
    assert found.seeds == (0, 1, 3)
    assert found.lacking == ((2, ("heads=bb,window=dd",)),)
    assert abs(found.effects[0].mean) < 1


def test_where_no_seed_is_in_every_cell_there_are_no_effects_and_with_one_no_interval() -> None:
    none = factorial(swept(AXES, lambda values, seed: None if values == ("a", "c") else 3.0), "val/loss")
    assert (none.effects, none.reason) == ((), "no seed has a result in every cell")
    nan = factorial(swept(AXES, lambda values, seed: math.nan if values == ("a", "c") else 3.0), "val/loss")
    assert nan.reason == "no seed has a result in every cell"
    one = factorial(swept(AXES, noisy, seeds=1), "val/loss")
    assert [(each.interval, each.p, each.p_holm) for each in one.effects] == [(None, None, None)] * 3


def test_a_sweep_of_one_axis_and_one_with_twins_have_no_effects() -> None:
    one = factorial(swept({"heads": ["a", "bb"]}, noisy2), "val/loss")
    assert one.reason == "fewer than two axes vary: the differences from the baseline are the effects"
    sweep = swept(AXES, noisy)
    sweep.arms["twin"] = ArmResults("twin", dict(sweep.arms["heads=a,window=c"].axes), {}, {})
    assert factorial(sweep, "val/loss").reason == "arms heads=a,window=c and twin have the same values on all axes"


def noisy2(values: tuple[Any, ...], seed: int) -> float:
    return 3.0 + seed + len(values[0])


def grid(root: Path, lost: tuple[str, int, int] | None = None, without: tuple[str, int] | None = None) -> None:
    cells = [cell for cell in itertools.product(("gqa", "mha"), (16, 64)) if cell != without]
    for order, (heads, window) in enumerate(cells):
        for seed in range(3):
            loss = 3 + 0.1 * seed + 0.2 * (heads == "mha") - 0.1 * (window == 64) + 0.001 * (order + 1) * (seed % 2)
            fake_run(
                root, f"heads={heads},window={window}", seed, sweep="grid", order=order, loss=loss,
                axes={"model/heads": heads, "window": window}, baseline="heads=gqa,window=16",
                status="diverged" if (heads, window, seed) == lost else "finished",
            )  # fmt: skip


def test_the_table_and_the_json_tell_the_effects(tmp_path: Path) -> None:
    grid(tmp_path)
    comparison = compare(collect(tmp_path, "grid"))
    text = printed(comparison)
    said = "Effects of the axes on validation loss: means over the other axes, in 3 seeds; p corrected for 3 effects."
    assert said in text
    assert "model/heads: mha less gqa: +0.200" in text
    assert "window: 64 less 16: -0.0" in text
    assert "model/heads mha (not gqa) × window 64 (not 16): " in text
    (data,) = export.as_data(comparison)["effects"]
    assert data["factors"] == [
        {"name": "model/heads", "levels": ["gqa", "mha"]},
        {"name": "window", "levels": ["16", "64"]},
    ]
    assert (data["reason"], data["seeds"], data["lacking"]) == (None, [0, 1, 2], {})
    assert data["effects"][0]["name"] == "model/heads: mha less gqa"
    assert data["effects"][0]["mean"] == pytest.approx(0.2, abs=0.01)
    assert len(data["effects"][0]["values"]) == 3


def test_the_table_says_which_seed_is_in_no_effect_and_which_cell_is_missing(tmp_path: Path) -> None:
    grid(tmp_path / "a", lost=("mha", 64, 1))
    text = printed(compare(collect(tmp_path / "a", "grid")))
    assert "means over the other axes, in 2 seeds" in text
    assert "Seed 1 is in no effect: no result for heads=mha,window=64." in text
    grid(tmp_path / "b", without=("mha", 64))
    text = printed(compare(collect(tmp_path / "b", "grid")))
    assert "No effects of the axes: 1 of 4 cells have no arm, such as model/heads=mha, window=64." in text
