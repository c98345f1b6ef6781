"""Other windows over the same weights: training's own is training's loss, and one that hides nothing is global."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from components.attention.span import GlobalSpan
from components.decoder import Decoder
from lab.composition.compose import compose
from lab.data.batches import validation_batches
from lab.data.shards import prepare
from lab.evaluation.evaluate import evaluate, parse_request
from lab.evaluation.load import load_model
from lab.evaluation.measure.windows import local_windows, with_window
from lab.records import RunFolder
from lab.training.data.validation import validation_loss
from tests.evaluation.conftest import TINY, Done, Trained, files, train

Lab = Callable[..., Done]


@pytest.fixture(scope="module")
def windowed(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A window of 8 in a context of 32, local and global in turn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_CACHE", str(trained.root.parent / "cache"))
        brief = ("train.tokens=128", "schedule.warmup_tokens=0", "model.init.gain=3", "model.span.window=8")
        return train(tmp_path_factory.mktemp("windowed") / "runs", *files(trained.text), *brief)


def test_the_trained_window_is_perplexity_and_one_as_long_as_the_text_is_global(windowed: RunFolder) -> None:
    result = evaluate(windowed, parse_request("inference_window", ["windows=[3,8,32,99]"])).record.as_json()
    metrics = result["metrics"]
    perplexity = evaluate(windowed, parse_request("perplexity", [])).record.metrics["loss"]
    assert windowed.summary is not None
    assert metrics["loss"] == metrics["window_8_loss"] == perplexity == windowed.summary.metrics["val/loss"]

    loaded = load_model(windowed, "cpu")
    everywhere = Decoder(replace(loaded.experiment.model, span=GlobalSpan(), pattern=None), loaded.model.kernel)
    everywhere.load_state_dict(loaded.model.state_dict())
    batches = validation_batches(prepare(loaded.experiment.data).validation, 32, 4, 512)
    assert metrics["window_32_loss"] == metrics["window_99_loss"] == validation_loss(everywhere, batches, loaded.device)
    assert len({metrics[f"window_{window}_loss"] for window in (3, 8, 32)}) == 3, "a window matters to these weights"
    assert result["curves"]["loss_by_window"]["points"] == tuple(
        (w, metrics[f"window_{w}_loss"]) for w in (3, 8, 32, 99)
    )


def test_another_window_is_that_of_a_model_built_with_it(windowed: RunFolder) -> None:
    loaded = load_model(windowed, "cpu")
    described = replace(loaded.experiment.model, span=loaded.experiment.model.span.replace(window=3))
    other = Decoder(described, "reference")
    other.load_state_dict(loaded.model.state_dict())
    text = torch.from_numpy(prepare(loaded.experiment.data).validation.astype("int64"))
    used = (len(text) - 1) // 32 * 32
    logits = other.double()(text[:used].view(-1, 32))
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), text[1 : used + 1]).item()
    found = evaluate(windowed, parse_request("inference_window", ["windows=[3]", "tokens=1M"])).record.metrics
    assert found["window_3_loss"] == pytest.approx(expected, rel=1e-6)


def test_without_options_a_quarter_half_once_and_twice_the_window(windowed: RunFolder) -> None:
    points = evaluate(windowed, parse_request("inference_window", [])).record.as_json()["curves"]["loss_by_window"][
        "points"
    ]
    assert [window for window, _ in points] == [2, 4, 8, 16]


def test_every_local_layer_gets_the_window_and_no_global_one(trained: Trained) -> None:
    near = ("+model.kinds.near.span={name: local, window: 3}", "model.pattern=[local,near,global]", "model.n_layers=3")
    described = compose("gemma2_tiny", (*TINY, *near)).experiment.model
    assert local_windows(described) == [3, 32]
    assert [layer.mixer.window for layer in with_window(described, 5).layers] == [5, 5, None]


def test_what_cannot_be_asked_is_refused(trained: Trained, windowed: RunFolder, lab: Lab) -> None:
    brief = ("train.tokens=128", "schedule.warmup_tokens=0")
    everywhere = train(trained.root, *files(trained.text), *brief, "model/span=global")
    for run, options, message in [
        (everywhere, [], "windows: no layer of the model has a window"),
        (windowed, ["windows=[4,0]"], "windows: must be at least 1"),
        (windowed, ["windows=[]"], "windows: must be at least one, each once"),
        (windowed, ["context=0"], "context: must be at least 1, got 0"),
    ]:
        done = lab("eval", run.path, "inference_window", *options, "--as", "no", "--root", run.path.parents[2])
        assert (done.code, message in done.err, len(done.err.strip().splitlines())) == (2, True, 1), done
        assert not (run.path / "evaluations" / "no.json").exists()
    planned = lab("train", "gemma2_tiny", "model/span=global", "+evaluate.w=inference_window")
    assert planned.code == 2
    assert "evaluate.w.windows: no layer of the model has a window" in planned.err
