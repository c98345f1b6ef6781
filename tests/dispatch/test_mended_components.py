"""A component that was mended: which runs take it up, what stays frozen, and what is said of it."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.cli.main import main
from lab.composition import extensions
from lab.dispatch.control.preparation.prepare import prepare
from lab.dispatch.control.retry import RetryOptions, retry
from lab.dispatch.worker.attempt import Stop, execute
from lab.dispatch.worker.worker import train_frozen
from lab.planning.plan.build import plan_train
from lab.planning.plan.model import PlannedRun
from lab.records import Failure, RunFolder, State, Status
from lab.refusals import RequestError
from tests.evaluation.conftest import TINY, files, write_text

MENDED = '''\
import torch
from torch import Tensor, nn

from components.forward_context import ForwardContext
from components.mixers.base import MixerModule
from components.norm import Norm
from components.registry import register


@register("plain", version=1)
class Plain(Norm):
    """Divides a token's channels by their root mean square."""

    def build(self, dim: int) -> nn.Module:
        return PlainModule()


class PlainModule(nn.Module):
    def fills(self):
        return {}

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
'''
BROKEN = MENDED.replace(
    "        return x *", "        if x.shape[1] > 20:\n            raise KeyError('long')\n        return x *"
)
"""Works on the short texts of a probe, and fails on the longer ones of training."""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """write(text): lab_components.py in the working folder."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    yield lambda text: (work / "lab_components.py").write_text(text) and None
    monkeypatch.chdir(tmp_path)
    extensions.load()


Write = Callable[[str], None]


def planned(tmp_path: Path) -> tuple[PlannedRun, ...]:
    text = tmp_path / "text.jsonl"
    if not text.exists():
        write_text(text, "{n} and {square} ")
    return plan_train("gemma2_tiny", (*TINY, *files(text), "model/norm=plain")).runs


def broken_run(
    write: Write, tmp_path: Path, *, status: Status = "failed", failure: Failure | None = "bug"
) -> RunFolder:
    """A run of the broken component, after an attempt that left a checkpoint and an evaluation behind."""
    write(BROKEN)
    (run,) = prepare(planned(tmp_path), tmp_path / "runs").order
    run.state = State(status=status, failure=failure, reason="KeyError: 'long'", attempts=1)
    for name in ("checkpoints/step-000000004.ckpt", "evaluations/recall.json"):
        (run.path / name).parent.mkdir()
        (run.path / name).write_text("{}")
    return run


def left(run: RunFolder) -> list[str]:
    """What of that attempt stands."""
    return [
        name for name in ("checkpoints/step-000000004.ckpt", "evaluations/recall.json") if (run.path / name).exists()
    ]


def copy(run: RunFolder) -> str:
    text = (run.path / "lab_components.py").read_text()
    assert run.record.extensions.sha256 == hashlib.sha256(text.encode()).hexdigest()
    with extensions.of_run(run.path, run.record):
        pass
    return text


def retried(run: RunFolder, **options: object) -> list[str]:
    """What a dry run says."""
    lines: list[str] = []
    options = {"dry_run": True, **options}
    retry(run.path.parents[2], [run.name], RetryOptions(**options), say=lines.append, warn=lines.append)  # type: ignore[arg-type]
    return lines


def test_retry_says_that_a_run_that_failed_takes_up_the_mended_file_and_what_is_frozen(
    write: Write, tmp_path: Path
) -> None:
    run = broken_run(write, tmp_path)
    again = f"{run.name}: again: failed: KeyError: 'long'"
    assert retried(run) == [again, "1 run would be tried again"]
    write(MENDED)
    assert retried(run) == [
        again,
        f"{run.name}: starts over with lab_components.py as it is now; its configuration, its seed and the versions of "
        "its components stay frozen",
        "1 run would be tried again",
    ]
    assert retried(run, components="frozen")[1].startswith(
        f"{run.name}: continues with its own copy of lab_components.py"
    )
    assert copy(run) == BROKEN, "a dry run changes nothing"


@pytest.mark.parametrize(("status", "failure"), [("preempted", None), ("cancelled", None), ("lost", "node_lost")])
def test_a_run_that_failed_for_another_reason_goes_on_with_its_copy_unless_asked_otherwise(
    write: Write, tmp_path: Path, status: Status, failure: Failure | None
) -> None:
    run = broken_run(write, tmp_path, status=status, failure=failure)
    write(MENDED)
    assert retried(run)[1] == (
        f"{run.name}: continues with its own copy of lab_components.py, which you have edited since; "
        "--components current starts it over with yours"
    )
    assert retried(run, components="current")[1].startswith(f"{run.name}: starts over with lab_components.py as it is")
    assert prepare(planned(tmp_path), tmp_path / "runs", retry_failed=True).edited == [run]
    assert copy(run) == BROKEN
    assert len(left(run)) == 2


def test_submitting_again_gives_a_failed_run_the_mended_file_from_the_beginning(write: Write, tmp_path: Path) -> None:
    run = broken_run(write, tmp_path)
    write(MENDED)
    kept = prepare(planned(tmp_path), tmp_path / "runs")
    assert (kept.failed, kept.mended, copy(run)) == ([run], [], BROKEN), "it isn't retried"
    submission = prepare(planned(tmp_path), tmp_path / "runs", retry_failed=True)
    assert (submission.to_run, submission.mended, submission.edited) == ([run], [run], [])
    assert submission.warnings() == [
        f"1 of these runs ({run.name}) failed and start over with lab_components.py as it is now; their configuration "
        "stays as it was"
    ]
    assert copy(run) == MENDED
    assert left(run) == []
    (change,) = run.record.provenance.facts["changed_components"]  # type: ignore[misc]
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in (BROKEN, MENDED)]
    assert [change["before"], change["after"]] == digests
    assert change["before_attempt"] == 2


def test_a_mended_file_that_makes_another_run_is_refused_and_changes_nothing(write: Write, tmp_path: Path) -> None:
    run = broken_run(write, tmp_path)
    write(MENDED.replace("version=1", "version=2"))
    with pytest.raises(RequestError) as error:
        retried(run)
    assert str(error.value) == (
        f"{run.name} would be another run with lab_components.py as it is now (version of norm/plain 1 → 2); "
        "`lab submit` or `lab train` makes that run; --components frozen tries this one with its own copy"
    )
    assert retried(run, components="frozen")[-1] == "1 run would be tried again"
    assert copy(run) == BROKEN


def test_a_file_that_was_mended_wrongly_is_refused_with_what_was_measured(write: Write, tmp_path: Path) -> None:
    run = broken_run(write, tmp_path)
    write(MENDED.replace("mean(-1, keepdim=True)", "mean((1, 2), keepdim=True)"))
    with pytest.raises(RequestError, match=r"norm 'plain' mixes tokens, which only a mixer may"):
        retried(run, dry_run=False)
    assert copy(run) == BROKEN
    assert len(left(run)) == 2


def test_a_crash_between_the_file_and_its_record_is_mended_by_the_next_retry(write: Write, tmp_path: Path) -> None:
    run = broken_run(write, tmp_path)
    write(MENDED)
    (run.path / "lab_components.py").write_text(MENDED)
    prepare(planned(tmp_path), tmp_path / "runs", retry_failed=True)
    assert retried(run)[0].startswith(f"{run.name}: again")


@pytest.mark.trains
def test_lab_retry_trains_the_mended_component_to_its_end(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(BROKEN)
    (run,) = prepare(planned(tmp_path), tmp_path / "runs").order
    assert execute(run, train_frozen, stop=Stop(), capture=False) == 1
    assert (run.state.failure, run.state.reason) == ("bug", "KeyError: 'long'")
    write(MENDED)
    monkeypatch.setattr(sys, "argv", ["lab", "retry", run.name, "--root", str(tmp_path / "runs")])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert "starts over with lab_components.py as it is now" in capsys.readouterr().out
    assert run.state.status == "finished", run.state
    assert copy(run) == MENDED
