"""`lab why` explains why two runs differ, and why a run would be run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from components import registry
from lab import code_version
from lab.cli import main
from lab.composition.extensions import FILE
from lab.dispatch.control.preparation.prepare import prepare
from lab.planning.plan.build import plan_sweep, plan_train
from lab.records import RunFolder, write_json
from lab.refusals import RequestError
from tests.records.made import info

SWEEP = (
    "question: Why?\nexperiment: gemma2_tiny\nseeds: 2\narms: {a: {}, b: {model/heads: mha, train.kernel: reference}}\n"
)
OWN = '''\
from components.registry import register
from components.softcap import Softcap
from tests.records.made import info


@register("soft", version={version})
class Soft(Softcap):
    """A cap of one's own."""

    @property
    def attention_cap(self) -> float:
        return {cap}
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a sweep whose runs are made."""
    for name in ("sweeps", "experiments"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps" / "mine.yaml").write_text(SWEEP)
    prepare(plan_sweep("mine").runs, tmp_path / "runs")
    return tmp_path


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main.cli, ["why", *arguments])


def why(*arguments: str) -> dict[str, Any]:
    found = invoke(*arguments, "--json")
    assert found.exit_code == 0, found
    content: dict[str, Any] = json.loads(found.output)
    return content


def test_two_arms_differ_in_keys_and_components_and_what_has_no_effect_stands_apart(folder: Path) -> None:
    found = why("mine/a/seed-0", "mine/b/seed-0")
    assert found["same"] is False
    assert found["config"]["model.heads.name"] == {"a": "gqa", "b": "mha"}
    assert found["config"]["model.heads.n_kv_heads"] == {"a": 2}
    assert found["components"] == {"heads/gqa": {"a": 1}, "heads/mha": {"b": 1}}
    assert {"train.kernel"} <= {*found["config"], *found["quiet"]}
    assert not {*found["config"]} & {*found["quiet"]}
    assert found["code"] == found["own"] == found["place"] == {}
    text = invoke("mine/a/seed-0", "mine/b/seed-0").output
    assert "are different runs" in text
    assert any(line.split() == ["model.heads.name", "gqa", "mha"] for line in text.splitlines())


def test_two_seeds_differ_in_the_seed_alone(folder: Path) -> None:
    assert why("mine/a/seed-0", "mine/a/seed-1")["config"] == {"seed": {"a": 0, "b": 1}}


def test_a_run_is_named_by_the_beginning_of_its_identity_too(folder: Path) -> None:
    identity = RunFolder(folder / "runs/mine/a/seed-0").identity
    assert why(identity[:12], "mine/a/seed-1")["a"] == {"run": "mine/a/seed-0", "identity": identity}


def test_where_and_with_what_code_runs_ran_is_a_note(folder: Path) -> None:
    runs = [RunFolder(folder / f"runs/mine/a/seed-{seed}") for seed in (0, 1)]
    runs[0].add_provenance({"torch": "2.1", "host": "here", "device": "cpu", "threads": 2})
    runs[1].add_provenance({"torch": "2.2", "host": "here", "device": "cpu", "commit": "x"})
    other = {"commit": "ab" * 20, "changes": None, "digest": "cd" * 32}
    write_json(runs[1].path / "run.json", info(runs[1]) | {"code": other})
    found = why("mine/a/seed-0", "mine/a/seed-1")
    assert found["place"] == {"torch": {"a": "2.1", "b": "2.2"}}
    assert found["code"]["digest"] == {"a": code_version.digest(), "b": "cd" * 32}
    assert "cdcdcdcdcdcd" in invoke("mine/a/seed-0", "mine/a/seed-1").output


class TestARunAlone:
    def test_that_would_be_planned_again_is_not_run_anew(self, folder: Path) -> None:
        for name in ("mine/a/seed-1", "mine/b/seed-0"):
            assert invoke(name).output.endswith("planned now, it is the same run and isn't run again\n")
            assert why(name)["same"] is True

    def test_of_lab_train_is_planned_with_its_overrides(self, folder: Path) -> None:
        made = prepare(plan_train("gemma2_tiny", ["optimizer.lr=0.5", "seed=3"]).runs, folder / "runs").new[0]
        assert why(made.name)["same"] is True

    def test_whose_sweep_was_edited_says_what_is_new(self, folder: Path) -> None:
        (folder / "sweeps" / "mine.yaml").write_text(SWEEP + "overrides: {optimizer.lr: 0.5, train.log_every: 7}\n")
        found = why("mine/a/seed-0")
        assert found["same"] is False
        assert found["b"]["run"] == "planned now"
        assert found["config"] == {"optimizer.lr": {"a": 0.004, "b": 0.5}}
        assert list(found["quiet"]) == ["train.log_every"]
        assert "would be run again" in invoke("mine/a/seed-0").output

    def test_whose_component_has_another_version_now(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registry.lookup("heads", "gqa"), "version", 4)
        found = why("mine/a/seed-0")
        assert (found["same"], found["config"]) == (False, {})
        assert found["components"] == {"heads/gqa": {"a": 1, "b": 4}}

    def test_whose_option_has_another_default_now(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        adamw = registry.lookup("optimizer", "adamw")
        monkeypatch.setitem(adamw.__init__.__kwdefaults__, "eps", 1e-3)  # type: ignore[misc]
        monkeypatch.setattr(adamw.__dataclass_fields__["eps"], "default", 1e-3)  # type: ignore[attr-defined]
        registry.changed()
        assert why("mine/a/seed-0")["config"] == {"optimizer.eps": {"a": 1e-08, "b": 0.001}}
        monkeypatch.undo()
        registry.changed()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (SWEEP.replace("a: {}", "better: {}"), "sweep 'mine' no longer has an arm 'a'"),
            (SWEEP.replace("seeds: 2", "seeds: [4, 5]"), "no longer has this run of arm 'a'; its seeds are 4, 5"),
            (SWEEP.replace("mha", "mhaa"), "has no option 'mhaa'"),
        ],
    )
    def test_that_nothing_stands_for_any_more_is_a_refusal(self, folder: Path, text: str, message: str) -> None:
        (folder / "sweeps" / "mine.yaml").write_text(text)
        found = invoke("mine/a/seed-0")
        assert isinstance(found.exception, RequestError)
        assert message in str(found.exception)


def test_components_of_ones_own_are_reported_by_version_and_text(folder: Path) -> None:
    (folder / "sweeps" / "caps.yaml").write_text(
        "question: Why?\nexperiment: gemma2_tiny\narms: {own: {model/softcap: soft}}\n"
    )
    (folder / FILE).write_text(OWN.format(version=1, cap=20.0))
    before = prepare(plan_sweep("caps").runs, folder / "runs").new[0]
    (folder / FILE).write_text(OWN.format(version=1, cap=30.0))
    found = why(before.name)
    assert found["same"] is True  # the version is what counts
    assert list(found["own"]) == [FILE]
    (folder / FILE).write_text(OWN.format(version=2, cap=30.0))
    after = prepare(plan_sweep("caps").runs, folder / "runs").new[0]
    assert why(before.name, after.name)["components"] == {"softcap/soft": {"a": 1, "b": 2}}


@pytest.mark.parametrize("arguments", [["nosuch"], ["mine/a/seed-0", "nosuch"], ["mine/a"]])
def test_a_name_of_no_run_is_refused(folder: Path, arguments: list[str]) -> None:
    assert isinstance(invoke(*arguments).exception, RequestError)


def test_a_broken_run_is_one_message(folder: Path) -> None:
    (folder / "runs/mine/a/seed-0/config.yaml").write_text("][")
    found = invoke("mine/a/seed-0", "mine/a/seed-1")
    assert isinstance(found.exception, RequestError)
    assert "config.yaml" in str(found.exception)
