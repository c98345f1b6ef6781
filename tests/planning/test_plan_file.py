"""A saved plan runs exactly what was planned, whatever happens to the files behind it, or it is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from components import registry
from lab import code_version
from lab.composition import extensions
from lab.composition.frozen.freeze import load_experiment
from lab.dispatch.control.preparation.prepare import prepare
from lab.planning.plan.build import plan_sweep, plan_train
from lab.planning.plan.model import Plan
from lab.planning.plan.plan_file import load_plan, write_plan
from lab.planning.plan.store import save_plan
from lab.refusals import RequestError

TUNED = """\
question: Which rate?
experiment: gemma2_tiny
seeds: [3, 5]
arms: {a: {}, b: {model/heads: mha}}
tune: {axes: {optimizer.lr: [0.001, 0.002]}, seeds: 1}
"""
OWN = '''\
from components.registry import register
from components.softcap import Softcap


@register("soft")
class Soft(Softcap):
    """A cap of one's own."""

    cap: float = 20.0

    @property
    def attention_cap(self) -> float:
        return self.cap
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("sweeps", "experiments"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def frozen(folder: Path) -> Callable[[], dict[str, Any]]:
    """The plan of a small sweep, written to plan.json; gives the file's content."""

    def write() -> dict[str, Any]:
        (folder / "experiments" / "mine.yaml").write_text("defaults: [gemma2_tiny, _self_]\noptimizer: {lr: 0.01}\n")
        (folder / "sweeps" / "mine.yaml").write_text(
            "question: Why?\nexperiment: mine\nseeds: 2\narms: {a: {}, b: {model/heads: mha}}\n"
        )
        write_plan(plan_sweep("mine"), folder / "plan.json")
        found: dict[str, Any] = json.loads((folder / "plan.json").read_text())
        return found

    return write


def timeless(plan: Plan) -> list[dict[str, Any]]:
    return [{**run.record.as_json(), "created": ""} for run in plan.runs]


def unreadable(*_: object, **__: object) -> None:
    raise AssertionError("a YAML file was read")


def test_a_written_plan_is_read_back_equal(folder: Path) -> None:
    (folder / "sweeps" / "tuned.yaml").write_text(TUNED)
    for plan in (
        plan_sweep("quickstart"),
        plan_sweep("tuned"),
        plan_train("gemma2_tiny", ["seed=4", "model/heads=mha"]),
    ):
        write_plan(plan, folder / "plan.json")
        again = load_plan(folder / "plan.json")
        assert again == plan
        assert timeless(again) == timeless(plan)
        assert [run.config_yaml for run in again.runs] == [run.config_yaml for run in plan.runs]
        assert [run.folder_name for run in again.runs] == [run.folder_name for run in plan.runs]
        assert again.as_dict() == plan.as_dict()


def test_runs_that_need_runs_keep_whom_they_need(folder: Path) -> None:
    plan = plan_sweep("distillation", root=folder / "runs")
    write_plan(plan, folder / "plan.json")
    again = load_plan(folder / "plan.json")
    assert again == plan
    students = [run for run in again.runs if run.needs]
    assert students
    for run in students:
        assert run.identity != run.needs[0].identity
        assert run.needs[0].identity in run.config_yaml
        assert f"{run.needs[0].path}={run.needs[0].identity}" in run.overrides


def test_each_arms_configuration_stands_once(frozen: Callable[[], dict[str, Any]]) -> None:
    content = frozen()
    assert len(content["arms"]) == 2
    assert len(content["runs"]) == 4
    assert content["code"] == asdict(code_version.current())


def test_nothing_that_is_edited_afterwards_changes_it(
    folder: Path, frozen: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen()
    before = plan_sweep("mine")
    (folder / "experiments" / "mine.yaml").write_text("defaults: [gemma2_tiny, _self_]\noptimizer: {lr: 0.5}\n")
    (folder / "sweeps" / "mine.yaml").unlink()
    for module, name in ((yaml, "safe_load"), (yaml, "compose"), (yaml, "load"), (OmegaConf, "load")):
        monkeypatch.setattr(module, name, unreadable)
    again = load_plan(folder / "plan.json")
    assert timeless(again) == timeless(before)
    assert {run.experiment.optimizer.lr for run in again.runs} == {0.01}  # type: ignore[attr-defined]
    monkeypatch.undo()
    made = prepare(again.runs, folder / "runs").new
    assert [load_experiment(run.config) for run in made] == [run.experiment for run in before.runs]


def test_a_changed_default_changes_nothing_of_it(
    folder: Path, frozen: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen()
    before = plan_sweep("mine")
    adamw = registry.lookup("optimizer", "adamw")
    monkeypatch.setitem(adamw.__init__.__kwdefaults__, "eps", 1e-3)  # type: ignore[misc]
    monkeypatch.setattr(adamw.__dataclass_fields__["eps"], "default", 1e-3)  # type: ignore[attr-defined]
    registry.changed()
    assert load_plan(folder / "plan.json") == before
    assert plan_sweep("mine") != before
    monkeypatch.undo()
    registry.changed()


def test_a_component_of_another_version_is_refused_by_run_and_name(
    folder: Path, frozen: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen()
    monkeypatch.setattr(registry.lookup("heads", "mha"), "version", 9)
    with pytest.raises(RequestError) as refusal:
        load_plan(folder / "plan.json")
    said = str(refusal.value)
    assert "plan.json: mine/b/seed-0 would be another run here: heads/mha is version 9 here, 1 in the plan" in said
    assert "plan the sweep again, or go back to the code of the plan" in said


def test_an_option_that_has_come_since_is_refused(
    folder: Path, frozen: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an option that the plan's code didn't have stands in no configuration of it, and takes its default here."""
    content = frozen()
    del content["arms"][1]["config"]["optimizer"]["eps"]
    (folder / "plan.json").write_text(json.dumps(content))
    monkeypatch.setitem(registry.lookup("optimizer", "adamw").__init__.__kwdefaults__, "eps", 1e-3)  # type: ignore[misc]
    with pytest.raises(RequestError, match=r"mine/b/seed-0 would be another run here: optimizer\.eps is 0\.001 here"):
        load_plan(folder / "plan.json")


EDITS: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda plan: plan.update(version=99), "is a plan of version 99, and this lab reads version 1"),
    (lambda plan: plan.pop("format"), "isn't a frozen plan; `lab plan SWEEP --save FILE` writes one"),
    (lambda plan: plan.pop("arms"), "this isn't a plan that `lab plan --save` wrote"),
    (lambda plan: plan["runs"][0].pop("seed"), "this isn't a plan that `lab plan --save` wrote"),
    (lambda plan: plan["runs"][0].update(arm=7), "this isn't a plan that `lab plan --save` wrote"),
    (lambda plan: plan["runs"][0].update(seed="x"), "runs[0].seed: expected a whole number"),
    (lambda plan: plan["runs"][3].update(seed=4), "mine/b/seed-4 would be another run here"),
    (
        lambda plan: plan["arms"][0]["config"]["optimizer"].update(lr=1.0),
        "mine/a/seed-0 would be another run here: the same configuration means something else",
    ),
    (
        lambda plan: plan["arms"][0]["config"]["train"].update(tokns=1),
        "train.tokns: no such key; did you mean 'tokens'",
    ),
]


@pytest.mark.parametrize(("edit", "message"), EDITS, ids=[message for _, message in EDITS])
def test_a_file_that_says_something_else_is_refused(
    folder: Path, frozen: Callable[[], dict[str, Any]], edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    content = frozen()
    edit(content)
    (folder / "plan.json").write_text(json.dumps(content))
    with pytest.raises(RequestError) as refusal:
        load_plan(folder / "plan.json")
    assert message in str(refusal.value)
    assert "plan.json" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["", "question: Why?\n", "[1, 2]", '{"runs": []}', '{"format": "lab plan"}'])
def test_what_is_no_plan_is_refused(folder: Path, text: str) -> None:
    (folder / "x.json").write_text(text)
    with pytest.raises(RequestError, match="plan"):
        load_plan(folder / "x.json")


def test_the_plan_beside_runs_is_not_a_frozen_plan(folder: Path, frozen: Callable[[], dict[str, Any]]) -> None:
    frozen()
    saved = save_plan(plan_sweep("mine"), folder / "runs")
    with pytest.raises(RequestError, match=r"isn't a frozen plan.*name the sweep"):
        load_plan(saved)


def test_a_file_that_is_not_there_is_one_message(folder: Path) -> None:
    with pytest.raises(RequestError, match=r"x\.json: the plan can't be read: No such file"):
        load_plan(folder / "x.json")
    with pytest.raises(RequestError, match=r"x\.json: the plan can't be written: No such file"):
        write_plan(plan_sweep("quickstart"), folder / "missing" / "x.json")


class TestComponentsOfOnesOwn:
    @pytest.fixture
    def plan(self, folder: Path) -> Plan:
        (folder / extensions.FILE).write_text(OWN)
        (folder / "sweeps" / "caps.yaml").write_text(
            "question: Why?\nexperiment: gemma2_tiny\narms: {a: {}, own: {model/softcap: soft}}\n"
        )
        plan = plan_sweep("caps")
        write_plan(plan, folder / "plan.json")
        return plan

    @pytest.mark.parametrize("now", [None, OWN.replace("20.0", "30.0"), "this is no Python"])
    def test_are_those_of_the_plan_whatever_stands_in_the_folder_now(
        self, folder: Path, plan: Plan, now: str | None
    ) -> None:
        before = timeless(plan)
        (folder / extensions.FILE).unlink()
        extensions.load()  # forgets them, as another process wouldn't know them
        if now is not None:
            (folder / extensions.FILE).write_text(now)
        again = load_plan(folder / "plan.json")
        assert timeless(again) == before
        made = prepare(again.runs, folder / "runs").new
        assert (made[1].path / extensions.FILE).read_text() == OWN
        assert not (made[0].path / extensions.FILE).exists()
        assert made[1].config["model"]["softcap"] == {"name": "soft", "cap": 20.0}

    def test_an_edited_copy_in_the_plan_is_refused(self, folder: Path, plan: Plan) -> None:
        text = (folder / "plan.json").read_text()
        (folder / "plan.json").write_text(text.replace("cap: float = 20.0", "cap: float = 25.0"))
        with pytest.raises(RequestError, match="its SHA-256 differs"):
            load_plan(folder / "plan.json")


def test_a_plan_that_cannot_be_written_leaves_the_old_one(
    folder: Path, frozen: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = frozen()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(RequestError, match="No space left on device"):
        write_plan(plan_sweep("quickstart"), folder / "plan.json")
    assert json.loads((folder / "plan.json").read_text()) == before
    assert not list(folder.glob(".*.tmp"))


def test_the_rows_beside_the_runs_hold_the_code_and_a_line_a_run(folder: Path) -> None:
    path = save_plan(plan_sweep("quickstart"), folder / "runs")
    content = json.loads(path.read_text())
    assert content["code"] == asdict(code_version.current())
    assert content["question"].startswith("What do Gemma 2's")
    assert [row["folder"] for row in content["runs"]][:2] == ["quickstart/gemma2/seed-0", "quickstart/gemma2/seed-1"]
    assert sum('"identity"' in line for line in path.read_text().splitlines()) == 8
