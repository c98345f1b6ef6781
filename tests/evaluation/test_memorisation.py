"""A model made to memorise its text recites it, one that has just begun can't, and distances are Levenshtein's."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from lab.evaluation.evaluate import evaluate, parse_request
from lab.evaluation.evaluators.memorisation import binomial_interval, edit_distances
from lab.records import RunFolder
from tests.evaluation.conftest import Done, Trained, files, train

Lab = Callable[..., Done]

ASK = ("prompt=16", "continuation=15", "samples=40", "batch=7")


@pytest.fixture(scope="module")
def learnt_by_heart(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that saw a few lines of random letters, each a window with what ends it, until it knew them."""
    letters = random.Random(0)
    lines = ["".join(letters.choices("abcdefghijklmnopqrstuvwxyz", k=31)) for _ in range(30)]
    path = tmp_path_factory.mktemp("by heart") / "lines.jsonl"
    path.write_text("\n".join(json.dumps({"text": line}) for line in lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_CACHE", str(trained.root.parent / "cache"))
        budget = ("train.tokens=64k", "train.global_batch=8", "model.d_model=64", "model.heads.head_dim=16")
        return train(trained.root, *files(path), *budget, "validation.tokens=32")


def test_what_was_learnt_by_heart_is_recited(learnt_by_heart: RunFolder) -> None:
    found = evaluate(learnt_by_heart, parse_request("memorisation", ASK)).record.as_json()
    assert found["metrics"]["exactly_memorised"] == 1.0
    assert found["metrics"]["approximately_memorised"] == 1.0
    assert found["details"]["prompts_by_distance"] == [40, *[0] * 15]
    assert found["curves"]["share_by_distance"]["points"] == tuple((n / 15, 1.0) for n in range(16))
    assert found["metrics"]["exactly_low"] == pytest.approx(0.025 ** (1 / 40)), "Clopper and Pearson, all of n seen"


def test_one_that_has_hardly_seen_its_text_recites_none_of_it(trained: Trained, learnt_by_heart: RunFolder) -> None:
    once = ("train.tokens=256", "train.global_batch=8", "model.d_model=64", "validation.tokens=32")
    path = learnt_by_heart.config["data"]["corpus"]["paths"][0]
    run = train(trained.root, *files(Path(path)), *once, "schedule.warmup_tokens=0")
    metrics = evaluate(run, parse_request("memorisation", ASK)).record.metrics
    assert metrics["exactly_memorised"] == 0.0
    assert metrics["approximately_memorised"] == 0.0
    assert metrics["exactly_low"] == 0.0 < metrics["exactly_high"] < 0.1


def test_the_batch_changes_nothing_and_the_seed_does(learnt_by_heart: RunFolder) -> None:
    half = ("prompt=2", *ASK[1:])  # too little to know which line it is
    one, other, another = (
        evaluate(learnt_by_heart, parse_request("memorisation", (*half, *more))).record.details
        for more in (("batch=40",), ("batch=3",), ("seed=1",))
    )
    assert one == other != another


def test_what_cannot_be_asked_is_refused(learnt_by_heart: RunFolder, trained: Trained, lab: Lab) -> None:
    for arguments, message in [
        (("prompt=30", "continuation=10"), "continuation: 30 tokens of prompt and 10 more are beyond the 33"),
        (("prompt=0",), "prompt: must be at least 1, got 0"),
        (("distance=1",), "distance: must lie in [0, 1), got 1"),
        ((*ASK, *files(trained.text)), "memorisation uses the text that the run was trained on"),
    ]:
        done = lab("eval", learnt_by_heart.path, "memorisation", *arguments, "--root", trained.root, "--as", "no")
        assert (done.code, message in done.err, done.out) == (2, True, ""), done
    assert not (learnt_by_heart.path / "evaluations/no.json").exists()


@functools.cache
def levenshtein(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    if not one or not other:
        return len(one) + len(other)
    substituted = levenshtein(one[1:], other[1:]) + (one[0] != other[0])
    return min(substituted, levenshtein(one[1:], other) + 1, levenshtein(one, other[1:]) + 1)


def test_edit_distances_are_those_of_the_definition() -> None:
    draws = np.random.default_rng(0)
    for n, m in [(8, 8), (1, 5), (6, 3)]:
        one, other = draws.integers(3, size=(50, n)), draws.integers(3, size=(50, m))
        expected = [levenshtein(tuple(a), tuple(b)) for a, b in zip(one.tolist(), other.tolist(), strict=True)]
        assert edit_distances(one, other).tolist() == expected
        assert len(set(expected)) > 1


@pytest.mark.parametrize("count", [0, 1, 17, 49, 50])
def test_the_interval_is_scipys(count: int) -> None:
    expected = binomtest(count, 50).proportion_ci(0.9, method="exact")
    assert binomial_interval(count, 50, 0.9) == pytest.approx((expected.low, expected.high))
