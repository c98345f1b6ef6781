"""A run's MFU: its speed times what the plan says that a token takes, over the device's peak; or why there is none."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lab.accounting.costs import costs
from lab.accounting.peaks import Peak
from lab.training import loop
from lab.training.experiment import Experiment
from lab.training.options import Train
from lab.training.parallel.world import World
from lab.training.recipes import teacher
from lab.training.recipes.base import NextTokenPrediction, run_options
from lab.training.recipes.distillation import Distillation

from .test_teacher import finished
from .test_train import architecture
from .test_train import experiment as experiment
from .tiny import points


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.device, torch.dtype]]:
    """A device whose peak is 10 GFLOP/s, and what was asked about it."""
    asked: list[tuple[torch.device, torch.dtype]] = []

    def peak(device: torch.device, dtype: torch.dtype) -> Peak:
        asked.append((device, dtype))
        return Peak(1e10, "so it is said")

    monkeypatch.setattr(loop, "peak", peak)
    return asked


def logged_often(experiment: Experiment) -> Experiment:
    return replace(experiment, train=replace(experiment.train, log_every=1))


@pytest.mark.usefixtures("known")
def test_a_run_reports_it_at_every_point_and_at_its_end(experiment: Experiment, tmp_path: Path) -> None:
    summary = loop.train(logged_often(experiment), tmp_path / "run").summary.as_json()
    per_token = costs(experiment.model, 32).flops_per_token
    speeds = [point for point in points(tmp_path / "run") if "train/tokens_per_second" in point]
    assert len(speeds) > 20
    for point in speeds:
        assert point["train/mfu"] == pytest.approx(point["train/tokens_per_second"] * per_token / 1e10)
    assert summary["costs"]["mfu"] == pytest.approx(summary["costs"]["tokens_per_second"] * per_token / 1e10)
    assert summary["provenance"]["peak_flops_per_second"] == 1e10
    assert summary["provenance"]["peak_basis"] == "so it is said"
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert [event.value for event in events.Scalars("train/mfu")] == pytest.approx([p["train/mfu"] for p in speeds])


def test_an_unknown_peak_leaves_it_out_and_says_why(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "peak", lambda device, dtype: Peak(None, "nobody knows"))
    summary = loop.train(logged_often(experiment), tmp_path / "run").summary.as_json()
    assert "mfu" not in summary["costs"]
    assert not [point for point in points(tmp_path / "run") if "train/mfu" in point]
    assert (summary["provenance"]["peak_flops_per_second"], summary["provenance"]["peak_basis"]) == (
        None,
        "nobody knows",
    )


def test_the_peak_is_that_of_the_precision_that_is_trained_in(experiment: Experiment, known: list[Any]) -> None:
    for precision in ("fp32", "bf16-mixed"):
        train: Train = replace(experiment.train, precision=precision)
        loop.utilization_of(replace(experiment, train=train), {}, World())
    assert known == [(torch.device("cpu"), torch.float32), (torch.device("cpu"), torch.bfloat16)]


@pytest.mark.usefixtures("known")
def test_several_processes_share_the_flops_and_add_their_peaks(experiment: Experiment) -> None:
    found = loop.utilization_of(experiment, {}, World(size=4, rank=0))
    assert found.devices == 4
    assert found.mfu(1000.0) == pytest.approx(1000 * costs(experiment.model, 32).flops_per_token / 4e10)


@pytest.mark.usefixtures("known")
def test_a_teachers_forward_pass_is_work_too(experiment: Experiment, tmp_path: Path) -> None:
    run = finished(experiment, tmp_path / "runs")
    taught = replace(experiment, recipe=Distillation(teacher="e" * 64), model=architecture(d_model=32))
    given = teacher.load(run, experiment, kernel="auto")
    found = loop.utilization_of(taught, {"e" * 64: given}, World())
    own, teachers = costs(taught.model, 32).flops_per_token, costs(experiment.model, 32).flops_per_token
    assert found.flops_per_token == own + teachers / 3
    kept = Distillation(teacher="e" * 64, targets="top_k", k=8, cache=True)
    read = loop.utilization_of(replace(taught, recipe=kept), {"e" * 64: given}, World())
    assert read.flops_per_token == own, "what is read from the cache is no work of the step's"


@pytest.mark.usefixtures("known")
def test_an_option_refers_to_a_run_only_if_it_reports_it(experiment: Experiment) -> None:
    """Metadata such as `expected`, which an option that refers to a run has too, don't make it one."""

    @dataclass(frozen=True, kw_only=True)
    class Described(NextTokenPrediction):
        unit: str = field(default="nats", metadata={"expected": "a unit, such as nats"})

    assert run_options(Described) == ()
    assert run_options(Distillation) == ("teacher",)
    found = loop.utilization_of(replace(experiment, recipe=Described()), {}, World())
    assert found.flops_per_token == costs(experiment.model, 32).flops_per_token


def test_a_cpu_is_measured_before_the_first_step_and_never_again(experiment: Experiment, tmp_path: Path) -> None:
    shares = [loop.train(experiment, tmp_path / name).summary.costs["mfu"] for name in ("one", "two")]
    assert all(0 < share < 1.5 for share in shares)
    (file,) = (tmp_path / "cache" / "matrix-products").glob("*.json")
    found = [json.loads((tmp_path / name / "summary.json").read_text())["provenance"] for name in ("one", "two")]
    assert found[0]["peak_flops_per_second"] == found[1]["peak_flops_per_second"]
    assert found[0]["peak_flops_per_second"] == json.loads(file.read_text())["flops_per_second"]
