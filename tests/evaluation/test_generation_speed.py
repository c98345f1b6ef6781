"""The cache's measured bytes are the formula's, speeds are speeds, and what has no room is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from components.generation import CachedForward
from lab.evaluation.evaluate import evaluate, parse_request
from lab.evaluation.evaluators import generation_speed
from tests.evaluation.conftest import Done, Trained, files, train

Lab = Callable[..., Done]


def test_every_batch_and_context_is_measured(trained: Trained) -> None:
    asked = parse_request("generation_speed", ("batches=[1, 3]", "contexts=[8, 40]", "tokens=5", "repeats=2"))
    result = evaluate(trained.bytes, asked).record.as_json()
    metrics = result["metrics"]
    assert len(metrics) == 4 * 4
    for batch in (1, 3):
        for context in (8, 40):
            name = f"b{batch}_c{context}"
            assert metrics[f"{name}/cache_bytes"] == metrics[f"{name}/cache_formula_bytes"]
            assert metrics[f"{name}/prefill_tokens_per_second"] > 0
            assert metrics[f"{name}/decode_tokens_per_second"] > 0
        assert [point[0] for point in result["curves"][f"decode_b{batch}"]["points"]] == [8, 40]
    assert metrics["b3_c8/cache_bytes"] == 3 * metrics["b1_c8/cache_bytes"]
    assert metrics["b1_c40/cache_bytes"] > metrics["b1_c8/cache_bytes"]


def test_speeds_are_the_tokens_of_all_rows_over_the_fastest_call_and_its_median_step(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock advances when the model computes, and by a known time: a trial of the cache, then two calls of a
    prompt and four steps each.
    """
    seconds = iter([7.0, 7.0, 8.0, 1.0, 1.0, 100.0, 1.0, 4.0, 0.5, 50.0, 0.5, 0.5])
    clock = 0.0

    def timed(name: str) -> None:
        compute = getattr(CachedForward, name)

        def advance(*arguments: object) -> object:
            nonlocal clock
            clock += next(seconds)
            return compute(*arguments)

        monkeypatch.setattr(CachedForward, name, advance)

    timed("begin")
    timed("extend")
    monkeypatch.setattr(generation_speed, "_now", lambda device: clock)
    options = parse_request("generation_speed", ("batches=[3]", "contexts=[8]", "tokens=5", "repeats=2"))
    metrics = evaluate(trained.bytes, options, save_as="clocked").record.metrics
    assert metrics["b3_c8/prefill_tokens_per_second"] == 3 * 8 / 4.0
    assert metrics["b3_c8/decode_tokens_per_second"] == 3 / 0.5
    assert next(seconds, None) is None, "every call of the model was timed"


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


def test_a_way_to_compile_that_there_is_not_is_refused(trained: Trained, lab: Lab) -> None:
    done = lab("eval", trained.bytes.path, "generation_speed", "compile=maybe", "--root", trained.root, "--as", "no")
    assert done.code == 2
    assert "compile: 'maybe' is not among its values (there are: auto, on, off)" in done.err
