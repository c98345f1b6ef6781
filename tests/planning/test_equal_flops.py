"""`equal_flops`: tokens for another arm's FLOPs, and what else a plan says of distillation's controls and caches."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.accounting.costs import costs
from lab.planning.plan.build import plan_sweep
from lab.planning.plan.model import Plan, PlannedRun
from lab.planning.plan.plan_file import load_plan, write_plan
from lab.refusals import RequestError
from lab.units import count
from tests.planning.test_print_plan import preview, shown

Write = Callable[[str], None]

ARMS = """
arms:
  longer: {}
  taught: {recipe: distillation}
  plain: {}
  big: {model.d_model: 192}
needs: {taught: {recipe.teacher: big}}
"""


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write sweeps/mine.yaml in a working folder of its own."""
    (tmp_path / "sweeps").mkdir()
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> None:
        (tmp_path / "sweeps" / "mine.yaml").write_text(f"question: Why?\nexperiment: gemma2_tiny\n{text}\n")

    return write


def firsts(plan: Plan) -> dict[str, PlannedRun]:
    return {arm: runs[0] for arm, runs in plan.arms.items()}


def test_an_arm_gets_the_tokens_that_a_teachers_passes_would_have_bought(sweep: Write) -> None:
    sweep(ARMS + "equal_flops: {longer: taught}\nseeds: 2")
    plan = plan_sweep("mine")
    runs = firsts(plan)
    student, teacher = runs["taught"].costs, costs(runs["big"].experiment.model, 256)
    expected = runs["taught"].tokens * (1 + teacher.forward_flops_per_token / student.flops_per_token)
    step = runs["longer"].experiment.train.tokens_per_step
    assert abs(runs["longer"].tokens - expected) <= step / 2
    assert runs["longer"].tokens > 1.3 * runs["plain"].tokens, "or the teacher costs nothing"
    assert abs(runs["longer"].total_flops - runs["taught"].total_flops) <= step / 2 * student.flops_per_token
    assert {run.tokens for run in plan.arms["longer"]} == {runs["longer"].tokens}, "of every seed"
    assert plan.as_dict()["equal_flops"] == {"longer": "taught"}
    assert f"train.tokens={runs['longer'].experiment.train.tokens}" in runs["longer"].overrides


def test_an_override_of_the_tokens_moves_both(sweep: Write) -> None:
    sweep(ARMS + "equal_flops: {longer: taught}")
    short = firsts(plan_sweep("mine", ("train.tokens=100k",)))
    whole = firsts(plan_sweep("mine"))
    assert short["taught"].tokens / whole["taught"].tokens == pytest.approx(0.25, rel=0.05)
    assert short["longer"].tokens / whole["longer"].tokens == pytest.approx(0.25, rel=0.05)


def test_a_cell_goes_with_the_cell_of_its_own_axes(sweep: Write) -> None:
    sweep(ARMS + "equal_flops: {longer: taught}\ngrid: {model.n_layers: [2, 4]}")
    runs = firsts(plan_sweep("mine"))
    for layers in (2, 4):
        mine, theirs = runs[f"longer,n_layers={layers}"], runs[f"taught,n_layers={layers}"]
        assert mine.total_flops == pytest.approx(theirs.total_flops, rel=0.005)


def test_a_student_itself_may_train_for_longer(sweep: Write) -> None:
    sweep(
        "arms: {long: {recipe: distillation}, big: {model.d_model: 192}, small: {}}\n"
        "needs: {long: {recipe.teacher: small}}\nequal_flops: {long: big}"
    )
    runs = firsts(plan_sweep("mine"))
    assert runs["long"].needs[0].flops_per_token > 0
    assert runs["long"].total_flops == pytest.approx(runs["big"].total_flops, rel=0.01)


def test_a_saved_plan_keeps_equal_flops(sweep: Write, tmp_path: Path) -> None:
    sweep(ARMS + "equal_flops: {longer: taught}")
    plan = plan_sweep("mine")
    write_plan(plan, tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == plan


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("equal_flops: {lunger: taught}", "equal_flops.lunger: no arm is called 'lunger'; did you mean 'longer'?"),
        ("equal_flops: {longer: tought}", "equal_flops.longer: no arm is called 'tought'; did you mean 'taught'?"),
        ("equal_flops: {longer: longer}", "equal_flops.longer: is circular"),
        (
            "equal_flops: {longer: taught}\nmatch: tokens",
            "equal_flops: match already gives every arm the baseline's tokens",
        ),
        (
            "equal_flops: {longer: taught}\nmatch: flops",
            "equal_flops: match already gives every arm the baseline's flops",
        ),
        (
            "equal_flops: {longer: taught}\ngrid: {train.tokens: [100k, 200k]}",
            r"arm 'longer,tokens=100k' sets train.tokens itself \(sweeps/mine.yaml:\d+\); keep one of the two",
        ),
        ("equal_flops: {big: taught}", "is circular"),
    ],
)
def test_equal_flops_that_conflicts_with_the_sweep_is_refused(sweep: Write, text: str, message: str) -> None:
    sweep(ARMS + text)
    with pytest.raises(RequestError, match=message):
        plan_sweep("mine")


def test_equal_flops_with_tuned_axes_is_refused(sweep: Write) -> None:
    sweep("arms: {longer: {}, big: {model.d_model: 192}}\nequal_flops: {longer: big}\ntune: {train.context: [64, 128]}")
    with pytest.raises(
        RequestError, match="equal_flops: can't be combined with tune, which may change what an arm costs"
    ):
        plan_sweep("mine")


def test_the_shipped_sweep_has_every_control_and_its_budget() -> None:
    plan = plan_sweep("distillation")
    runs = firsts(plan)
    assert {arm: run.experiment.recipe.work for arm, run in runs.items()} == {
        "teacher": "next_token",
        "plain": "next_token",
        "distilled": "distillation",
        "mixed": "distillation",
        "sampled": "distillation sampled 16",
        "smoothed": "label_smoothing",
        "longer": "next_token",
    }
    same = ("plain", "distilled", "mixed", "sampled", "smoothed")
    assert len({(runs[arm].tokens, runs[arm].experiment.data, repr(runs[arm].experiment.model)) for arm in same}) == 1
    assert runs["smoothed"].total_flops == runs["plain"].total_flops
    assert runs["longer"].total_flops == pytest.approx(runs["distilled"].total_flops, rel=0.005)


def test_what_a_cache_will_take_stands_in_the_plan(sweep: Write) -> None:
    kept = "{recipe: distillation, recipe.targets: top_k, recipe.k: 16, recipe.cache: true}"
    sweep(f"arms: {{taught: {kept}, big: {{}}}}\nneeds: {{taught: {{recipe.teacher: big}}}}\nseeds: 2")
    text = " ".join(shown(preview(plan_sweep("mine"), [])).split())
    [row, *_] = [row for row in plan_sweep("mine").as_dict()["runs"] if row["arm"] == "taught"]
    assert row["cache_bytes"] == row["tokens"] * 16 * (2 + 4)
    each, both = count(row["cache_bytes"]), count(2 * row["cache_bytes"])
    assert f"outputs in the lab's cache, per run: taught {each}B; {both}B for all runs" in text
    online = plan_sweep("mine", ("train.tokens=400k",)).arms["taught"][0]
    sweep(f"arms: {{taught: {kept.replace('true', 'false')}, big: {{}}}}\nneeds: {{taught: {{recipe.teacher: big}}}}")
    same = plan_sweep("mine").arms["taught"][0]
    assert same.identity == online.identity, "a cache changes no result"
    assert same.total_flops == online.total_flops, "somebody has to make what is kept"
    assert same.workload.digest != online.workload.digest, "but not its reader: it takes another time"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "recipe.cache: true",
            r"recipe.cache: full distributions would take \d+MB a run, 4 bytes for each of 257 tokens",
        ),
        ("recipe.targets: top_k, recipe.k: 300", "recipe.k: 300 different tokens are more than the vocabulary's 257"),
        ("recipe.targets: topk", "'topk' is not among its values; did you mean 'top_k'?"),
    ],
)
def test_targets_that_cannot_be_are_refused(sweep: Write, options: str, message: str) -> None:
    sweep(
        f"arms: {{big: {{}}, taught: {{recipe: distillation, {options}}}}}\nneeds: {{taught: {{recipe.teacher: big}}}}"
    )
    with pytest.raises(RequestError) as refused:
        plan_sweep("mine")
    assert re.search(message, str(refused.value))
