"""The cache's measured bytes are the formula's, speeds are speeds, and what has no room is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lab.evaluation.evaluate import evaluate, request
from tests.evaluation.conftest import Done, Trained, files, train

Lab = Callable[..., Done]


def test_every_batch_and_context_is_measured(trained: Trained) -> None:
    asked = request("generation_speed", ("batches=[1, 3]", "contexts=[8, 40]", "tokens=5", "repeats=2"))
    result = evaluate(trained.bytes, asked).record.as_json()
    metrics = result["metrics"]
    assert len(metrics) == 4 * 4
    for batch in (1, 3):
        for context in (8, 40):
            name = f"b{batch}_c{context}"
            assert metrics[f"{name}/cache_bytes"] == metrics[f"{name}/cache_formula_bytes"]
            prefill, decode = (metrics[f"{name}/{what}_tokens_per_second"] for what in ("prefill", "decode"))
            assert prefill > decode > 0
        assert [point[0] for point in result["curves"][f"decode_b{batch}"]["points"]] == [8, 40]
    assert metrics["b3_c8/cache_bytes"] == 3 * metrics["b1_c8/cache_bytes"]
    assert metrics["b1_c40/cache_bytes"] > metrics["b1_c8/cache_bytes"]


def test_a_context_beyond_learned_positions_is_refused(trained: Trained, lab: Lab) -> None:
    learned = ("model/position=learned", "model.position.context=40")
    run = train(trained.root, *files(trained.text), *learned, "train.tokens=128", "schedule.warmup_tokens=0")
    ask = ("eval", run.path, "generation_speed", "batches=[1]", "repeats=1", "tokens=8", "--root", trained.root)
    done = lab(*ask, "contexts=[33]")
    assert (done.code, done.out) == (2, "")
    assert "contexts: 41 tokens are beyond the model's 40 positions" in done.err
    assert lab(*ask, "contexts=[32]").code == 0


@pytest.mark.parametrize("option", ["batches=[]", "contexts=[0]", "tokens=1", "repeats=0"])
def test_numbers_that_mean_nothing_are_refused(trained: Trained, lab: Lab, option: str) -> None:
    done = lab("eval", trained.bytes.path, "generation_speed", option, "--root", trained.root, "--as", "no")
    assert done.code == 2
    assert f"{option.split('=')[0]}: must" in done.err
