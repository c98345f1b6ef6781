"""`lab status`, `logs`, `cancel`, `retry` and `doctor` as a user types them, where there is no cluster."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lab.cli.main import COMMANDS, cli
from lab.composition.compose import compose
from lab.composition.frozen.freeze import to_yaml
from lab.records import Failure, RunFolder, State, Status
from lab.refusals import RequestError
from tests.records.made import make_run


@pytest.fixture(autouse=True)
def _no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., RunFolder]:
    """made(seed, status, …): a run of `caps` with a frozen configuration that stands so."""
    text = to_yaml(compose("gemma2_tiny", ["train.global_batch=8"]).experiment)

    def make(seed: int, status: Status, failure: Failure | None = None, reason: str | None = None) -> RunFolder:
        info = {"version": 1, "identity": f"{seed:016x}", "sweep": "caps", "arm": "window=8", "seed": seed}
        run = make_run(tmp_path / f"runs/caps/window=8/seed-{seed}", text, info)
        run.state = State(status=status, failure=failure, reason=reason, attempts=int(status != "queued"))
        return run

    return make


Made = Callable[..., RunFolder]


def lab(tmp_path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, [*arguments, "--root", str(tmp_path / "runs")])


def test_every_command_is_there() -> None:
    assert {"status", "logs", "cancel", "retry", "doctor"} <= set(COMMANDS)


def test_cancel_says_what_it_did_and_touches_nothing_else(made: Made, tmp_path: Path) -> None:
    waits, other, done = made(0, "queued"), made(1, "queued"), made(2, "finished")
    shown = lab(tmp_path, "cancel", "caps/window=8/seed-0", "caps/window=8/seed-2")
    assert shown.exit_code == 0
    assert "1 cancelled, 0 stopping, 1 left as they are; `lab retry` continues cancelled runs" in shown.stdout
    assert "caps/window=8/seed-2: left as it is: has its result: finished" in shown.stdout
    assert [run.state.status for run in (waits, other, done)] == ["cancelled", "queued", "finished"]
    content = json.loads(lab(tmp_path, "cancel", "caps", "--json").stdout)
    assert [(each["run"][-1], each["did"]) for each in content["runs"]] == [
        ("0", "nothing"),
        ("1", "cancelled"),
        ("2", "nothing"),
    ]
    assert "1 finished" in lab(tmp_path, "status", "caps").stdout
    assert "2 cancelled" in lab(tmp_path, "status", "caps").stdout


def test_retry_says_of_each_run_why_or_why_not(made: Made, tmp_path: Path) -> None:
    made(0, "failed", "bug", "KeyError: 'x'")
    made(1, "diverged", None, "the loss is nan at step 3")
    made(2, "lost", "interrupted", "the worker was killed (SIGKILL)")
    made(3, "failed", "out_of_memory", "MemoryError")
    shown = lab(tmp_path, "retry", "caps", "--dry-run")
    lines = {line.partition(":")[0][-1]: line for line in shown.stdout.splitlines()[:4]}
    assert "left as it is: failed because of a bug (KeyError: 'x')" in lines["0"]
    assert "it diverged (the loss is nan at step 3), and would do so again" in lines["1"]
    assert "again: the worker was killed" in lines["2"]
    assert "train.micro_batch=4 (it is 8)" in lines["3"]
    assert shown.exit_code == 1, "some that failed are left"
    assert shown.stdout.endswith("1 run would be tried again\n")
    named = lab(tmp_path, "retry", "caps/window=8/seed-0", "--dry-run")
    assert (named.exit_code, "1 run would be" in named.stdout) == (0, True)


def test_a_setting_that_is_as_asked_already_is_no_change(made: Made, tmp_path: Path) -> None:
    made(3, "failed", "out_of_memory", "MemoryError")
    assert "1 run would" in lab(tmp_path, "retry", "caps", "train.micro_batch=4", "--dry-run").stdout
    shown = lab(tmp_path, "retry", "caps", "train.micro_batch=null", "--dry-run")
    assert "ran out of memory with train.micro_batch=null, and would again" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["retry", "caps", "train.tokens=5k"], "affects the result"),
        (["retry", "train.micro_batch=2"], "name a sweep"),
        (["retry", "caps", "--on", "local", "launcher.time=5"], "--on slurm"),
        (["retry", "nosuch"], "no run is called 'nosuch'"),
        (["cancel", "nosuch"], "no run is called 'nosuch'"),
        (["logs", "nosuch"], "no run is called 'nosuch'"),
        (["logs", "caps/window=8/seed-0", "--attempt", "2"], "attempt 2"),
        (["logs", "caps/window=8/seed-0", "--attempt", "1", "--follow"], "use one of them"),
        (["status", "caps", "--watch", "--json"], "leave --watch out"),
        (["doctor", "partition=x"], "launcher.partition"),
        (["doctor", "--on", "local", "launcher.partition=x"], "--on slurm"),
    ],
)
def test_a_mistake_is_refused_and_changes_nothing(
    made: Made, tmp_path: Path, arguments: list[str], message: str
) -> None:
    run = made(0, "lost", "interrupted")
    before = run.state
    refused = lab(tmp_path, *arguments)
    assert isinstance(refused.exception, RequestError), refused.output
    assert message in str(refused.exception)
    assert run.state == before


def test_logs_of_a_run_that_has_said_nothing_tell_how_it_stands(made: Made, tmp_path: Path) -> None:
    run = made(0, "queued")
    shown = lab(tmp_path, "logs", run.name)
    assert (shown.stdout, shown.stderr.split()) == ("", [run.name, "queued"])
    (run.path / "log.txt").write_text("one\ntwo\n")
    assert lab(tmp_path, "logs", run.name, "-n", "1").stdout == "two\n"


def test_the_doctor_asks_for_slurm_only_where_slurm_is_asked_for(tmp_path: Path) -> None:
    shown = lab(tmp_path, "doctor", "--json")
    content = json.loads(shown.stdout)
    assert (shown.exit_code, content["problems"]) == (0, 0)
    assert {finding["area"] for finding in content["findings"]} >= {"python", "torch", "threads", "kernels", "root"}
    refused = lab(tmp_path, "doctor", "--on", "slurm")
    assert refused.exit_code == 2
    assert "no SLURM here: sbatch isn't installed" in refused.stdout
    assert not (tmp_path / "runs").exists()


def test_the_doctor_names_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    refused = CliRunner().invoke(cli, ["doctor", "--root", str(tmp_path / "runs" / "below")])
    assert refused.exit_code == 2
    assert "--root" in refused.stdout
