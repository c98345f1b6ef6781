"""What one run computes, records and leaves behind."""

from __future__ import annotations

import json
import logging.handlers
import math
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.fused.piece import PIECES
from components.registry import OptionError
from lab.data.batches import Batches, validation_batches
from lab.records import Progress
from lab.training import environment
from lab.training.checkpoints import verified
from lab.training.fit import fit
from lab.training.optimizers.optimizer import Optimizer
from lab.training.optimizers.schedule import ConstantSchedule
from lab.training.options import Validation
from lab.training.progress.recorder import Recorder
from tests.training.tiny import newest_weights

from . import tiny


class PlainDescent(Optimizer):
    """Steps along the gradient itself: unlike Adam's, its steps show how the gradient is scaled."""

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.5)


def fit_double(folder: Path, **train: Any) -> dict[str, Tensor]:
    model = tiny.TinyModel().double()
    plan = replace(tiny.procedure(steps=6, **train), optimizer=PlainDescent())
    fit(model, tiny.TinyText(), plan, folder)
    return tiny.weights(model)


@pytest.mark.parametrize("grad_clip", [None, 0.5])
def test_accumulation_computes_what_one_large_batch_does(tmp_path: Path, grad_clip: float | None) -> None:
    whole = fit_double(tmp_path / "whole", grad_clip=grad_clip)
    cut = fit_double(tmp_path / "cut", grad_clip=grad_clip, micro_batch=1)
    for name, value in whole.items():
        torch.testing.assert_close(cut[name], value, rtol=1e-12, atol=1e-13)
    for a, b in zip(tiny.timeless(tmp_path / "whole"), tiny.timeless(tmp_path / "cut"), strict=True):
        assert a == pytest.approx(b, rel=1e-6)


@pytest.mark.parametrize("clip", [None, 0.05, 100.0])
def test_a_step_goes_down_the_clipped_gradient_of_the_mean_loss(tmp_path: Path, clip: float | None) -> None:
    by_hand = tiny.TinyModel().double()
    inputs, targets = Batches(tiny.TinyText().train, tiny.CONTEXT, tiny.BATCH, seed=6).at(0)
    loss = F.cross_entropy(by_hand(inputs).flatten(0, 1), targets.flatten())
    loss.backward()  # type: ignore[no-untyped-call]
    norm = math.sqrt(sum(float((p.grad**2).sum()) for p in by_hand.parameters() if p.grad is not None))
    assert 0.05 < norm < 100
    scale = 0.05 / norm if clip == 0.05 else 1.0

    model = tiny.TinyModel().double()
    plan = replace(tiny.procedure(steps=1, grad_clip=clip), optimizer=PlainDescent(), schedule=ConstantSchedule())
    fit(model, tiny.TinyText(), plan, tmp_path)

    for (name, start), actual in zip(by_hand.named_parameters(), model.parameters(), strict=True):
        assert start.grad is not None, name
        torch.testing.assert_close(actual, start - 0.5 * scale * start.grad, rtol=1e-4, atol=1e-12)
    (point, _) = tiny.points(tmp_path)
    assert point["train/loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert point["train/grad_norm"] == pytest.approx(norm, rel=1e-6)


def test_what_affects_no_result_affects_no_bit(tmp_path: Path) -> None:
    _, expected = tiny.run(tmp_path / "reference", dropout=0.3)
    options: dict[str, Any] = {"log_every": 5, "checkpoint_minutes": 1e-9}
    model = tiny.TinyModel(dropout=0.3)
    plan = tiny.procedure(**options)
    plan = replace(plan, validation=Validation(every=None, tokens=tiny.CONTEXT))
    fit(model, tiny.TinyText(), plan, tmp_path / "other", report=lambda progress: None, stop=lambda: False)
    assert tiny.same(tiny.weights(model), expected)


def test_random_numbers_differ_by_step_and_by_pass_but_not_by_run(tmp_path: Path) -> None:
    def drawn(folder: Path) -> list[float]:
        numbers: list[float] = []

        def draw(logits: Tensor, passes: int) -> Tensor:
            if passes:
                numbers.append(torch.rand(()).item())
            return logits

        fit(tiny.TinyModel(fault=draw), tiny.TinyText(), tiny.procedure(micro_batch=2), folder)
        return numbers

    first = drawn(tmp_path / "first")
    assert len(set(first)) == 24, "two passes in each of twelve steps"
    assert drawn(tmp_path / "second") == first


def test_points_stand_where_they_are_asked_for(tmp_path: Path) -> None:
    tiny.run(tmp_path, log_every=5)
    found = [(point["step"], point["tokens"], "val/loss" in point) for point in tiny.points(tmp_path)]
    assert found == [
        (1, 64, False),
        (4, 256, True),
        (5, 320, False),
        (8, 512, True),
        (10, 640, False),
        (12, 768, False),
        (12, 768, True),
    ]


def test_the_recorded_rate_is_the_schedules(tmp_path: Path) -> None:
    tiny.run(tmp_path)
    plan = tiny.procedure()
    recorded = [point["train/lr"] for point in tiny.points(tmp_path) if "train/lr" in point]
    assert recorded == [3e-3 * plan.schedule.factor(step, 12, tiny.TOKENS_PER_STEP) for step in range(12)]


def test_the_summary_says_what_the_final_model_is_worth(tmp_path: Path) -> None:
    model, text = tiny.TinyModel(dropout=0.3), tiny.TinyText()
    outcome = fit(model, text, tiny.procedure(steps=40), tmp_path)
    summary = outcome.summary.as_json()
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert (summary["version"], summary["status"], summary["reason"]) == (1, "finished", None)

    model.eval()
    windows = list(validation_batches(text.validation, tiny.CONTEXT, 1, 10 * tiny.CONTEXT))
    losses = [F.cross_entropy(model(x).flatten(0, 1), y.flatten()).item() for x, y in windows]
    loss = sum(losses) / 10
    training = [point["train/loss"] for point in tiny.points(tmp_path) if "train/loss" in point]
    assert summary["metrics"] == pytest.approx(
        {
            "val/loss": loss,
            "val/bits_per_byte": loss / math.log(2) * 400 / 1000,
            "train/loss": (training[-1] + training[-2]) / 2,
            "unigram/loss": 3.4,
        },
        rel=1e-5,
    )
    assert loss < 3.4, "it must have learnt something"

    costs = summary["costs"]
    assert (costs["steps"], costs["tokens"]) == (40, 40 * 64)
    assert costs["parameters"] == 32 * 16 + 16 * 16 + 16 + 16 + 16 + 32 * 16
    assert costs["seconds"] == pytest.approx(tiny.points(tmp_path)[-1]["time"], abs=1e-3)
    assert costs["tokens_per_second"] > 0
    assert costs["peak_memory_bytes"] > 10_000_000
    sizes = {"train_tokens": 1100, "validation_tokens": 400, "validation_bytes": 1000}
    assert summary["data"] == {"digest": "a digest", **sizes, "parts": {"corpus": "its corpus"}}
    provenance = dict(summary["provenance"])
    assert provenance.pop("pieces").keys() == PIECES.keys()
    assert provenance.pop("native", {}).keys() <= {"attention", "fused"}, "as this process has asked for"
    assert provenance == {
        "device": "cpu",
        "threads": 1,
        "kernels": None,
        "loss": "plain",
        "compile": "off: the model has no blocks",
        "data": "a digest",
        "processes": 1,
        "nodes": 1,
        "strategy": None,
    }


def test_mixed_precision_keeps_fp32_weights_and_differs_from_fp32(tmp_path: Path) -> None:
    seen: set[tuple[bool, torch.dtype]] = set()

    def look(logits: Tensor, passes: int) -> Tensor:
        seen.add((passes > 0, logits.dtype))
        return logits

    full, _ = tiny.run(tmp_path / "full", steps=4)
    model = tiny.TinyModel(fault=look)
    mixed = fit(model, tiny.TinyText(), tiny.procedure(steps=4, precision="bf16-mixed"), tmp_path / "mixed")
    assert seen == {(True, torch.bfloat16), (False, torch.bfloat16)}, "in training and in validation"
    assert all(value.dtype == torch.float32 for value in model.parameters())
    a, b = full.summary.metrics["train/loss"], mixed.summary.metrics["train/loss"]
    assert a != b
    assert a == pytest.approx(b, rel=0.02)
    a, b = full.summary.metrics["val/loss"], mixed.summary.metrics["val/loss"]
    assert a != b
    assert a == pytest.approx(b, rel=0.02)


def infinite_gradient(logits: Tensor, passes: int) -> Tensor:
    """Logits as they are, whose gradient is not finite at the eighth step."""
    zero = logits - logits.detach()
    return logits + torch.sqrt(zero) if passes == 8 else logits


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda x, passes: x * math.nan if passes == 8 else x, "the training loss is nan"),
        (lambda x, passes: x.index_fill(-1, torch.arange(31), -math.inf) if passes == 8 else x, "training loss is inf"),
        (infinite_gradient, "the gradient's norm is nan"),
    ],
)
def test_a_step_that_is_not_finite_is_not_taken_and_ends_the_run(tmp_path: Path, fault: Any, reason: str) -> None:
    before = tiny.TinyModel()
    fit(before, tiny.TinyText(), tiny.procedure(), tmp_path / "before", stop=tiny.stop_after(7))
    model = tiny.TinyModel(fault=fault)
    outcome = fit(model, tiny.TinyText(), tiny.procedure(), tmp_path / "run")

    assert outcome.status == "diverged"
    assert outcome.reason is not None
    assert reason in outcome.reason
    assert outcome.reason.endswith("at step 8, which was not taken")
    assert model.passes == 8
    assert tiny.same(tiny.weights(model), tiny.weights(before))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["reason"], summary["costs"]["steps"]) == ("diverged", outcome.reason, 7)
    assert tiny.timeless(tmp_path / "run") == tiny.timeless(tmp_path / "before")
    points = {key: value for point in tiny.points(tmp_path / "run") for key, value in point.items()}
    assert summary["metrics"]["train/loss"] == points["train/loss"]
    assert summary["metrics"]["val/loss"] == pytest.approx(points["val/loss"])


def test_a_validation_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    model = tiny.TinyModel(fault=lambda x, passes: x if passes else x * math.nan)
    outcome = fit(model, tiny.TinyText(), tiny.procedure(), tmp_path)
    assert (outcome.status, outcome.reason) == ("diverged", "the validation loss is nan after step 4")
    assert model.passes == 4
    assert "val/loss" not in outcome.summary.metrics
    assert not any("val/loss" in point for point in tiny.points(tmp_path))


def test_progress_is_told_at_the_start_and_at_the_end(tmp_path: Path) -> None:
    told: list[Progress] = []
    fit(tiny.TinyModel(), tiny.TinyText(), tiny.procedure(), tmp_path, report=told.append)
    assert told[0] == Progress(step=0, steps=12, tokens=0, phase="start-up")
    assert (told[-1].step, told[-1].tokens) == (12, 768)
    assert told[-1].loss == tiny.points(tmp_path)[-2]["train/loss"]
    assert told[-1].tokens_per_second is not None
    assert len(told) < 12, "not after every step of a fast run"


def test_a_resumed_run_tells_where_it_starts(tmp_path: Path) -> None:
    tiny.interrupted(tmp_path, 5)
    told: list[Progress] = []
    fit(tiny.TinyModel(), tiny.TinyText(), tiny.procedure(), tmp_path, report=told.append)
    assert (told[0].step, told[0].tokens) == (5, 320)


def test_checkpoints_are_written_in_time_and_at_the_end(tmp_path: Path) -> None:
    tiny.run(tmp_path / "rare", steps=5)
    assert [verified.step_of(path) for path in verified.list_checkpoints(tmp_path / "rare")] == [5]
    tiny.run(tmp_path / "often", steps=5, checkpoint_minutes=1e-9)
    assert [verified.step_of(path) for path in verified.list_checkpoints(tmp_path / "often")] == [5, 4]


def test_a_checkpoint_is_never_ahead_of_the_curve_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    save, write = Recorder.save, verified.write

    def note_curve(self: Recorder) -> None:
        done.append("curve")
        save(self)

    def note_checkpoint(content: Any, path: Path) -> None:
        done.append("checkpoint")
        write(content, path)

    monkeypatch.setattr(Recorder, "save", note_curve)
    monkeypatch.setattr(verified, "write", note_checkpoint)
    tiny.run(tmp_path, steps=3, checkpoint_minutes=1e-9)
    assert done[:6] == ["curve", "checkpoint"] * 3


def test_a_checkpoint_holds_the_models_weights(tmp_path: Path) -> None:
    _, weights = tiny.run(tmp_path, steps=3)
    assert tiny.same(newest_weights(tmp_path), weights)


def test_training_says_nothing_and_leaves_only_what_it_promises(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.chdir(tmp_path)
    said = logging.handlers.BufferingHandler(capacity=1000)
    for name in ("lightning.pytorch", "lightning.fabric"):
        monkeypatch.setattr(logging.getLogger(name), "handlers", [said])
    tiny.run(tmp_path / "run")
    assert said.buffer == []
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn] == []
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {name for name in names if not name.startswith("events.out.")} == {
        "metrics.jsonl",
        "summary.json",
        "checkpoints",
    }


@pytest.fixture
def sigterm() -> Iterator[list[int]]:
    """Signals caught by a handler that was there before training."""
    caught: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: caught.append(number))
    yield caught
    signal.signal(signal.SIGTERM, before)


def test_signals_are_left_to_whoever_started_the_run(
    tmp_path: Path, sigterm: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "run", "SLURM_PROCID": "0"}.items():
        monkeypatch.setenv(name, value)
    asked = iter(range(100))
    before = [signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGTERM)]

    def stop() -> bool:
        assert [signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGTERM)] == before
        if next(asked) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return bool(sigterm)

    outcome = fit(tiny.TinyModel(), tiny.TinyText(), tiny.procedure(), tmp_path, stop=stop)
    assert (outcome.status, outcome.summary.costs["steps"]) == ("preempted", 4)
    assert sigterm == [signal.SIGTERM]
    assert [signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGTERM)] == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError])
def test_errors_come_out_as_they_are(tmp_path: Path, error: type[BaseException]) -> None:
    def fail() -> bool:
        raise error("from the outside")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(error, match="from the outside"):
        fit(tiny.TinyModel(), tiny.TinyText(), tiny.procedure(), tmp_path, stop=fail)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_device_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(OptionError, match=r"train\.accelerator: no CUDA device"):
        tiny.run(tmp_path, accelerator="cuda")
    assert environment.device_of("auto") == torch.device("cpu")


def test_determinism_ends_with_the_run(tmp_path: Path) -> None:
    during: list[bool] = []

    def look() -> bool:
        during.append(torch.are_deterministic_algorithms_enabled())
        return False

    fit(tiny.TinyModel(), tiny.TinyText(), tiny.procedure(steps=4), tmp_path, stop=look)
    assert during == [True] * 3
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_schedule_beyond_the_budget_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="takes the whole budget"):
        tiny.run(tmp_path / "run", steps=1)
    assert not (tmp_path / "run").exists()
