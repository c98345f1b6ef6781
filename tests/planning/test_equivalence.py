"""`equivalence`: a margin of the question and of no run, and the seeds that showing arms to be within it takes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lab.planning.forecast.detectable import detectable
from lab.planning.forecast.power import MOST_SEEDS, POWER, equivalence_power, seeds_to_equate
from lab.planning.language.read import read_sweep
from lab.planning.language.sweep import Sweep
from lab.planning.plan.build import plan_sweep
from lab.planning.plan.plan_file import load_plan, write_plan
from lab.planning.plan.store import save_plan
from tests.planning.plans import shipped
from tests.planning.test_power import OWN
from tests.planning.test_print_plan import preview, shown

TEXT = "question: Is it harmless?\nexperiment: gemma2_tiny\narms: {a: {}, b: {model/heads: mha}}\n"


def written(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, more: str = "") -> str:
    (folder / "sweeps").mkdir(exist_ok=True)
    (folder / "sweeps" / f"{name}.yaml").write_text(TEXT + more)
    monkeypatch.chdir(folder)
    return name


def test_a_margin_stands_in_the_plan_and_changes_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = plan_sweep(written(tmp_path, monkeypatch, "without"))
    margin = plan_sweep(written(tmp_path, monkeypatch, "margin", "equivalence: 0.02\n"))
    assert (without.equivalence, margin.equivalence) == (None, 0.02)
    assert [run.identity for run in without.runs] == [run.identity for run in margin.runs]
    assert [run.config_yaml for run in without.runs] == [run.config_yaml for run in margin.runs]
    assert without.as_dict()["equivalence"] is None
    assert json.loads(save_plan(margin, tmp_path / "runs").read_text())["equivalence"] == 0.02
    write_plan(margin, tmp_path / "frozen.json")
    assert load_plan(tmp_path / "frozen.json").equivalence == 0.02


def test_a_sweep_inherits_its_margin_and_null_drops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, monkeypatch, "base", "equivalence: 0.02\n")
    margins = {"same": ("", 0.02), "other": ("equivalence: 1\n", 1.0), "none": ("equivalence: null\n", None)}
    for name, (more, margin) in margins.items():
        (tmp_path / "sweeps" / f"{name}.yaml").write_text(f"extends: base\n{more}")
        assert read_sweep(name).sweep.equivalence == margin


def test_a_margin_of_a_sweep_made_in_python_is_checked_too() -> None:
    with pytest.raises(ValueError, match="must be more than 0, in the unit of val/loss, got -1"):
        Sweep(question="Why?", experiment="gemma2_tiny", equivalence=-1.0)


@pytest.mark.parametrize(
    ("margin", "sd", "seeds", "comparisons", "effect"),
    [
        (1.0, 0.4, 3, 1, 0.0),
        (1.0, 0.4, 5, 2, 0.3),
        (1.0, 1.0, 10, 1, 0.0),
        (1.0, 1.0, 2, 1, 0.0),
        (1.0, 0.3, 6, 4, 1.0),
    ],
)
def test_power_is_how_often_simulated_arms_are_shown_equivalent(
    margin: float, sd: float, seeds: int, comparisons: int, effect: float
) -> None:
    drawn = np.random.default_rng(0).normal(effect, sd, size=(100_000, seeds))
    half = stats.t.isf(0.05 / comparisons, seeds - 1) * drawn.std(1, ddof=1) / np.sqrt(seeds)
    found = (drawn.mean(1) - half > -margin) & (drawn.mean(1) + half < margin)
    expected = equivalence_power(margin, sd, seeds, comparisons, effect=effect)
    assert found.mean() == pytest.approx(expected, abs=4 * np.sqrt(0.25 / 100_000))


@pytest.mark.parametrize(("sd", "comparisons", "effect"), [(0.4, 1, 0.0), (1.0, 3, 0.2), (0.1, 10, 0.5)])
def test_the_seeds_to_equate_are_enough_and_one_fewer_is_not(sd: float, comparisons: int, effect: float) -> None:
    seeds = seeds_to_equate(1.0, sd, comparisons, effect=effect)
    assert seeds is not None
    assert equivalence_power(1.0, sd, seeds, comparisons, effect=effect) >= POWER
    assert seeds == 2 or equivalence_power(1.0, sd, seeds - 1, comparisons, effect=effect) < POWER


def test_what_is_not_within_the_margin_no_number_of_seeds_shows_to_be() -> None:
    assert seeds_to_equate(0.01, 0.01, effect=0.01) is None
    assert seeds_to_equate(0.01, 0.01, effect=-0.02) is None
    assert seeds_to_equate(0.01, 0.0) == 2
    assert seeds_to_equate(0.01, 1000.0) == MOST_SEEDS


def test_a_plan_says_how_many_seeds_its_margin_takes() -> None:
    margin = dataclasses.replace(shipped(), equivalence=0.05)
    found = detectable(margin, OWN)
    assert found.noise.sd is not None
    assert found.seeds_for_equivalence == seeds_to_equate(0.05, found.noise.sd, 3)
    assert detectable(shipped(), OWN).seeds_for_equivalence is None
    text = shown(preview(margin, OWN))
    assert "equivalent is within ±0.05 nats: showing it for an arm without any true difference would take" in text
    assert f"{found.seeds_for_equivalence:,} seeds" in text
    unknown = shown(preview(margin, []))
    assert "equivalent is within ±0.05 nats" in unknown
    assert "showing that" not in unknown
    assert "equivalent" not in shown(preview(shipped(), OWN))
