"""A sweep with everything that a report shows: evaluations, attention maps, failures, SLURM jobs, and hostile names."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import yaml

from lab.records import RunFolder, State, SubmissionRecord, SubmittedTask, submission_path, write_json, write_submission
from tests.comparison.fake_runs import fake_run

IMAGE = "<img src=x onerror=\"document.title='taken'\">"
QUOTES = "\"quoted\" & 'single' ünïcode 日本語 🙂"
LONG = "long_" + "n" * 90
SCRIPT = "<script>document.title='taken'</script>"
ARMS = ("global", IMAGE, QUOTES, LONG)
QUESTION = f"Is {SCRIPT} text? {'x' * 300}"
REASON = f"loss is {SCRIPT} not finite"
METRIC = "recall/<b>bold_accuracy"
SWEEP = "rich"
SEEDS = 3


def png(width: int = 80, height: int = 60) -> bytes:
    """A grey picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes([128] * width) for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def rich_sweep(root: Path) -> None:
    """Four arms of three seeds: one seed diverged, one is running, one failed; the rest are finished."""
    for order, arm in enumerate(ARMS):
        for seed in range(SEEDS):
            rich_run(root, arm, order, seed)
    tasks = tuple(SubmittedTask((f"{SWEEP}/global/seed-{seed}",)) for seed in range(SEEDS))
    write_submission(
        SubmissionRecord(
            path=submission_path(root, SWEEP, "abc"),
            token="abc",
            group="first",
            sweep=SWEEP,
            kind="runs",
            name="lab-abc",
            created=1.0,
            user="me",
            host="here",
            settings={},
            tasks=tasks,
            job="4711",
        )
    )


def rich_run(root: Path, arm: str, order: int, seed: int) -> RunFolder:
    ends = {(1, 2): "diverged", (2, 2): "running", (3, 2): "failed"}
    status = ends.get((order, seed), "finished")
    loss = 3.0 + 0.05 * order + 0.004 * seed * (-1) ** order
    run = fake_run(
        root,
        arm,
        seed,
        sweep=SWEEP,
        status=status,
        loss=loss,
        order=order,
        baseline="global",
        axes={"model/span": "global" if order == 0 else "local", "note": arm},
        metrics=("val/loss", METRIC),
        results={METRIC: 0.9 - 0.1 * order + 0.01 * seed},
        question=QUESTION,
        curves=True,
    )
    config = {"name": "x", "seed": seed, "model": {"d_ff": 128 + 8 * order}, "note": arm}
    (run.path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    provenance = {"device": "Fast <GPU>", "host": "n1", "processes": 2, "kernels": {"global": "sdpa"}, "data": "d" * 64}
    provenance |= {"commit": "c" * 40, "dirty": True, "code_digest": "e" * 64, "torch": "2.13.0"}
    info = json.loads((run.path / "run.json").read_text())
    costs = info["costs"] | {"flops_per_token": 7.5e6 - 4e5 * order, "kv_bytes_per_token": 2048 // (1 + order)}
    changes: dict[str, Any] = {"provenance": provenance, "costs": costs, "overrides": [f"note={arm}", f"seed={seed}"]}
    write_json(run.path / "run.json", info | changes)
    if status != "finished":
        failure = "out_of_memory" if status == "failed" else None
        run.state = State(status=status, attempts=2, reason=REASON, failure=failure)  # type: ignore[arg-type]
    else:
        evaluate(run, order, seed)
    return run


def evaluate(run: RunFolder, order: int, seed: int) -> None:
    """Four evaluations, as their evaluators keep them."""

    def curve(x: str, y: str, *points: tuple[float, float]) -> dict[str, Any]:
        return {"x": x, "y": y, "points": [list(point) for point in points]}

    contexts = [(8.0 * 2**power, 3.4 - 0.1 * power + 0.05 * order + 0.01 * seed) for power in range(5)]
    distances = [(2.0**power + 0.5, 1 - 0.1 * power - 0.05 * order + 0.005 * seed) for power in range(6)]
    layers = [(float(layer), 2.0 + layer + 0.1 * seed) for layer in range(4)]
    keep(run, "context", "context", loss_by_context=curve("context (tokens)", "loss (nats a token)", *contexts))
    keep(run, "recall", "recall", accuracy_by_distance=curve("key-query distance", "accuracy", *distances))
    keep(run, "stability", "stability", attention_logit=curve("layer", "largest attention logit", *layers))
    keep(run, "attention_maps", "attention_maps", entropy=curve("layer", "entropy (nats)", *layers))
    folder = run.path / "evaluations" / "attention_maps"
    folder.mkdir()
    (folder / "maps.png").write_bytes(png())


def keep(run: RunFolder, name: str, evaluator: str, **curves: Any) -> None:
    folder = run.path / "evaluations"
    folder.mkdir(exist_ok=True)
    metrics = {"loss_spikes": 2, "largest_attention_logit": 12.5} if evaluator == "stability" else {}
    found = {"evaluator": evaluator, "metrics": metrics, "curves": curves, "details": {"reach": 15}}
    (folder / f"{name}.json").write_text(json.dumps(found))
