"""A sweep under its plan: labels in force, runs in other sweeps' folders, tuned arms, and arms that aren't matched."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tensorboard.plugins.hparams import metadata

from lab.comparison.compare import Comparison, compare
from lab.comparison.read.collect import collect
from lab.comparison.tables import export
from lab.comparison.tables.table import MOST_ROWS, show
from lab.comparison.tensorboard.serve import build_view
from lab.planning.solve.selection import Cell, TuningRun, select_cell
from lab.records import RunFolder, State, write_json
from lab.records.checks import Fields
from tests.comparison.fake_runs import fake_run, fake_sweep
from tests.comparison.test_tensorboard_view import session, summaries
from tests.records.made import info

Row = dict[str, Any]


def row(run: RunFolder, arm: str, seed: int, **more: Any) -> Row:
    """A run's row in plan.json."""
    known = {"parameters": 1_000_000, "flops_per_token": 6e6, "kv_bytes_per_token": 512, "tokens": 20_480} | more
    return {
        "identity": run.identity, "arm": arm, "seed": seed, "axes": {"model/heads": arm}, "role": "report", "cell": "",
        "tuned": {}, "total_flops": known["flops_per_token"] * known["tokens"], "folder": run.name, **known,
    }  # fmt: skip


def plan(root: Path, rows: Sequence[Row], sweep: str = "softcap", **labels: Any) -> None:
    content: dict[str, Any] = {
        "version": 2, "sweep": sweep, "question": "Which?", "baseline": "gqa", "match": "none", "metrics": ["val/loss"],
        "matching": {"by": "none", "tolerance": 0.005}, "tune_metric": None, "runs": list(rows),
    }  # fmt: skip
    (root / sweep).mkdir(exist_ok=True)
    write_json(root / sweep / "plan.json", content | labels)


def compared(root: Path, sweep: str = "softcap") -> Comparison:
    return compare(collect(root, sweep))


def printed(comparison: Comparison) -> str:
    file = io.StringIO()
    show(comparison, Console(file=file, highlight=False, width=None))
    return re.sub(r"\x1b\[[\d;]*m", "", file.getvalue())


def line(text: str, arm: str) -> str:
    return next(line for line in text.splitlines() if line.strip().startswith(f"{arm} "))


# Labels.


def test_the_plans_labels_are_in_force_over_what_the_runs_recorded_first(tmp_path: Path) -> None:
    runs = {arm: [fake_run(tmp_path, arm, seed, baseline="mha") for seed in (0, 1)] for arm in ("mha", "gqa")}
    rows = [row(run, arm, seed) for arm in ("gqa", "mha") for seed, run in enumerate(runs[arm])]
    plan(tmp_path, rows, metrics=["train/loss", "val/loss"], match="flops", question="And now?")
    found = collect(tmp_path, "softcap")
    assert (found.question, found.baseline, found.match) == ("And now?", "gqa", "flops")
    assert found.metrics == ("train/loss", "val/loss")
    assert list(found.arms) == ["gqa", "mha"]
    assert found.arms["mha"].axes == {"model/heads": "mha"}
    assert found.arms["mha"].costs["parameters"] == 1_000_000


def test_an_arm_renamed_after_its_run_was_made_has_the_new_name(tmp_path: Path) -> None:
    run = fake_run(tmp_path, "old_name", 0, loss=3.0)
    plan(tmp_path, [row(run, "gqa", 7)])
    (arm,) = collect(tmp_path, "softcap").arms.values()
    assert (arm.name, arm.values("val/loss")) == ("gqa", {7: 3.0})


def test_a_run_that_another_sweep_made_first_is_this_sweeps_too(tmp_path: Path) -> None:
    shared = fake_run(tmp_path, "plain", 0, sweep="earlier", loss=3.0, curves=True)
    own = fake_run(tmp_path, "mha", 0, loss=3.1, curves=True)
    plan(tmp_path, [row(shared, "gqa", 0), row(own, "mha", 0)])
    comparison = compared(tmp_path)
    assert [arm.values("val/loss") for arm in comparison.sweep.arms.values()] == [{0: 3.0}, {0: 3.1}]
    data = export.as_data(comparison)
    assert data["arms"][0]["seeds"][0]["run"] == "earlier/plain/seed-0"
    links = [path for path in (build_view(tmp_path, "softcap") / "gqa" / "seed-0").iterdir() if path.is_symlink()]
    assert [link.resolve().parent for link in links] == [shared.path.resolve()]
    assert not collect(tmp_path, "earlier").left_out


def test_a_sweep_whose_every_run_another_made_needs_no_folders_of_its_own(tmp_path: Path) -> None:
    shared = fake_run(tmp_path, "plain", 0, sweep="earlier", loss=3.0)
    plan(tmp_path, [row(shared, "gqa", 0)])
    assert collect(tmp_path, "softcap").arms["gqa"].values("val/loss") == {0: 3.0}


def test_a_run_beside_another_of_the_same_place_is_found_by_its_identity(tmp_path: Path) -> None:
    fake_run(tmp_path, "gqa", 0, loss=1.0, identity="a" * 16)
    beside = fake_run(tmp_path, "gqa", 0, loss=2.0, identity="b" * 16)
    planned = row(beside, "gqa", 0, folder="softcap/gqa/seed-0")
    plan(tmp_path, [planned])
    found = collect(tmp_path, "softcap")
    assert found.arms["gqa"].values("val/loss") == {0: 2.0}
    assert [run.identity for run in found.left_out] == ["a" * 16]


def test_every_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(fake_run(tmp_path, arm, seed), arm, seed) for arm in ("gqa", "mha") for seed in range(3)]
    fake_run(tmp_path, "stray", 0, status="running")
    plan(tmp_path, rows)
    opened: Counter[str] = Counter()
    read = Path.open

    def counting(self: Path, *args: Any, **options: Any) -> Any:
        opened[self.relative_to(tmp_path).as_posix()] += 1
        return read(self, *args, **options)

    monkeypatch.setattr(Path, "open", counting)  # read_text and read_bytes both do
    collect(tmp_path, "softcap")
    assert set(opened.values()) == {1}
    assert len(opened) == 1 + 6 * 2 + 2 + 1, "the plan; run.json and summary.json; and the state where there is none"


# Tuned arms.

LRS = (0.001, 0.002, 0.004)


def tuned(root: Path, losses: dict[str, dict[float, float | str]], *, report: dict[str, float], **labels: Any) -> None:
    """A tuned sweep: arm → learning rate → loss (or status) on tuning seed 5; reporting runs 0, 1 at one of them."""
    rows = []
    for arm, by_lr in losses.items():
        for lr, what in by_lr.items():
            cell = {"cell": f"lr={lr}", "tuned": {"optimizer.lr": lr}}
            came = {"status": what} if isinstance(what, str) else {"loss": what}
            run = fake_run(root, f"{arm},lr={lr}", 5, **came)
            if isinstance(what, str) and what == "failed":
                run.state = State(status="failed", reason="out of memory")
            rows.append(row(run, arm, 5, role="tune", **cell))
            for seed in (0, 1):
                name = f"{arm},lr={lr}/seed-{seed}"
                if report.get(arm) == lr:
                    run = fake_run(root, f"{arm},lr={lr}", seed, loss=3.0 + seed / 10 + len(arm) / 100)
                    rows.append(row(run, arm, seed, **cell))
                else:
                    identity = f"{len(rows):016x}"
                    rows.append(row(run, arm, seed, **cell) | {"identity": identity, "folder": f"softcap/{name}"})
    plan(root, rows, tune_metric="val/loss", **labels)


GOOD: dict[str, dict[float, float | str]] = {
    "gqa": {0.001: 2.0, 0.002: 1.0, 0.004: 1.5},
    "local": {0.001: 2.0, 0.002: 1.5, 0.004: 1.0},
}
PICKED = {"gqa": 0.002, "local": 0.004}


def test_tuning_runs_are_in_no_average_and_reporting_runs_are_those_of_the_pick(tmp_path: Path) -> None:
    tuned(tmp_path, GOOD, report=PICKED)
    found = collect(tmp_path, "softcap")
    assert found.arms["gqa"].values("val/loss") == {0: 3.03, 1: 3.13}
    assert found.arms["local"].picked == {"optimizer.lr": 0.004}
    assert [arm.statuses for arm in found.arms.values()] == [{"finished": 2}, {"finished": 2}]
    assert found.left_out == ()
    assert found.tuned == ("optimizer.lr",)


def test_the_table_says_what_each_arm_picked_and_on_what_ground(tmp_path: Path) -> None:
    tuned(tmp_path, GOOD, report=PICKED)
    text = printed(compared(tmp_path))
    assert "gqa: optimizer.lr = 0.002, picked on seed 5 of 3 values.\n" in text.replace(" \n", "\n")
    assert (
        "local: optimizer.lr = 0.004, picked on seed 5 of 3 values; at the edge: the largest optimizer.lr tried."
        in text
    )


def test_what_was_picked_is_in_the_json_and_the_csv(tmp_path: Path) -> None:
    tuned(tmp_path, GOOD, report=PICKED)
    comparison = compared(tmp_path)
    data = json.loads(export.as_json(comparison))
    assert data["version"] == 2
    assert data["arms"][1]["tuned"] == {
        "cell": "lr=0.004", "values": {"optimizer.lr": 0.004}, "metric": "val/loss", "seeds": [5], "tried": 3,
        "means": {"lr=0.001": 2.0, "lr=0.002": 1.5, "lr=0.004": 1.0}, "diverged": [], "waiting": 0,
        "edges": {"optimizer.lr": "largest"},
    }  # fmt: skip
    lines = list(csv.DictReader(io.StringIO(export.as_csv(comparison))))
    assert [each["tuned:optimizer.lr"] for each in lines] == ["0.002", "0.004"]


def test_an_arm_that_waits_for_a_tuning_run_has_no_value_and_says_which(tmp_path: Path) -> None:
    tuned(tmp_path, {**GOOD, "local": {0.001: 2.0, 0.002: "failed"}}, report={"gqa": 0.002})
    text = printed(compared(tmp_path))
    assert line(text, "local").split()[1] == "0"
    assert (
        "local: nothing picked yet: waiting for 1 tuning run, such as softcap/local,lr=0.002/seed-5 "
        "(failed: out of memory)." in text
    )


def test_an_arm_whose_every_cell_diverged_reports_it(tmp_path: Path) -> None:
    tuned(tmp_path, {**GOOD, "local": {0.001: "diverged", 0.002: "diverged"}}, report={"gqa": 0.002})
    assert "local: nothing picked: all 2 cells diverged on seed 5" in printed(compared(tmp_path))


def test_a_recorded_pick_is_in_force_and_differing_tuning_runs_are_reported(tmp_path: Path) -> None:
    picked = {"gqa": {"cell": "lr=0.004", "values": {"optimizer.lr": 0.004}, "seeds": [5]}}
    tuned(tmp_path, GOOD, report={"gqa": 0.004, "local": 0.004}, selected=picked)
    comparison = compared(tmp_path)
    assert comparison.sweep.arms["gqa"].picked == {"optimizer.lr": 0.004}
    assert comparison.sweep.arms["gqa"].statuses == {"finished": 2}
    assert "kept, although the tuning runs now give lr=0.002" in printed(comparison)


def test_reporting_runs_of_what_was_not_picked_are_left_out_and_told(tmp_path: Path) -> None:
    tuned(tmp_path, GOOD, report={"gqa": 0.001, "local": 0.004})
    comparison = compared(tmp_path)
    assert comparison.sweep.arms["gqa"].statuses == {"missing": 2}
    assert len(comparison.sweep.left_out) == 2
    assert "or with values that their arm didn't pick" in printed(comparison)


def test_the_view_shows_what_was_picked_and_no_tuning_run(tmp_path: Path) -> None:
    tuned(tmp_path, GOOD, report=PICKED)
    view = build_view(tmp_path, "softcap")
    assert sorted(path.relative_to(view).as_posix() for path in view.glob("*/seed-*")) == [
        f"{arm}/seed-{seed}" for arm in ("gqa", "local") for seed in (0, 1)
    ]
    assert dict(session(view / "local" / "seed-0")[0].hparams)["optimizer.lr"].number_value == 0.004
    (_, record) = summaries(view / "about", metadata.EXPERIMENT_TAG)[0]
    experiment = metadata.parse_experiment_plugin_data(record.metadata.plugin_data.content)
    assert [info.name for info in experiment.hparam_infos] == ["model/heads", "optimizer.lr"]


def test_without_a_plan_tuning_runs_are_in_no_average_either(tmp_path: Path) -> None:
    for seed, role in ((0, "report"), (5, "tune")):
        run = fake_run(tmp_path, "gqa", seed, loss=3.0 + seed)
        write_json(run.path / "run.json", info(run) | {"role": role, "tuned": {"optimizer.lr": 0.002}})
    (arm,) = collect(tmp_path, "softcap").arms.values()
    assert arm.values("val/loss") == {0: 3.0}
    assert arm.axes["optimizer.lr"] == 0.002


def test_the_pick_of_a_comparison_is_the_pick_of_the_submission(tmp_path: Path) -> None:
    tuned(tmp_path, GOOD, report=PICKED)
    cells = [Cell(f"lr={lr}", {"optimizer.lr": lr}) for lr in LRS]
    for arm, by_lr in GOOD.items():
        tried = [TuningRun(f"lr={lr}", 5, "finished", float(loss)) for lr, loss in by_lr.items()]
        selection = collect(tmp_path, "softcap").arms[arm].selection
        assert selection is not None
        assert selection.as_dict() == select_cell(arm, cells, tried, "val/loss").as_dict()


# Matching.


def arms(root: Path, match: str, tolerance: float = 0.005, **mha: float) -> str:
    runs = {arm: fake_run(root, arm, 0, loss=3.0) for arm in ("gqa", "mha")}
    rows = [row(runs["gqa"], "gqa", 0), row(runs["mha"], "mha", 0, **mha)]
    plan(root, rows, match=match, matching={"by": match, "tolerance": tolerance})
    return printed(compared(root))


def test_arms_of_other_sizes_are_marked_where_nothing_is_matched(tmp_path: Path) -> None:
    text = arms(tmp_path, "none", parameters=1_031_000, flops_per_token=5.9e6)
    assert "1.03M (+3.1%)" in line(text, "mha")
    assert "5.90M (-1.7%)" in line(text, "mha")
    assert "Not matched: mha has +3.1% parameters, -1.7% FLOPs/token, compared with the baseline." in text
    assert "%" not in line(text, "gqa")


def test_arms_with_other_budgets_are_reported_where_nothing_is_matched(tmp_path: Path) -> None:
    text = arms(tmp_path, "none", tokens=2 * 20_480)
    assert "Not matched: mha has +100% FLOPs in all, compared with the baseline." in text


def test_a_difference_within_the_tolerance_is_none(tmp_path: Path) -> None:
    text = arms(tmp_path, "none", parameters=1_004_900)
    assert "atched" not in text
    assert "%" not in line(text, "mha")


def test_what_is_held_equal_is_reported_and_an_arm_that_is_not_is_marked(tmp_path: Path) -> None:
    text = arms(tmp_path, "params", parameters=1_031_000, flops_per_token=5.9e6)
    assert "Held equal over the arms: params, within 0.5%." in text
    assert "OFF the match: mha has +3.1% parameters, compared with the baseline." in text
    assert "mha (off match)" in text
    assert "-1.7%" not in text, "FLOPs are not what is matched"


@pytest.mark.parametrize(
    ("match", "cost", "title"),
    [
        ("flops", "total_flops", "FLOPs in all"),
        ("kv", "kv_bytes_per_token", "KV bytes"),
        ("tokens", "tokens", "tokens"),
    ],
)
def test_each_rule_is_about_its_own_cost(tmp_path: Path, match: str, cost: str, title: str) -> None:
    assert "OFF" not in arms(tmp_path / "a", match, parameters=2_000_000)
    assert f"OFF the match: mha has +100% {title}" in arms(
        tmp_path / "b", match, **{cost: 2 * {"total_flops": 6e6 * 20_480, "tokens": 20_480}.get(cost, 512)}
    )


def test_the_tolerance_is_the_plans(tmp_path: Path) -> None:
    assert "OFF" not in arms(tmp_path / "a", "params", 0.05, parameters=1_031_000)
    assert "OFF" in arms(tmp_path / "b", "params", 0.03, parameters=1_031_000)


def test_deviations_are_in_the_json(tmp_path: Path) -> None:
    arms(tmp_path, "none", parameters=1_031_000)
    data = export.as_data(compared(tmp_path))
    assert data["tolerance"] == 0.005
    assert data["arms"][1]["deviations"]["parameters"] == pytest.approx(0.031)
    assert data["arms"][1]["off_match"] == ["parameters"]
    assert (data["arms"][1]["tokens"], data["arms"][1]["total_flops"]) == (20_480, 6e6 * 20_480)


# What has no result, and many arms.


def test_blocked_runs_say_why(tmp_path: Path) -> None:
    done, blocked = fake_run(tmp_path, "gqa", 0), [fake_run(tmp_path, "mha", n, status="blocked") for n in (0, 1)]
    for run in blocked:
        run.state = State(status="blocked", reason="needs softcap/teacher/seed-0, which failed")
    plan(tmp_path, [row(done, "gqa", 0), *(row(run, "mha", n) for n, run in enumerate(blocked))])
    text = printed(compared(tmp_path))
    assert "0 (2 blocked)" in line(text, "mha")
    assert "mha: seeds 0, 1 blocked: needs softcap/teacher/seed-0, which failed." in text


def test_of_thousands_of_arms_the_best_are_shown_and_the_others_counted(tmp_path: Path) -> None:
    many = {f"arm_{n}": [3.0 + n / 1000] for n in range(MOST_ROWS + 50)}
    fake_sweep(tmp_path, {"base": [9.0], **many, "lost": [None]})
    comparison = compared(tmp_path)
    text = printed(comparison)
    assert line(text, "base").split()[2] == "9.0000"
    assert line(text, f"arm_{MOST_ROWS - 2}")
    assert f"arm_{MOST_ROWS - 1} " not in text
    assert (
        f"52 more arms: of {MOST_ROWS + 52}, the baseline and the best by validation loss are shown; "
        "--json and --csv have all. 1 of them lack a result for some seed." in text
    )
    assert len(export.as_data(comparison)["arms"]) == MOST_ROWS + 52


def test_a_broken_folder_of_another_sweep_is_reported(tmp_path: Path) -> None:
    shared = fake_run(tmp_path, "plain", 0, sweep="earlier")
    own = fake_run(tmp_path, "mha", 0)
    plan(tmp_path, [row(shared, "gqa", 0), row(own, "mha", 0)])
    (shared.path / "summary.json").write_text("{")
    found = collect(tmp_path, "softcap")
    assert found.arms["gqa"].statuses == {"missing": 1}
    assert [path for path, _ in found.broken] == [shared.path]


def test_numbers_are_numbers_and_not_truth_values() -> None:
    costs = {"a": 1, "b": 2.5, "c": True, "d": None, "e": "x"}
    assert Fields({"costs": costs}).numbers("costs") == {"a": 1, "b": 2.5}


def test_comparing_loads_nothing_that_only_planning_and_training_need() -> None:
    code = (
        "import sys, lab.comparison.read.collect, lab.comparison.compare, lab.comparison.tables.table\n"
        "print([name for name in ('torch', 'hydra', 'omegaconf', 'lightning') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
