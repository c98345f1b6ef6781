"""The same tokens from more and more context: each loss is one token's at a time, and reach is what it says."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from components.architecture import Architecture
from components.decoder import Decoder
from lab.accounting.reach import reach
from lab.composition.compose import compose
from lab.data.shards import prepare
from lab.evaluation.evaluate import evaluate, parse_request
from lab.evaluation.evaluators.context import Ranges
from lab.evaluation.load import load_model
from lab.records import RunFolder
from tests.evaluation.conftest import TINY, Done, Trained, files, train

Lab = Callable[..., Done]

BRIEF = ("train.tokens=128", "schedule.warmup_tokens=0", "model.init.gain=3")


@pytest.fixture(scope="module")
def local(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Two layers with a window of 6: what they know of reaches 11 tokens back. Weights large enough to bite."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_CACHE", str(trained.root.parent / "cache"))
        span = ("model/span=local", "model.span.window=6")
        return train(tmp_path_factory.mktemp("local") / "runs", *files(trained.text), *BRIEF, *span)


def naive(run: RunFolder, place: int, context: int) -> float:
    """The loss of one token from the tokens before it, in fp64."""
    loaded = load_model(run, "cpu")
    text = prepare(loaded.experiment.data).validation
    logits = loaded.model.double()(torch.tensor([text[place - context : place].astype("int64").tolist()]))[0, -1]
    return float(torch.logsumexp(logits, 0) - logits[int(text[place])])


def test_each_loss_is_that_of_one_cut_text_at_a_time(local: RunFolder) -> None:
    result = evaluate(local, parse_request("context", ["targets=7", "batch=3"])).record.as_json()
    points = {int(length): loss for length, loss in result["curves"]["loss_by_context"]["points"]}
    assert list(points) == [6, 8, 11, 16, 32, 64], "powers of two, the window, the reach, the context and twice it"
    size = len(prepare(load_model(local, "cpu").experiment.data).validation)
    places = [64 + number * (size - 64) // 7 for number in range(7)]
    for length, loss in points.items():
        each = [naive(local, place, length) for place in places]
        assert loss == pytest.approx(statistics.fmean(each), rel=1e-5)
        assert result["details"]["standard_errors"][str(length)] == pytest.approx(
            statistics.stdev(each) / 7**0.5, rel=1e-4
        )
    metrics = result["metrics"]
    assert metrics["within_window_loss"] == points[6]
    assert metrics["within_reach_loss"] == statistics.fmean([points[8], points[11]])
    assert metrics["beyond_reach_loss"] == statistics.fmean([points[16], points[32]])
    assert metrics["beyond_training_loss"] == points[64]
    assert metrics["full_loss"] == points[32]


def test_what_lies_beyond_the_reach_changes_nothing_and_the_last_token_within_it_does(local: RunFolder) -> None:
    result = evaluate(local, parse_request("context", ["contexts=[10,11,12,40]", "targets=16"])).record.as_json()
    less, reached, more, much = (loss for _, loss in result["curves"]["loss_by_context"]["points"])
    assert reached == pytest.approx(more, abs=1e-5)
    assert reached == pytest.approx(much, abs=1e-5)
    assert abs(less - reached) > 1e-4


def test_borders_of_another_architecture_can_be_given(local: RunFolder) -> None:
    result = evaluate(
        local, parse_request("context", ["contexts=[8,12,16]", "window=8", "reach=12", "context=16"])
    ).record.as_json()
    assert result["details"]["buckets"] == {"within_window": [8], "within_reach": [12], "beyond_reach": [16]}


def test_a_model_that_sees_all_has_no_border_but_the_training_context(trained: Trained) -> None:
    assert Ranges(None, None, 32).buckets([64, 8, 32]) == {"within_reach": [8, 32], "beyond_training": [64]}
    result = evaluate(trained.bytes, parse_request("context", ["targets=2", "contexts=[4,32]"])).record.as_json()
    assert (result["details"]["window"], result["details"]["reach"]) == (32, None)


def architecture(*overrides: str) -> Architecture:
    return compose("gemma2_tiny", (*TINY, "model.n_layers=4", *overrides)).experiment.model


def test_reach_is_where_gradients_end() -> None:
    """The earliest input that the last output depends on, by differentiation."""
    mixed = ("model.kinds.near.span={name: local, window: 3}", "model.pattern=[local,near]")
    spans = [
        ("model/span=local", "model.span.window=1"),
        ("model/span=local", "model.span.window=4"),
        ("model/span=local", "model.span.window=5", *(f"+{each}" for each in mixed)),
        ("model/span=interleaved", "model.span.window=2"),
        ("model/span=local", "model.span.window=3", "model.pattern=[local,local,local,linear]"),
    ]
    for overrides in spans:
        described = architecture(*overrides)
        model = Decoder.initialized(described, seed=0, kernel="reference").double()
        stream = torch.randn(1, 40, described.d_model, dtype=torch.float64, requires_grad=True)
        model.embedding.forward = lambda tokens, stream=stream: stream  # type: ignore[method-assign]
        model.hidden(torch.zeros(1, 40, dtype=torch.long))[0, -1].sum().backward()
        assert stream.grad is not None
        first = int((stream.grad[0].abs().sum(-1) > 0).nonzero()[0])
        assert 40 - first == (reach(described) or 40), overrides


def test_what_cannot_be_asked_is_refused(trained: Trained, local: RunFolder, lab: Lab, tmp_path: Path) -> None:
    learned = ("model/position=learned", "model.position.context=40")
    table = train(tmp_path / "runs", *files(trained.text), *learned, "train.tokens=128", "schedule.warmup_tokens=0")
    for run, options, message in [
        (table, ["contexts=[8,41]"], "contexts: 41 tokens are beyond the model's 40 positions"),
        (table, ["context=64"], "context: 64 tokens are beyond the model's 40 positions"),
        (local, ["contexts=[]"], "contexts: must be lengths of at least 1, each once"),
        (local, ["contexts=[8,8]"], "contexts: must be lengths of at least 1, each once"),
        (local, ["targets=0"], "targets: must be at least 1, got 0"),
        (local, ["window=20"], "window: a reach of 11 is less than the window of 20"),
        (local, ["contexts=[1M]"], "too few for a context of 1,000,000"),
    ]:
        done = lab("eval", run.path, "context", *options, "--as", "no", "--root", run.path.parents[2])
        assert (done.code, message in done.err, len(done.err.strip().splitlines())) == (2, True, 1), done
        assert not (run.path / "evaluations" / "no.json").exists()
    done = lab("eval", table.path, "context", "targets=2", "--json", "--root", tmp_path / "runs")
    lengths = [point[0] for point in json.loads(done.out)["curves"]["loss_by_context"]["points"]]
    assert lengths == [8, 16, 32], "nothing beyond the table by default"
