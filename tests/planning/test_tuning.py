"""Tuned axes: which cells and seeds are tried, what is refused, and which cell is picked from what they came to."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.composition.frozen.freeze import to_plain
from lab.planning.plan.build import plan_sweep
from lab.planning.plan.store import save_plan
from lab.planning.solve import selection
from lab.planning.solve.selection import Cell, Selection, TuningRun, select_cell
from lab.records import SelectedCell
from lab.refusals import RequestError

Write = Callable[[str], None]
LR = "tune: {axes: {optimizer.lr: [1e-3, 2e-3, 4e-3]}"


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write sweeps/mine.yaml in a working folder of its own."""
    (tmp_path / "sweeps").mkdir()
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> None:
        head = "question: Why?\nexperiment: gemma2_tiny\noverrides: {train.tokens: 4k, schedule.warmup_tokens: 0}\n"
        (tmp_path / "sweeps" / "mine.yaml").write_text(f"{head}{text}\n")

    return write


def test_every_arm_tries_every_cell_on_the_tuning_seeds_and_could_report_any(sweep: Write) -> None:
    sweep("arms: {gqa: {}, mha: {model/heads: mha}}\nseeds: 2\n" + LR + ", seeds: 2}")
    plan = plan_sweep("mine")
    assert [run.folder_name for run in plan.runs if run.arm == "mha" and run.cell.name == "lr=0.002"] == [
        f"mine/mha,lr=0.002/seed-{seed}" for seed in (2, 3, 0, 1)
    ]
    assert {(run.role, run.seed) for run in plan.runs} == {("tune", 2), ("tune", 3), ("report", 0), ("report", 1)}
    assert len({run.identity for run in plan.runs}) == 2 * 3 * 4
    assert {to_plain(run.experiment)["optimizer"]["lr"] for run in plan.runs if run.cell.name == "lr=0.002"} == {0.002}
    assert plan.tune_metric == "val/loss"


def test_several_tuned_axes_are_combined_and_the_last_varies_fastest(sweep: Write) -> None:
    sweep("arms: {a: {}}\ntune: {optimizer.lr: [1e-3, 2e-3], optimizer.weight_decay: [0, 0.1]}")
    cells = dict.fromkeys(run.cell.name for run in plan_sweep("mine").runs)
    assert list(cells) == [
        f"lr={lr},weight_decay={decay}" for lr, decay in [("0.001", 0), ("0.001", 0.1), ("0.002", 0), ("0.002", 0.1)]
    ]


@pytest.mark.parametrize(
    ("seeds", "tuning", "expected"),
    [("3", "2", [3, 4]), ("[4, 9, 1]", "1", [10]), ("[0, 1]", "[7, 5]", [7, 5])],
)
def test_tuning_seeds_follow_the_highest_reported_one_or_are_those_given(
    sweep: Write, seeds: str, tuning: str, expected: list[int]
) -> None:
    sweep(f"arms: {{a: {{}}}}\nseeds: {seeds}\n{LR}, seeds: {tuning}}}")
    runs = [run for run in plan_sweep("mine").runs if run.cell.name == "lr=0.001"]
    assert [run.seed for run in runs if run.role == "tune"] == expected


def test_a_sweep_without_tuned_axes_has_reporting_runs_alone(sweep: Write) -> None:
    sweep("arms: {a: {}}")
    (run,) = plan_sweep("mine").runs
    assert (run.role, run.cell, run.folder_name) == ("report", Cell(), "mine/a/seed-0")


def test_what_is_picked_stays_in_plan_json_when_the_sweep_is_submitted_again(sweep: Write, tmp_path: Path) -> None:
    sweep("arms: {a: {}}\n" + LR + "}")
    file = save_plan(plan_sweep("mine"), tmp_path)
    cells = [Cell("lr=0.001", {"optimizer.lr": 0.001}), Cell("lr=0.002", {"optimizer.lr": 0.002})]
    tried = [TuningRun("lr=0.001", 1, "finished", 3.1), TuningRun("lr=0.002", 1, "finished", 3.0)]
    selection.record_picks(tmp_path, "mine", {"a": select_cell("a", cells, tried, "val/loss")})
    save_plan(plan_sweep("mine"), tmp_path)
    assert selection.recorded_picks(tmp_path, "mine")["a"].facts["values"] == {"optimizer.lr": 0.002}
    assert len(json.loads(file.read_text())["runs"]) == 6


REFUSED = [
    (LR + ", seeds: [0, 5]}", "tune.seeds: seed 0 is reported too"),
    (LR + ", seeds: [0, 1]}\nseeds: [1, 0]", "tune.seeds: seeds 0, 1 are reported too"),
    (LR + ", seeds: [5, 5]}", "tune.seeds[1]: 5 appears twice"),
    (LR + ", metric: val/los}", "tune.metric: training runs don't measure 'val/los'; did you mean 'val/loss'?"),
    (
        LR + "}\nmetrics: [far/recall]",
        "training runs don't measure 'far/recall' (the sweep's first metric)",
    ),
    ("tune: {axes: {optimizer.lr: [1e-3]}}", "optimizer.lr: an axis of one value changes nothing"),
    ("tune: {axes: {optimizer.lr: [1e-3, 0.001]}}", "the value 0.001 appears twice"),
    ("tune: {axes: {seed: [5, 6]}}", "tune.axes.seed: the seed can't be an axis"),
    ("tune: {axes: {optimizer.lrr: [1e-3, 2e-3]}}", "mine.yaml:5: arm 'gqa': override 'optimizer.lrr=0.001'"),
    (LR + "}\ngrid: {optimizer.lr: [1e-3, 5e-3]}", "optimizer.lr: grid.optimizer.lr also sets it"),
    (LR + "}\nadd_one_in: {fast: {optimizer.lr: 1.0}}", "add_one_in.fast.optimizer.lr also sets it"),
    (LR + "}\nleave_one_out: {x: {optimizer: {lr: 1.0}}}", "leave_one_out.x.optimizer also sets it"),
    ("tune: {axes: {train.accelerator: [cpu, auto]}}", "are the same configuration in arm 'gqa'"),
    ("match: params\ntune: {axes: {model.mlp.d_ff: [256, 512]}}", "a tuned axis changes the matched quantity (params)"),
    ("match: flops\ntune: {axes: {train.context: [64, 128]}}", "a tuned axis changes the matched quantity (flops)"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=[text for text, _ in REFUSED])
def test_a_mistaken_tuning_is_refused_with_its_file_and_key(sweep: Write, text: str, message: str) -> None:
    sweep("arms: {gqa: {}, mha: {model/heads: mha}}\n" + text)
    with pytest.raises(RequestError) as refusal:
        plan_sweep("mine")
    assert message in str(refusal.value)
    assert str(refusal.value).startswith("sweeps/mine.yaml:")


def test_an_override_of_a_tuned_axis_is_refused_as_it_would_have_no_effect(sweep: Write) -> None:
    sweep("arms: {a: {}}\n" + LR + "}")
    with pytest.raises(RequestError, match=r"override 'optimizer.lr=1': optimizer.lr is tuned in sweeps/mine.yaml"):
        plan_sweep("mine", ["optimizer.lr=1"])


def test_a_tuned_teacher_is_refused_because_its_run_is_not_known_yet(sweep: Write) -> None:
    sweep("arms: {a: {}, b: {model/heads: mha}}\nneeds: {b: {recipe.teacher: a}}\n" + LR + "}")
    with pytest.raises(RequestError, match=r"needs.b.recipe.teacher: the runs of 'a' are known only after"):
        plan_sweep("mine")


# Selection.


def picked_by_hand(names: list[str], runs: list[TuningRun]) -> str | None:
    """The rule, word for word."""
    best, lowest = None, math.inf
    for name in names:
        mine = [run for run in runs if run.cell == name]
        if any(run.status == "diverged" or (run.value is not None and not math.isfinite(run.value)) for run in mine):
            continue
        total = 0.0
        for run in mine:
            if run.status != "finished" or run.value is None:
                return None
            total += run.value
        if total / len(mine) < lowest:
            best, lowest = name, total / len(mine)
    return best


# Sixteenths: their sums are exact, so that the two ways of adding can't break a tie differently.
_values = st.integers(0, 40).map(lambda n: n / 16) | st.just(math.nan)
_outcomes = st.tuples(st.just("finished"), _values | st.none()) | st.tuples(
    st.sampled_from(["diverged", "finished", "finished", "failed", "lost", "blocked", "queued", "missing"]),
    st.just(None),
)


@settings(max_examples=400, deadline=None)
@given(st.data(), st.integers(1, 5), st.integers(1, 3), st.booleans())
def test_the_pick_is_that_of_a_naive_loop(data: Any, n_cells: int, n_seeds: int, all_done: bool) -> None:
    names = [f"lr={n}" for n in range(n_cells)]
    one = st.tuples(st.just("finished"), _values) if all_done else _outcomes
    runs = [TuningRun(name, seed, *data.draw(one)) for name in names for seed in range(n_seeds)]
    order = data.draw(st.permutations(runs))
    found = select_cell("a", [Cell(name, {"lr": n}) for n, name in enumerate(names)], order, "val/loss")
    assert (found.picked.name if found.picked else None) == picked_by_hand(names, runs)
    assert found.all_diverged == (not found.pending_runs and found.picked is None)


def cells(*values: Any) -> list[Cell]:
    return [Cell(f"lr={value}", {"optimizer.lr": value}) for value in values]


def tried(**by_cell: list[float | str]) -> list[TuningRun]:
    """Runs on seeds 5, 6, …: a loss, or a status."""
    return [
        TuningRun(f"lr={name[1:]}", 5 + n, "finished", what, "sweep/arm/seed")
        if isinstance(what, float)
        else TuningRun(f"lr={name[1:]}", 5 + n, what, None, f"sweep/a,lr={name[1:]}/seed-{5 + n}", "why not")
        for name, runs in by_cell.items()
        for n, what in enumerate(runs)
    ]


def test_the_mean_over_the_seeds_decides_and_not_the_luckiest_run() -> None:
    found = select_cell("a", cells(1, 2), tried(_1=[1.0, 4.0], _2=[2.0, 2.0]), "val/loss")
    assert found.picked == cells(2)[0]
    assert found.means == {"lr=1": 2.5, "lr=2": 2.0}
    assert found.seeds == (5, 6)


def test_the_first_of_equal_cells_is_picked() -> None:
    assert select_cell("a", cells(3, 1, 2), tried(_3=[2.0], _1=[1.5], _2=[1.5]), "val/loss").picked == cells(1)[0]


def test_one_diverged_seed_rules_its_cell_out_however_good_the_other_is() -> None:
    found = select_cell("a", cells(1, 2), tried(_1=[0.1, "diverged"], _2=[3.0, 3.0]), "val/loss")
    assert found.picked == cells(2)[0]
    assert found.ruled_out == ("lr=1",)
    assert "of 2 values, 1 of which diverged" in found.describe()


@pytest.mark.parametrize("status", ["failed", "lost", "blocked", "queued", "running", "missing"])
def test_nothing_is_picked_while_a_run_is_missing_as_it_may_be_the_best(status: str) -> None:
    found = select_cell("a", cells(1, 2), tried(_1=[status], _2=[3.0]), "val/loss")
    assert found.picked is None
    assert not found.all_diverged
    assert found.describe() == (
        f"nothing picked yet: waiting for 1 tuning run, such as sweep/a,lr=1/seed-5 ({status}: why not)"
    )


def test_a_run_that_is_missing_from_a_cell_that_diverged_is_not_waited_for() -> None:
    assert (
        select_cell("a", cells(1, 2), tried(_1=["diverged", "failed"], _2=[3.0, 3.0]), "val/loss").picked == cells(2)[0]
    )


def test_an_arm_whose_cells_all_diverged_picks_nothing_and_says_why() -> None:
    found = select_cell("a", cells(1, 2), tried(_1=["diverged"], _2=["diverged"]), "val/loss")
    assert found.all_diverged
    assert found.describe() == ("nothing picked: all 2 cells diverged on seed 5, so there are no runs to report")


@pytest.mark.parametrize(
    ("values", "best", "edge"),
    [
        *[((1e-3, 2e-3, 4e-3), 4e-3, "largest"), ((4e-3, 1e-3, 2e-3), 1e-3, "smallest"), ((1, 2, 3), 2, None)],
        *[(("200k", "1M", "50k"), "1M", "largest"), (("adamw", "lion"), "lion", None), ((1, "none"), 1, None)],
        ((True, False), True, None),
    ],
)
def test_a_best_value_at_the_end_of_its_axis_is_noted(values: tuple[Any, ...], best: Any, edge: str | None) -> None:
    runs = [TuningRun(f"lr={value}", 5, "finished", 1.0 if value is best else 2.0) for value in values]
    found = select_cell("a", cells(*values), runs, "val/loss")
    assert found.edges == ({"optimizer.lr": edge} if edge else {})


def test_a_pick_is_described_in_one_line() -> None:
    found = select_cell("a", cells(1, 2, 4), tried(_1=[3.0, 3.0], _2=[2.0, 2.0], _4=[1.0, 1.0]), "val/loss")
    assert found.describe() == (
        "optimizer.lr = 4, picked on seeds 5, 6 of 3 values; at the edge: the largest optimizer.lr tried"
    )


def test_a_recorded_pick_is_kept_and_the_new_best_cell_is_named() -> None:
    found = select_cell("a", cells(1, 2), tried(_1=[3.0], _2=[2.0]), "val/loss")
    kept = selection.with_recorded_pick(found, SelectedCell("lr=1", (4,)))
    assert isinstance(kept, Selection)
    assert (kept.picked, kept.computed_pick, kept.seeds) == (cells(1)[0], cells(2)[0], (4,))
    assert kept.describe().endswith("; kept, although the tuning runs now give lr=2")
    assert selection.with_recorded_pick(found, SelectedCell("lr=9", (4,))) is None
