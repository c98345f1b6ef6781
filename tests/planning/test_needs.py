"""Runs that need runs: the order, whose identity stands where, and what is refused before anything is made."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.accounting.costs import costs
from lab.composition.frozen.freeze import load_experiment
from lab.planning.arms.arm import Arm
from lab.planning.arms.dependencies import in_dependency_order
from lab.planning.language.read import SweepFile
from lab.planning.language.sweep import NeededRun, Sweep
from lab.planning.plan.build import plan_sweep, plan_train
from lab.planning.plan.model import Plan, PlannedRun
from lab.planning.plan.references import References
from lab.records import RunFolder, State
from lab.refusals import RequestError
from tests.records.made import make_run

Write = Callable[[str], None]
FILE = SweepFile(Path("sweeps/mine.yaml"), Sweep("Why?", "gemma2_tiny"))
LARGE = "{model.d_model: 192}"


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write sweeps/mine.yaml in a working folder of its own."""
    (tmp_path / "sweeps").mkdir()
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> None:
        (tmp_path / "sweeps" / "mine.yaml").write_text(f"question: Why?\nexperiment: gemma2_tiny\n{text}\n")

    return write


TAUGHT = f"""
arms:
  taught: {{recipe: distillation}}
  plain: {{}}
  big: {LARGE}
needs: {{taught: {{recipe.teacher: big}}}}
seeds: [3, 5]
"""


def by_name(plan: Plan) -> dict[str, PlannedRun]:
    return {f"{run.arm}/{run.seed}": run for run in plan.runs}


def stand(run: PlannedRun, root: Path, status: Any = "finished") -> RunFolder:
    """A planned run's folder below the root, as if it had been run."""
    folder = make_run(root / run.folder_name, run.config_yaml, run.record)
    folder.state = State(status=status)
    return folder


def test_a_student_holds_the_identity_of_its_teacher_with_its_own_seed(sweep: Write) -> None:
    sweep(TAUGHT)
    runs = by_name(plan_sweep("mine"))
    for seed in (3, 5):
        student, teacher = runs[f"taught/{seed}"], runs[f"big/{seed}"]
        assert student.experiment.recipe.teacher == teacher.identity  # type: ignore[attr-defined]
        [need] = student.needs
        assert (need.path, need.identity, need.run) == ("recipe.teacher", teacher.identity, f"mine/big/seed-{seed}")
        assert student.record.needs[0].identity == teacher.identity
        assert student.axes["recipe"] == "distillation"
        assert (teacher.needs, teacher.axes["recipe"]) == ((), "next_token")
    assert [run.arm for run in plan_sweep("mine").runs][::2] == ["taught", "plain", "big"], "in the file's order"


def test_another_teacher_makes_another_student_and_leaves_the_others(sweep: Write) -> None:
    sweep(TAUGHT)
    before = by_name(plan_sweep("mine"))
    sweep(TAUGHT.replace("192", "256"))
    after = by_name(plan_sweep("mine"))
    assert before["taught/3"].identity != after["taught/3"].identity
    assert before["plain/3"].identity == after["plain/3"].identity


def test_a_given_seed_is_the_teacher_of_all(sweep: Write) -> None:
    sweep(TAUGHT.replace("recipe.teacher: big", "recipe.teacher: {arm: big, seed: 5}"))
    runs = by_name(plan_sweep("mine"))
    assert {runs[f"taught/{seed}"].needs[0].identity for seed in (3, 5)} == {runs["big/5"].identity}


def test_each_cell_needs_the_cell_that_agrees_with_it(sweep: Write) -> None:
    sweep(TAUGHT + "grid: {model.span.window: [16, 32]}")
    runs = by_name(plan_sweep("mine"))
    for window in (16, 32):
        assert runs[f"taught,window={window}/3"].needs[0].identity == runs[f"big,window={window}/3"].identity


def test_students_may_teach(sweep: Write) -> None:
    sweep(
        "arms: {third: {recipe: distillation}, second: {recipe: distillation, model.d_model: 160}, first: {}}\n"
        "needs: {third: {recipe.teacher: second}, second: {recipe.teacher: first}}"
    )
    runs = by_name(plan_sweep("mine"))
    assert runs["third/0"].needs[0].identity == runs["second/0"].identity
    assert runs["second/0"].needs[0].identity == runs["first/0"].identity


def test_a_students_flops_count_its_teachers_forward_passes(sweep: Write) -> None:
    sweep(TAUGHT)
    runs = by_name(plan_sweep("mine"))
    teacher, student, plain = (runs[f"{arm}/3"] for arm in ("big", "taught", "plain"))
    forward = costs(teacher.experiment.model, student.experiment.train.context).forward_flops_per_token
    assert forward == pytest.approx(teacher.costs.flops_per_token / 3)
    assert student.total_flops == plain.total_flops + forward * student.tokens
    assert student.costs == plain.costs, "which are the architecture's"


def test_a_student_is_reproduced_by_its_overrides_and_from_its_frozen_configuration(
    sweep: Write, tmp_path: Path
) -> None:
    sweep(TAUGHT)
    runs = by_name(plan_sweep("mine"))
    student = runs["taught/3"]
    stand(runs["big/3"], tmp_path / "runs")
    again = plan_train("gemma2_tiny", student.overrides, root=tmp_path / "runs").runs[0]
    assert again.identity == student.identity
    assert load_experiment(yaml.safe_load(student.config_yaml)) == student.experiment


@pytest.mark.parametrize("by", ["path", "identity", "prefix"])
def test_a_run_that_stands_is_meant_by_its_name_or_its_identity(sweep: Write, tmp_path: Path, by: str) -> None:
    sweep(TAUGHT)
    teacher = by_name(plan_sweep("mine"))["big/3"]
    stand(teacher, tmp_path / "runs")
    name = {"path": "mine/big/seed-3", "identity": teacher.identity, "prefix": f"'{teacher.identity[:9]}'"}[by]
    taught = ["recipe=distillation", f"recipe.teacher={name}"]
    run = plan_train("gemma2_tiny", taught, root=tmp_path / "runs").runs[0]
    assert run.experiment.recipe.teacher == teacher.identity  # type: ignore[attr-defined]
    assert run.needs[0].run == "mine/big/seed-3"
    sweep(
        "arms: {taught: {recipe: distillation}, plain: {}}\n"
        f"needs: {{taught: {{recipe.teacher: {{run: {name}}}}}}}"
    )
    named = by_name(plan_sweep("mine", root=tmp_path / "runs"))["taught/0"]
    sweep(f"arms: {{taught: {{recipe: distillation, recipe.teacher: {name}}}, plain: {{}}}}")
    set_ = by_name(plan_sweep("mine", root=tmp_path / "runs"))["taught/0"]
    assert named.identity == set_.identity == run.identity, "however it was said, it is the same run"


def test_a_configuration_that_needs_nothing_is_left_as_it_is() -> None:
    experiment = plan_train("gemma2_tiny").runs[0].experiment
    assert References(None).fill(experiment, Arm("plain", {})) == (experiment, ())


REFUSED = [
    (
        "needs: {taugt: {recipe.teacher: big}}",
        "mine.yaml:3: needs.taugt: no arm is called 'taugt'; did you mean 'taught'",
    ),
    (
        "needs: {taught: {recipe.teacher: bigg}}",
        "needs.taught.recipe.teacher: no arm is called 'bigg'; did you mean 'big'",
    ),
    ("needs: {taught: {recipe.techer: big}}", "no option there refers to a run; did you mean 'recipe.teacher'"),
    ("needs: {taught: {recipe.teacher: {arm: big, seed: 9}}}", "9 is not among the sweep's seeds (0, 1)"),
    ("needs: {taught: {recipe.teacher: taught}}", "is circular: taught → taught; a run can't need itself"),
    (
        "needs: {taught: {recipe.teacher: big}, plain: {recipe.teacher: big}}",
        "sweeps/mine.yaml:3: needs.plain.recipe.teacher: arm 'plain' has no option there that refers to a run; choose "
        "recipe=distillation",
    ),
    ("needs: {taught: {recipe.teacher: {run: a/b/seed-0}}}", "no root folder of runs is given"),
    ("needs: {taught: {recipe.teacher: big}}\nmatch: flops", "match: flops leaves out the teacher's forward passes"),
    (
        "needs: {taught: {recipe.teacher: big}}\ntune: {optimizer.lr: [1e-3, 2e-3]}",
        "needs.taught.recipe.teacher: the runs of 'big' are known only after it has picked its optimizer.lr",
    ),
    ("{}", "arm 'taught': override 'recipe=distillation': recipe.teacher: is missing"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=[text for text, _ in REFUSED])
def test_a_mistaken_need_is_refused(sweep: Write, text: str, message: str) -> None:
    arms = f"arms: {{taught: {{recipe: distillation}}, plain: {{}}, big: {LARGE}}}\nseeds: 2"
    sweep(f"{text if text != '{}' else ''}\n{arms}")
    with pytest.raises(RequestError) as refusal:
        plan_sweep("mine")
    assert message in str(refusal.value)


def test_a_cycle_of_needs_is_refused_with_its_arms(sweep: Write) -> None:
    d = "{recipe: distillation, model.d_model: %d}"
    sweep(
        f"arms: {{a: {d % 64}, b: {d % 96}, c: {d % 128}, e: {{}}}}\n"
        "needs: {a: {recipe.teacher: b}, b: {recipe.teacher: c}, c: {recipe.teacher: a}}"
    )
    with pytest.raises(RequestError, match=r"needs\.\w: is circular: (a → b → c → a|b → c → a → b|c → a → b → c);"):
        plan_sweep("mine")


def test_a_cell_that_fits_none_or_several_is_refused(sweep: Write) -> None:
    sweep(TAUGHT + "grid: {model.span.window: [16, 32]}\nwhen: {model.span.window: {arm: big}}")
    with pytest.raises(
        RequestError, match="'big' has 2 cells and 'taught' needs one of them: big,window=16, big,window=32"
    ):
        plan_sweep("mine")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model.vocab_size=512"], "mine/big/seed-3: the teacher predicts 512 tokens, model.vocab_size here is 257"),
        (["data/tokenizer=bpe", "data.tokenizer.size=257"], "the teacher has 'bpe', this one 'byte'"),
        (["model/position=learned", "model.position.context=300"], "the teacher has 300 positions"),
    ],
)
def test_a_teacher_that_does_not_fit_reaches_no_queue(
    sweep: Write, tmp_path: Path, changes: list[str], message: str
) -> None:
    teacher = replace(plan_train("gemma2_tiny", changes).runs[0], sweep="mine", arm="big", seed=3)
    stand(teacher, tmp_path / "runs")
    taught = ["recipe=distillation", "recipe.teacher=mine/big/seed-3", "train.context=400"]
    with pytest.raises(RequestError) as refusal:
        plan_train("gemma2_tiny", taught, root=tmp_path / "runs")
    assert str(refusal.value).startswith("recipe.teacher: mine/big/seed-3: ")
    assert message in str(refusal.value)


@pytest.mark.parametrize("status", ["queued", "running", "failed", "diverged", "preempted", "blocked", "lost"])
def test_an_unfinished_run_cannot_be_a_teacher(tmp_path: Path, status: str) -> None:
    stand(replace(plan_train("gemma2_tiny").runs[0], sweep="mine", arm="big"), tmp_path, status)
    with pytest.raises(RequestError, match=f"recipe.teacher: mine/big/seed-0 is {status}: only a finished run"):
        plan_train("gemma2_tiny", ["recipe=distillation", "recipe.teacher=mine/big/seed-0"], root=tmp_path)


def test_an_unknown_run_names_the_nearest(tmp_path: Path) -> None:
    stand(replace(plan_train("gemma2_tiny").runs[0], sweep="mine", arm="big"), tmp_path)
    with pytest.raises(
        RequestError, match=r"recipe\.teacher: no run is called 'mine/bag/seed-0'; did you mean 'mine/big/seed-0'"
    ):
        plan_train("gemma2_tiny", ["recipe=distillation", "recipe.teacher=mine/bag/seed-0"], root=tmp_path)


def test_what_needs_hold_is_plain_json(sweep: Write) -> None:
    sweep(TAUGHT)
    rows = json.loads(json.dumps(plan_sweep("mine").as_dict()))["runs"]
    assert rows[0]["needs"][0]["run"] == "mine/big/seed-3"


EDGES = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=14)


@given(edges=EDGES)
@settings(max_examples=150, deadline=None)
def test_the_order_has_every_need_first_exactly_when_there_is_one(edges: list[tuple[int, int]]) -> None:
    wanted: dict[str, dict[str, NeededRun]] = {}
    for a, b in edges:  # a second edge of the same arm takes another path
        paths = wanted.setdefault(f"arm{a}", {})
        paths[f"recipe.teacher{len(paths)}"] = NeededRun(arm=f"arm{b}")
    arms = [Arm(f"arm{n}", {}, needs=wanted.get(f"arm{n}", {})) for n in range(8)]

    reach = {(a, b) for a, b in edges}
    while more := {(a, d) for a, b in reach for c, d in reach if b == c} - reach:
        reach |= more
    circular = {a for a, b in reach if a == b}

    try:
        order = [arm.name for arm in in_dependency_order(arms, FILE)]
    except RequestError as error:
        names = str(error).partition("circle: ")[2].partition(";")[0].split(" → ")
        steps = [(int(a[3:]), int(b[3:])) for a, b in pairwise(names)]
        assert names[0] == names[-1]
        assert set(steps) <= set(edges), "each arrow of the message is a need"
        assert circular
    else:
        assert sorted(order) == sorted(arm.name for arm in arms)
        assert all(order.index(f"arm{b}") < order.index(f"arm{a}") for a, b in edges)
        assert not circular
