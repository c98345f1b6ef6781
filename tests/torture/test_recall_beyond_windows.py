"""The shipped experiment of recall at its full size."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluation.test_spans import recalled


def test_global_layers_solve_the_shipped_experiment_and_local_ones_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zoology's MQAR (64, 4): the shipped experiment solves it; two windows of 8 see 15 tokens, and nothing beyond."""
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    whole, local = recalled(tmp_path, 8)
    assert whole["recall/chance"] == local["recall/chance"] == 1 / 32
    assert min(whole["recall/accuracy"], whole["recall/far_accuracy"]) > 0.98
    assert local["recall/far_accuracy"] < 2 / 32, "what is out of sight is guessed"
    assert local["recall/near_accuracy"] > 6 / 32, "it has learnt what it can see"
