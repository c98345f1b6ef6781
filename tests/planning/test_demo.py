"""The sweep of `make demo`: small enough for minutes, and with seeds enough for a verdict on each arm."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab.planning.forecast.power import seeds_needed, seeds_to_equate
from tests.planning.plans import shipped

ROOT = Path(__file__).parents[2]
MEASURED = {"window_4": (-0.2330, 0.0241), "ungated": (0.0953, 0.0139), "no_cap": (0.00098, 0.00108)}
"""Arm → mean and standard deviation of the paired difference in validation loss, of the demo's own runs."""


def test_it_has_as_many_runs_as_minutes_allow() -> None:
    plan = shipped("demo")
    assert len(plan.runs) == 20
    assert {run.tokens for run in plan.runs} <= set(range(60_000, 61_000))
    assert plan.equivalence == 0.01


@pytest.mark.parametrize("arm", ["window_4", "ungated", "no_cap"])
def test_the_demo_can_decide_all_its_arms(arm: str) -> None:
    """With the differences that were measured, five seeds give each arm a verdict with 80% power; two don't."""
    mean, sd = MEASURED[arm]
    seeds = seeds_to_equate(0.01, sd, 3, 0.05, mean) if arm == "no_cap" else seeds_needed(mean, sd, 3, 0.05)
    assert 2 < (seeds or 99) <= 5


def test_unpaired_runs_could_not_show_the_equivalence() -> None:
    """As the README says: about 70 seeds, where the spreads of the two arms add up."""
    seeds = seeds_to_equate(0.01, (0.0170**2 + 0.0166**2) ** 0.5, 3, 0.05, 0.00098)
    assert seeds == pytest.approx(70, abs=3)


def test_make_demo_runs_it_and_ends_with_what_to_look_at() -> None:
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8")
    demo = re.search(r"^demo:.*?\n\n", recipe, re.MULTILINE | re.DOTALL)
    assert demo is not None
    lines = demo[0].strip().splitlines()
    commands = [line.split("/lab ")[1] for line in lines if line.startswith("\t$(BIN)/lab ")]
    assert commands == ["submit demo --on local", "compare demo"]
    last = " ".join(lines[lines.index("\t@echo") :])
    assert "What to look at" in last
    pages = re.findall(r"docs/[\w-]+\.md", last)
    assert len(pages) == 2
    assert all((ROOT / page).is_file() for page in pages)
