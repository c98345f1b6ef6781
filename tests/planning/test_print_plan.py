"""The printed plan: differences between arms, what is equal, and costs, at any width of the terminal."""

from __future__ import annotations

import dataclasses
import io
import re
from typing import Any

import pytest
from rich.console import Console

from lab.planning.forecast.budget import Budget, fit_budget
from lab.planning.forecast.detectable import detectable
from lab.planning.forecast.estimate import Speeds, estimates
from lab.planning.forecast.history import FinishedRun, Hardware
from lab.planning.plan.model import Plan
from lab.planning.show.notes import arms_beyond_tolerance
from lab.planning.show.preview import PlanPreview, difference_line
from lab.planning.show.print_plan import ROWS, print_plan
from lab.planning.solve.matching import Matching
from lab.units import duration
from tests.planning.plans import shipped

HERE = Hardware("cpu", "Xeon", 1, "2.13")


def past(plan: Plan, measured: bool = True) -> list[FinishedRun]:
    losses = {"gemma2": (2.5, 2.6), "mha": (2.4, 2.56)}
    return [
        FinishedRun(
            sweep=plan.sweep, arm=run.arm, seed=run.seed, identity=run.identity, experiment="gemma2_tiny",
            baseline=plan.baseline, role="report", created="2026", tokens=run.tokens,
            metrics={"val/loss": losses[run.arm][run.seed]}, hardware=HERE,
            workload=run.workload if measured else None, tokens_per_second=4000.0, memory_bytes=6e8,
        )
        for run in plan.runs
        if run.arm in losses and run.seed < 2
    ]  # fmt: skip


def preview(plan: Plan, seen: list[FinishedRun], **changes: Any) -> PlanPreview:
    speeds = Speeds(seen, HERE)
    made = PlanPreview(
        plan, {run.identity: "finished" for run in seen}, estimates(plan.runs, speeds), detectable(plan, seen), 2
    )
    return dataclasses.replace(made, **changes)


def shown(preview: PlanPreview, width: int = 160, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_plan(preview, console, **options)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def rows(text: str) -> dict[str, str]:
    return {
        line.split()[0]: " ".join(line.split()) for line in text.splitlines() if line.startswith(" ") and line.split()
    }


def test_every_arm_has_a_row_with_what_differs_and_what_it_costs() -> None:
    text = shown(preview(shipped(), []))
    assert text.splitlines()[0] == "What do Gemma 2's interleaved spans and grouped queries buy, at this size?"
    assert text.splitlines()[1] == "8 runs (4 arms × 2 seeds): 8 new · 5.32TFLOPs in all"
    arms = rows(text)
    assert arms["gemma2"] == "gemma2 baseline 2 822k 5.40M 1.31T 576 2 new"
    assert arms["mha"] == "mha heads gqa → mha, n_kv_heads 2 → – 2 887k +8.0% 5.80M +7.3% 1.40T 1.15k 2 new"
    assert "span interleaved → global, window 32 → –, pattern local,global → global" in arms["global_only"]
    assert "global_only span" in arms["global_only"]


def test_states_measured_time_and_what_is_left_are_reported() -> None:
    text = shown(preview(shipped(), past(shipped())))
    head = text.splitlines()[1]
    assert "4 new, 4 finished" in head
    assert re.search(r"about 99 s to go here \(\d+ s to [\d.]+ min\), 2 at once$", head)
    assert "2 finished" in rows(text)["mha"]
    assert "600MB" in rows(text)["mha"]
    assert "~600MB" not in rows(text)["mha"]
    assert "~" in rows(text)["local_only"]
    assert "2 of 4 arms measured in 2 runs; 2 of 4 arms scaled from 4 runs" in text


def test_nothing_measured_is_said_plainly() -> None:
    text = shown(preview(shipped(), []))
    assert "time and memory: unknown, as no run of this kind has been measured on this hardware" in text
    assert "smallest detectable effect: unknown until two seeds" in text
    assert "memory" not in text.splitlines()[4]


def test_the_detectable_effect_comes_with_the_noise_and_where_it_was_seen() -> None:
    text = " ".join(shown(preview(shipped(), past(shipped()))).split())
    found = detectable(shipped(), past(shipped()))
    assert f"smallest detectable effect on val/loss: {found.effect:.4f} nats with 2 seeds" in text
    assert "SD of a paired difference 0.0424, 1 degrees of freedom, from this sweep" in text
    assert f"0.01 nats would take {found.seeds_for_target} seeds" in text


def test_larger_arms_are_named_where_nothing_is_matched() -> None:
    text = " ".join(shown(preview(shipped(), [])).split())
    assert "nothing is matched; compared with gemma2: global_only +5.6% training FLOPs" in text
    assert "mha +8.0% parameters, +7.3% training FLOPs" in text
    within = Matching(parameter_deviations={"a": 0.0, "b": 0.004}, flops_deviations={"a": 0.0, "b": -0.2})
    assert arms_beyond_tolerance(within) == {"b": ["-20% training FLOPs"]}


def test_what_is_matched_by_which_knob_and_how_closely() -> None:
    text = " ".join(shown(preview(shipped("glu"), [])).split())
    assert (
        "matched: parameters, within 0.5%; all equal; by model.mlp.d_ff in multiples of 256: reglu 256, geglu 256"
        in text
    )
    assert "nothing is matched" not in text
    text = " ".join(shown(preview(shipped("norms"), [])).split())
    assert "no knob had to be adjusted" in text


def test_the_notes_name_the_runs_that_an_arm_needs() -> None:
    text = " ".join(shown(preview(shipped("distillation"), [])).split())
    assert "distilled needs teacher (its forward passes count in the total FLOPs)" in text
    teacher, student = (shipped("distillation").arms[arm][0].costs for arm in ("teacher", "plain"))
    more = teacher.forward_flops_per_token / student.flops_per_token
    assert f"distilled +{more:.0%} training FLOPs" in text


@pytest.mark.parametrize("width", [80, 100, 132, 200])
@pytest.mark.parametrize("name", ["quickstart", "gemma2", "norms", "distillation"])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_cut(name: str, width: int) -> None:
    made = preview(shipped(name), past(shipped()) if name == "quickstart" else [])
    text = shown(made, width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    folded = " ".join(text.split())
    for arm, runs in shipped(name).arms.items():
        assert arm in folded or (width < 132 and len(arm) > 30)  # a long name is folded there
        assert f"{len(runs)} new" in folded or "finished" in folded
    assert "…" not in text


def test_many_arms_are_shown_in_part_with_the_baseline_among_them() -> None:
    runs = shipped().runs
    many = tuple(
        dataclasses.replace(runs[n % 2], arm=f"arm{n:03}", baseline="arm099", identity=f"{n:064x}") for n in range(100)
    )
    names = [run.arm for run in many]
    big = dataclasses.replace(
        shipped(), runs=many, baseline="arm099", matching=Matching(
            parameter_deviations=dict.fromkeys(names, 0.0), flops_deviations=dict.fromkeys(names, 0.0)
        ),
    )  # fmt: skip
    text = shown(preview(big, []))
    arms = [name for name in rows(text) if name.startswith("arm0")]
    assert len(arms) == ROWS
    assert "arm099" in arms
    assert "… and 60 more arms; --all shows them" in text
    whole = shown(preview(big, []), everything=True)
    assert len([name for name in rows(whole) if name.startswith("arm0")]) == 100


def test_a_budget_is_shown_as_seeds_tokens_and_effect() -> None:
    seen = past(shipped())
    power = detectable(shipped(), seen)
    fitted = fit_budget(shipped(), Budget.parse("2h"), Speeds(seen, HERE), power, parallel=2, threads=1, gpu=False)
    text = shown(preview(shipped(), seen, fit=fitted))
    assert "2h is " in text
    assert "times the cost of this sweep (speed: measured in 2 runs; scaled from 4 runs)" in text
    assert "with its own 121k tokens: " in text
    assert "The noise is assumed not to depend on the number of tokens." in text
    assert preview(shipped(), seen, fit=fitted).as_dict()["budget"]["choices"][0]["seeds"] == 2


def test_json_has_stable_names() -> None:
    found = preview(shipped(), past(shipped())).as_dict()
    assert {"version", "sweep", "matching", "runs", "estimates", "power"} <= set(found)
    identity = found["runs"][0]["identity"]
    assert set(found["estimates"][identity]) == {
        "basis", "runs", "tokens_per_second", "memory_bytes", "note", "factor", "seconds", "low", "high", "parts",
        "left_out",
    }  # fmt: skip
    assert set(found["power"]) == {
        "metric", "noise", "seeds", "comparisons", "effect", "seeds_for_target", "target", "alpha", "power",
        "equivalence", "seeds_for_equivalence",
    }  # fmt: skip
    assert found["runs"][0]["state"] == "finished"


def test_differences_are_short_and_tell_the_keys_apart() -> None:
    changed = {"model.heads.name": ("gqa", "mha"), "model.heads.n_kv_heads": (2, "–"), "a.eps": (1e-6, None)}
    assert difference_line(changed) == "heads gqa → mha, n_kv_heads 2 → –, eps 1e-06 → null"
    assert difference_line({"x.a.eps": (1, 2), "x.b.eps": (True, False)}) == "a.eps 1 → 2, b.eps true → false"
    assert difference_line({"teacher": ("–", "ab" * 32)}) == "teacher – → abababab"
    assert len(difference_line({"long": ([], ["local"] * 40)})) < 70


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"), (0.4, "0 s"), (45, "45 s"), (99.6, "1.7 min"), (720, "12 min"), (12_600, "3.5 h"),
        (180_000, "2.1 d"), (9e8, "10,417 d"),
    ],
)  # fmt: skip
def test_durations_are_shown_in_readable_units(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
