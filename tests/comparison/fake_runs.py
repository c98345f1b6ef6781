"""Run folders as a worker leaves them, with the curves in real event files, for tests of what reads them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from lab.comparison.read.curves import MetricCurve, averaged_runs, run_curve
from lab.comparison.read.results import ArmResults
from lab.records import RunFolder, State, write_json
from tests.records.made import make_run

UNIGRAM = 5.5
STEPS = 40


def fake_run(
    root: Path,
    arm: str = "both",
    seed: int = 0,
    *,
    sweep: str = "softcap",
    status: str = "finished",
    loss: float = 3.2,
    axes: dict[str, Any] | None = None,
    order: int = 0,
    baseline: str = "both",
    metrics: Sequence[str] = ("val/loss",),
    results: Mapping[str, float | None] | None = None,
    identity: str | None = None,
    created: str = "2026-03-01T12:00:00+00:00",
    question: str | None = "Does soft-capping still help once queries and keys are normed?",
    curves: bool = False,
) -> RunFolder:
    """Make one run.

    Args:
        loss: its final validation loss.
        results: further entries of its summary's metrics.
        curves: with metrics.jsonl and an event file.
    """
    identity = identity or hashlib.sha256(f"{sweep}/{arm}/{seed}".encode()).hexdigest()[:16]
    info = {
        "version": 1,
        "identity": identity,
        "sweep": sweep,
        "arm": arm,
        "seed": seed,
        "axes": axes if axes is not None else {"model/softcap": "gemma2" if arm == "both" else "none"},
        "baseline": baseline,
        "order": order,
        "question": question,
        "metrics": list(metrics),
        "match": "params",
        "experiment": "gemma2_tiny",
        "overrides": [],
        "components": {},
        "costs": {"parameters": 1_234_567, "flops_per_token": 7.5e6, "kv_bytes_per_token": 2048},
        "created": created,
    }
    run = make_run(root / sweep / arm / f"seed-{seed}", "name: gemma2_tiny\n", info)
    begun = status not in ("queued", "blocked")
    done = STEPS if status == "finished" else STEPS // 2
    if begun and curves:
        write_curves(run.path, done, loss)
    run.state = State(
        status=status,  # type: ignore[arg-type]
        attempts=int(begun),
        reason="loss is not finite" if status == "diverged" else None,
        heartbeat=1_772_370_000.0 if begun else None,
    )
    if status in ("finished", "diverged"):
        found = {"val/loss": loss, "unigram/loss": UNIGRAM, **(results or {})}
        costs = {"tokens": done * 512, "steps": done, "seconds": 60.0, "tokens_per_second": 34_500.0}
        summary = {"version": 1, "status": status, "reason": run.state.reason, "metrics": found, "costs": costs}
        write_json(run.path / "summary.json", summary)
    return run


def write_curves(folder: Path, steps: int, loss: float) -> None:
    """Training and validation loss falling to `loss`, in metrics.jsonl and an event file."""
    writer = EventFileWriter(str(folder))
    lines = []
    for step in range(1, steps + 1):
        train = loss + 2 * math.exp(-step / 8)
        point = {"train/loss": train}
        if step % 10 == 0:
            point["val/loss"] = loss if step == steps else train + 0.01
        for tag, value in point.items():
            summary = summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=tag, simple_value=value)])
            writer.add_event(event_pb2.Event(wall_time=1_772_366_400.0 + step, step=step, summary=summary))
        lines.append(json.dumps({"step": step, "tokens": step * 512, "time": float(step), **point}))
    writer.close()
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def fake_sweep(root: Path, losses: dict[str, Sequence[float | None]], **options: Any) -> None:
    """A sweep of finished runs: arm → final loss by seed (0, 1, …), None if diverged. The first is the baseline."""
    baseline = next(iter(losses))
    for order, (arm, values) in enumerate(losses.items()):
        for seed, loss in enumerate(values):
            run = {"status": "diverged"} if loss is None else {"loss": loss}
            fake_run(root, arm, seed, order=order, baseline=baseline, **(run | options))


def arm_curves(arm: ArmResults, metric: str) -> dict[int, MetricCurve]:
    """Seed → curve over tokens, for the runs with a point that the arm's mean is over."""
    curves = {seed: run_curve(run, metric) for seed, run in averaged_runs(arm).items()}
    return {seed: curve for seed, curve in curves.items() if len(curve)}
