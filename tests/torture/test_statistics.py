"""What the statistics promise, on many simulated sweeps and on real runs that differ in their arm's name alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lab.comparison.compare import Comparison, compare
from lab.comparison.read.collect import collect
from lab.comparison.statistics.paired import paired_difference
from lab.comparison.statistics.verdicts import judge
from lab.records import RunFolder
from tests.comparison.test_comparison_plans import plan, row
from tests.comparison.test_statistics_real_runs import make_runs
from tests.comparison.test_statistics_scaling import hits_of_intervals
from tests.comparison.test_statistics_simulations import ALPHA, SWEEPS, error, wrong_verdicts

SEEDS, ARMS = 6, 4


def test_two_thousand_a_a_sweeps_judged_by_the_labs_own_code() -> None:
    assert 0.02 * SWEEPS < wrong_verdicts(SWEEPS) <= (ALPHA + error(ALPHA)) * SWEEPS


def test_intervals_from_the_bootstrap_cover_the_planted_law() -> None:
    # 30 of them, of 95%: 24 or fewer have a chance of one in 300; intervals of half the width would hold about 20.
    assert min(hits_of_intervals(30, 30).values()) > 24


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real runs: `whole` with 24 seeds."""
    return make_runs(tmp_path_factory.mktemp("real"), {"many": SEEDS * ARMS})


def losses(root: Path) -> dict[RunFolder, float]:
    """The runs of `whole`, whose losses vary by their seeds alone."""
    found = [RunFolder(path) for path in sorted(root.glob("*/whole/seed-*"))]
    return {run: (run.summary or {})["metrics"]["val/loss"] for run in found}


def relabelled(root: Path, order: np.ndarray) -> Comparison:
    """The same runs as a sweep of four arms of six seeds, which differ in their names only."""
    runs = list(losses(root))
    rows = [row(runs[place], f"arm_{n // SEEDS}", n % SEEDS) for n, place in enumerate(order)]
    plan(root, rows, sweep="names", baseline="arm_0")
    return compare(collect(root, "names"))


def test_arms_of_real_runs_that_differ_in_name_only_are_found_different_in_at_most_alpha_of_sweeps(root: Path) -> None:
    values = np.array(list(losses(root).values()))
    assert len(set(values)) == len(values) == SEEDS * ARMS, "seeds differ"
    generator = np.random.default_rng(0)
    wrong = 0
    for _ in range(2_000):
        baseline, *arms = (dict(enumerate(arm)) for arm in generator.permutation(values).reshape(ARMS, SEEDS))
        found = judge({str(n): paired_difference(arm, baseline) for n, arm in enumerate(arms)}, "lower")
        wrong += any(each.verdict != "can't tell" for each in found.values())
    # The sweeps are draws of the same runs, whose losses need not be normal: half as many again are allowed.
    assert wrong <= 1.5 * 0.05 * 2_000


def test_compare_says_of_such_sweeps_that_it_cannot_tell(root: Path) -> None:
    generator, values, said = np.random.default_rng(1), list(losses(root).values()), 0
    for _ in range(20):
        order = generator.permutation(len(values))
        comparison = relabelled(root, order)
        cells = [row.cells["val/loss"] for row in comparison.rows]
        assert [cell.sample.mean for cell in cells] == pytest.approx(
            [np.mean([values[place] for place in of_arm]) for of_arm in order.reshape(ARMS, SEEDS)]
        )
        said += any(cell.verdict in ("better", "worse") for cell in cells)
        assert all(cell.sign_flip_p is not None for cell in cells[1:])
    assert said <= 4, "of 20, one is to be expected, and five have a chance of one in 400"
