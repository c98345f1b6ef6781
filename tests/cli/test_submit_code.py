"""`lab submit` and `lab train` with other code than runs were made with: one message, exit code 2, nothing made."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from lab import code_version
from lab.cli import main
from lab.dispatch.control.preparation.prepare import prepare
from lab.planning.plan.build import plan_sweep, plan_train
from lab.planning.plan.plan_file import write_plan
from lab.records import write_json
from lab.refusals import RequestError
from tests.records.made import info
from tests.warm import lab

OTHER = {"commit": "ab" * 20, "changes": None, "digest": "cd" * 32}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a sweep."""
    (tmp_path / "sweeps").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps" / "mine.yaml").write_text(
        "question: Why?\nexperiment: gemma2_tiny\nseeds: 2\narms: {a: {}, b: {model/heads: mha}}\n"
    )
    return tmp_path


def test_a_plan_of_other_code_is_submitted_only_where_that_was_said(folder: Path) -> None:
    write_plan(plan_sweep("mine"), folder / "plan.json")
    content = (folder / "plan.json").read_text()
    (folder / "plan.json").write_text(content.replace(code_version.digest(), "cd" * 32))
    root = ("--root", str(folder / "fresh"))
    found = CliRunner().invoke(main.cli, ["submit", "plan.json", *root])
    assert isinstance(found.exception, RequestError)
    assert "4 runs were made with commit" in str(found.exception)
    assert "--any-code" in str(found.exception)
    assert not (folder / "fresh").exists()


def test_a_queued_run_of_other_code_is_refused_up_front(folder: Path) -> None:
    run = prepare(plan_sweep("mine").runs, folder / "runs").new[0]
    write_json(run.path / "run.json", info(run) | {"code": OTHER})
    done = lab("submit", "mine")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("lab: ")
    assert "made with commit abababab (digest cdcdcdcd); the code here is" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_training_on_with_other_code_has_to_be_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lab.dispatch.launchers.base import Request, SendResult
    from lab.dispatch.launchers.local.launcher import LocalLauncher

    run = prepare(plan_train("gemma2_tiny").runs, folder / "runs").new[0]
    write_json(run.path / "run.json", info(run) | {"code": OTHER})
    arguments = ["train", "gemma2_tiny"]
    found = CliRunner().invoke(main.cli, arguments)
    assert isinstance(found.exception, RequestError)
    assert "1 run was made with commit abababab" in str(found.exception)
    requests: list[Request] = []
    monkeypatch.setattr(LocalLauncher, "send", lambda self, request: requests.append(request) or SendResult())
    CliRunner().invoke(main.cli, [*arguments, "--any-code"])
    assert [each.name for each in requests[0].runs] == [run.name]
    assert info(run)["provenance"]["accepted_code"] == [code_version.digest()]
