"""The lab's own runs, compared where the truth is known: arms that can't differ. tests/torture has arms that differ in
name only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.comparison.compare import compare
from lab.comparison.read.collect import collect
from lab.dispatch.launchers.local.scheduler import run_local
from lab.planning.plan.build import plan_sweep
from lab.planning.plan.model import PlannedRun
from lab.planning.plan.store import save_plan
from tests.comparison.test_comparison_table import line, printed
from tests.records.made import make_run

SEEDS = 6
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


def make_runs(folder: Path, sweeps: dict[str, int]) -> Path:
    """Real runs of some sweeps (name → seeds): of `windows` both arms, of others `whole` alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        text = folder / "text.jsonl"
        text.write_text("\n".join(json.dumps({"text": f"The square of {n} is {n * n}. " * 4}) for n in range(300)))
        (folder / "sweeps").mkdir()
        runs: list[PlannedRun] = []
        for name, seeds in sweeps.items():
            (folder / "sweeps" / f"{name}.yaml").write_text(SWEEP.format(seeds=seeds, text=text))
            planned = plan_sweep(name)
            save_plan(planned, folder / "runs")
            made = {run.identity for run in runs}
            wanted = [run for run in planned.runs if name == "windows" or run.arm == "whole"]
            runs += [run for run in wanted if run.identity not in made]
        folders = [make_run(folder / "runs" / run.folder_name, run.config_yaml, run.record) for run in runs]
        assert set(run_local(folders, max_parallel=1, threads=1).outcomes.values()) == {"finished"}
    return folder / "runs"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_runs(tmp_path_factory.mktemp("real"), {"windows": SEEDS})


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
