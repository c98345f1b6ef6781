"""A request that can't be met on the machine of the worker is a refusal there, with its reason, and no bug."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from components.registry import OptionError
from lab.data import DataError
from lab.dispatch.control.preparation.prepare import prepare
from lab.dispatch.worker.attempt import FAILED, Stop, execute
from lab.dispatch.worker.failure import classify
from lab.dispatch.worker.worker import train_frozen
from lab.planning.plan.build import plan_train
from lab.refusals import RequestError


@pytest.mark.parametrize("error", [RequestError("no"), OptionError("train.compile", "no"), DataError("no")])
def test_refusals_are_no_bugs(error: Exception) -> None:
    assert classify(error) == "refused"


def no_compiler(monkeypatch: pytest.MonkeyPatch, text: Path) -> str:
    from torch._inductor import cpp_builder, exc

    def none() -> str:
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    return "train.compile: on is not possible here: no C++ compiler was found"


def no_device(monkeypatch: pytest.MonkeyPatch, text: Path) -> str:
    monkeypatch.setattr("lab.training.environment.torch.cuda.is_available", lambda: False)
    return "train.accelerator: no CUDA device is available here"


def no_text(monkeypatch: pytest.MonkeyPatch, text: Path) -> str:
    text.unlink()
    return "corpus.paths: no file matches"


def other_text(monkeypatch: pytest.MonkeyPatch, text: Path) -> str:
    text.write_text(text.read_text().replace("square", "cube"))
    return "config.yaml: data: its text has changed since it was planned"


@pytest.mark.parametrize(
    ("change", "override"),
    [
        (no_compiler, "train.compile=on"),
        (no_device, "train.accelerator=cuda"),
        (no_text, "train.context=16"),
        (other_text, "train.context=16"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_by_the_worker(
    change: Callable[[pytest.MonkeyPatch, Path], str],
    override: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    text = tmp_path / "text.jsonl"
    text.write_text("\n".join(json.dumps({"text": f"The square of {n} is {n * n}."}) for n in range(99)))
    overrides = ("data/corpus=files", f"data.corpus.paths=[{text}]", "train.context=16", "train.tokens=1k")
    plan = plan_train("gemma2_tiny", (*overrides, "schedule.warmup_tokens=0", "validation.every=null", override))
    (run,) = prepare(plan.runs, tmp_path / "runs").order
    reason = change(monkeypatch, text)
    assert execute(run, train_frozen, stop=Stop(), capture=False) == FAILED
    state = run.state
    assert (state.status, state.failure) == ("failed", "refused")
    assert (state.reason or "").startswith(reason)
    assert run.summary is None
