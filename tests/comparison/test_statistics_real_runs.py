"""The lab's own runs, compared where the truth is known: arms that differ in name only, and arms that can't differ."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lab.comparison.compare import Comparison, compare
from lab.comparison.read.collect import collect
from lab.comparison.statistics.paired import paired_difference
from lab.comparison.statistics.verdicts import judge
from lab.dispatch.launchers.local.local import run_local
from lab.planning.plan.build import plan_sweep
from lab.planning.plan.store import save_plan
from lab.records import RunFolder
from tests.comparison.test_comparison_plans import plan, row
from tests.comparison.test_comparison_table import line, printed

SEEDS, ARMS = 6, 4
SWEEP = """
question: Does a window that sees everything already do anything when it is doubled?
experiment: gemma2_tiny
seeds: {seeds}
baseline: whole
metrics: [val/loss]
equivalence: 0.001
arms:
  whole:   {{model.span.window: 32}}
  doubled: {{model.span.window: 64}}
overrides:
  train: {{tokens: 1k, context: 32, global_batch: 4, accelerator: cpu}}
  validation: {{every: 256, tokens: 256}}
  schedule.warmup_tokens: 128
  data/corpus: files
  data.corpus.paths: ["{text}"]
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real runs: `whole` with 24 seeds, and `doubled` with the first six of them."""
    folder = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        text = folder / "text.jsonl"
        text.write_text("\n".join(json.dumps({"text": f"The square of {n} is {n * n}. " * 4}) for n in range(300)))
        (folder / "sweeps").mkdir()
        runs = []
        for name, seeds in (("windows", SEEDS), ("many", SEEDS * ARMS)):
            (folder / "sweeps" / f"{name}.yaml").write_text(SWEEP.format(seeds=seeds, text=text))
            planned = plan_sweep(name)
            save_plan(planned, folder / "runs")
            made = {run.identity for run in runs}
            wanted = [run for run in planned.runs if name == "windows" or run.arm == "whole"]
            runs += [run for run in wanted if run.identity not in made]
        folders = [RunFolder.create(folder / "runs" / run.folder_name, run.config_yaml, run.info) for run in runs]
        assert len(folders) == SEEDS * (ARMS + 1)
        assert set(run_local(folders, max_parallel=1, threads=1).ran.values()) == {"finished"}
    return folder / "runs"


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


@pytest.mark.slow
def test_arms_of_real_runs_that_differ_in_name_only_are_told_apart_in_at_most_alpha_of_sweeps(root: Path) -> None:
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_arms_that_compute_the_same_are_other_runs_and_are_said_to_be_identical(root: Path) -> None:
    comparison = compare(collect(root, "windows"))
    whole, doubled = comparison.sweep.arms.values()
    assert not {run.identity for run in whole.runs.values()} & {run.identity for run in doubled.runs.values()}
    assert whole.values("val/loss") == doubled.values("val/loss")
    assert len(whole.values("val/loss")) == SEEDS
    cell = comparison.rows[1].cells["val/loss"]
    assert (cell.verdict, cell.p) == ("equivalent", 1)
    assert "equivalent (identical on every seed)" in line(printed(comparison), "doubled")
    floor = comparison.noise["val/loss"]
    assert floor.seeds_sd is not None
    assert floor.seeds_sd > 0
    assert floor.runs == 0, "four validations over a whole run are not its end"
