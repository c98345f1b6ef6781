"""What spans differ in, of trained models: nothing while the text fits the window, and what can be recalled beyond."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lab.dispatch.control.preparation.prepare import prepare
from lab.dispatch.worker.attempt import Stop, execute
from lab.dispatch.worker.worker import train_frozen
from lab.evaluation.load import load_model
from lab.planning.plan.build import plan_train
from lab.records import RunFolder
from tests.evaluation.conftest import Trained, files, train


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    return dict(load_model(run, "cpu").model.state_dict())


def test_while_the_context_fits_the_window_all_spans_train_to_one_model(trained: Trained, tmp_path: Path) -> None:
    """T = 32 ≤ W: the same weights and losses, bit for bit. One token less is seen, and it is another model."""
    spans = {
        "global": ("model/span=global",),
        "local": ("model/span=local", "model.span.window=32"),
        "interleaved": ("model/span=interleaved", "model.span.window=33"),
        "shorter": ("model/span=local", "model.span.window=31"),
    }
    runs = {name: train(tmp_path / name, *files(trained.text), *span) for name, span in spans.items()}
    losses = {name: [p["train/loss"] for p in run.metrics() if "train/loss" in p] for name, run in runs.items()}
    first = weights(runs["global"])
    for name in ("local", "interleaved"):
        assert losses[name] == losses["global"]
        assert runs[name].summary.metrics == runs["global"].summary.metrics  # type: ignore[union-attr]
        found = weights(runs[name])
        assert found.keys() == first.keys()
        assert all(torch.equal(found[key], first[key]) for key in first)
    shorter = weights(runs["shorter"])
    assert not all(torch.equal(shorter[key], first[key]) for key in first)


SMALL = (
    "data.tokenizer.size=32", "data.corpus.pairs=3", "train.context=24", "train.tokens=1400k", "validation.every=null",
    "schedule.warmup_tokens=50k", "evaluate.recall.points=[[24,3]]",
)  # fmt: skip
"""MQAR (24, 3) in 32 words, which takes an eighth of the time of the shipped experiment's (64, 4) in 64."""


def recalled(root: Path, window: int, *overrides: str) -> tuple[dict[str, float], dict[str, float]]:
    """Metrics of a model with global layers and of one with two local ones, seeing 2 · window - 1 tokens."""
    metrics = []
    for span in (("model/span=global",), ("model/span=local", f"model.span.window={window}")):
        planned = plan_train("mqar_tiny", (*span, f"evaluate.recall.far={2 * window}", *overrides))
        (run,) = prepare(planned.runs, root / span[0].rpartition("=")[2]).order
        assert execute(run, train_frozen, stop=Stop(), capture=False) == 0, (run.path / "log.txt").read_text()
        assert run.summary is not None
        metrics.append(dict(run.summary.metrics))
    return metrics[0], metrics[1]


@pytest.mark.slow
def test_global_layers_learn_to_recall_what_is_beyond_the_reach_of_local_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zoology's MQAR: global layers solve it; two windows of 4 see 7 tokens, and nothing beyond."""
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    whole, local = recalled(tmp_path, 4, *SMALL)
    assert whole["recall/chance"] == local["recall/chance"] == 1 / 16
    assert min(whole["recall/accuracy"], whole["recall/far_accuracy"]) > 0.98
    assert local["recall/far_accuracy"] < 2 / 16, "what is out of sight is guessed"
    assert local["recall/near_accuracy"] > 6 / 16, "it has learnt what it can see"
