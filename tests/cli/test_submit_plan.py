"""`lab submit plan.json`: precisely the plan that was saved, or a refusal that makes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lab.cli.main import cli
from lab.planning.plan.build import plan_sweep
from lab.planning.plan.plan_file import write_plan
from lab.refusals import RequestError


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A saved plan in a working folder of its own."""
    (tmp_path / "sweeps").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps" / "mine.yaml").write_text("question: Why?\nexperiment: gemma2_tiny\narms: {a: {}}\n")
    write_plan(plan_sweep("mine"), tmp_path / "saved.json")
    return tmp_path / "saved.json"


def submit(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["submit", *arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["saved.json", "train.tokens=1k"], "override 'train.tokens=1k': saved.json is a frozen plan"),
        (["nosuch.json"], "nosuch.json"),
        (["sweeps/mine.yaml"], "sweeps/mine.yaml"),
    ],
)
def test_what_cannot_be_submitted_is_refused_and_nothing_made(saved: Path, arguments: list[str], message: str) -> None:
    found = submit(*arguments)
    assert isinstance(found.exception, RequestError)
    assert message in str(found.exception)
    assert not (saved.parent / "runs").exists()


def test_a_saved_plan_is_submitted_though_its_sweep_is_gone(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lab.dispatch.launchers.base import SendResult
    from lab.dispatch.launchers.local.launcher import LocalLauncher

    (saved.parent / "sweeps" / "mine.yaml").unlink()
    sent = SendResult(statuses={"mine/a/seed-0": "finished"})
    monkeypatch.setattr(LocalLauncher, "send", lambda self, request: sent)
    found = submit(str(saved))
    assert (found.exit_code, found.output.splitlines()[0]) == (0, "mine: 1 new")
    assert (saved.parent / "runs" / "mine" / "a" / "seed-0" / "config.yaml").is_file()
    assert (saved.parent / "runs" / "mine" / "plan.json").is_file()
