"""Spikes are counted as their definition says, and logits and activations are those of a forward pass by hand."""

from __future__ import annotations

import json
import math
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import median_abs_deviation

from components.attention.kernels.reference import Reference
from components.attention.spec import AttentionInputs, AttentionSpec
from components.decoder import Decoder
from lab.composition.compose import compose
from lab.data.shards import prepare
from lab.evaluation.evaluate import evaluate, parse_request
from lab.evaluation.load import load_model
from lab.evaluation.measure import attention_probe
from lab.evaluation.measure.magnitudes import batch_magnitudes, combine_batches
from lab.evaluation.measure.spikes import ends_low, largest_stable, spikes
from tests.evaluation.conftest import TINY, Done, Trained, files, train

Lab = Callable[..., Done]


def test_a_spike_is_far_above_the_median_of_what_came_before() -> None:
    noise = np.random.default_rng(0).standard_t(2, 400)
    naive = [
        place
        for place in range(10, 400)
        if noise[place]
        > np.median(noise[max(0, place - 50) : place])
        + 5 * median_abs_deviation(noise[max(0, place - 50) : place], scale="normal")
    ]
    assert len(naive) == 4
    assert spikes(noise.tolist(), history=50, deviations=5) == naive


def test_one_spike_hides_no_other_and_a_fall_is_none() -> None:
    curve = [5.0 + 0.01 * (step % 3) for step in range(40)]
    curve[20], curve[22], curve[30] = 9.0, 6.0, 1.0
    assert spikes(curve, history=20, deviations=7) == [20, 22]
    assert spikes([9.0, *curve], history=20, deviations=7) == [21, 23], "the first ones are never judged"
    assert spikes([1.0] * 15 + [1.0001], history=20, deviations=7) == [15]
    assert spikes(list(range(100, 0, -1)), history=20, deviations=0) == []


def test_a_rate_is_stable_if_the_loss_ends_low() -> None:
    falling = [4 - 0.02 * step for step in range(100)]
    assert ends_low(falling, margin=0.1, unigram_loss=3.0)
    assert not ends_low(falling, margin=0.1, unigram_loss=2.0), "no better than word counts"
    up = falling[:60] + [falling[60] + 0.01 * step for step in range(40)]
    assert not ends_low(up, margin=0.1, unigram_loss=4.0)
    assert ends_low(up, margin=0.5, unigram_loss=4.0)
    assert ends_low([*falling[:50], 9.0, *falling[50:]], margin=0.1, unigram_loss=3.0), "a spike that it recovered from"


def test_the_largest_stable_rate_is_one_at_which_no_run_was_lost() -> None:
    tried = [(rate, True) for rate in (1e-3, 1e-2, 1e-1) for _ in range(3)]
    assert largest_stable(tried) == 1e-1
    assert largest_stable([*tried, (1.0, True), (1.0, True)]) == 1e-1, "a third run diverged"
    assert largest_stable([*tried, (1.0, True), (1.0, False), (1.0, True)]) == 1e-1
    assert largest_stable([(1e-3, False)]) is None


MLA = (
    "model/heads=mla", "model.heads.n_heads=2", "model.heads.head_dim=8", "model.heads.rope_dim=4",
    "model.heads.value_dim=6", "model.heads.kv_rank=12",
)  # fmt: skip
VARIANTS = {
    "gemma2": (),
    "windows": ("model/span=local", "model.span.window=5"),
    "sinks": ("model.heads.sinks=true", "model/softcap=none"),
    "alibi": ("model/position=alibi",),
    "mla": MLA,
    "hybrid": ("model.pattern=[local,linear]",),
    "values": ("model.heads.value_residual=true",),
}


def model_of(name: str) -> Decoder:
    """Weights large enough for caps to bite."""
    described = compose("gemma2_tiny", (*TINY, "model.init.gain=3", *VARIANTS[name])).experiment.model
    return Decoder.initialized(described, seed=1).double().requires_grad_(False)


@pytest.mark.parametrize("name", VARIANTS)
def test_magnitudes_are_those_of_a_loop_over_queries_and_keys(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_probe, "SCORES_AT_ONCE", 200)  # so that queries come in blocks
    model, T = model_of(name), 14
    tokens = torch.randint(0, 250, (2, T), generator=torch.Generator().manual_seed(0))
    documents = (torch.arange(T) >= 9).long().expand(2, T)
    calls: list[tuple[AttentionSpec, AttentionInputs]] = []
    compute = Reference.compute

    def record(self: Reference, spec: AttentionSpec, inputs: AttentionInputs) -> torch.Tensor:
        calls.append((spec, inputs))
        return compute(self, spec, inputs)

    streams: list[torch.Tensor] = []
    hooks = [layer.register_forward_hook(lambda *seen: streams.append(seen[2])) for layer in model.layers]
    monkeypatch.setattr(Reference, "compute", record)
    model.kernel = "reference"
    model.hidden(tokens, documents)
    for hook in hooks:
        hook.remove()

    found = batch_magnitudes(model, tokens, documents)
    metrics, curves = combine_batches(model.architecture, [found, found])
    largest = []
    for spec, inputs in calls[: len(attention_probe.attention_layers(model.architecture))]:
        group, seen = inputs.q.shape[1] // inputs.k.shape[1], []
        for b, h, t in np.ndindex(*inputs.q.shape[:3]):
            for s in range(max(0, t + 1 - (spec.window or T)), t + 1):
                if documents[b, s] == documents[b, t]:
                    seen.append(spec.scale * float(inputs.q[b, h, t] @ inputs.k[b, h // group, s]))
        largest.append(max(seen))
    assert [y for _, y in curves["attention_logit"].points] == pytest.approx(largest, rel=1e-9)
    assert metrics["largest_attention_logit"] == pytest.approx(max(largest), rel=1e-9)
    cap = model.architecture.softcap.attention_cap
    if cap is not None:
        assert metrics["largest_capped_logit"] == pytest.approx(cap * math.tanh(max(largest) / cap), rel=1e-9)
    assert ("largest_capped_logit" in metrics) == (cap is not None)
    rms = [float(stream.square().mean().sqrt()) for stream in streams]
    assert [y for _, y in curves["activation_rms"].points] == pytest.approx(rms, rel=1e-9)
    assert [x for x, _ in curves["attention_logit"].points] == attention_probe.attention_layers(model.architecture)


def test_a_run_is_measured_whole(trained: Trained) -> None:
    plain = evaluate(trained.bytes, parse_request("stability", ["tokens=64"])).record.as_json()
    assert plain["details"]["recorded"] == 2, "steps 1 and 8: too few to judge a spike by"
    assert not [name for name in plain["metrics"] if name.endswith("spikes")]
    loaded = load_model(trained.bytes, "cpu")
    losses = [point["train/loss"] for point in trained.bytes.metrics() if "train/loss" in point]
    floor = prepare(loaded.experiment.data).unigram_loss
    stable = losses[-1] <= min(losses) + 0.1 and losses[-1] < floor
    assert plain["metrics"]["stable_lr"] == (loaded.experiment.optimizer.lr if stable else 0)
    assert plain["metrics"]["largest_attention_logit"] > plain["metrics"]["largest_capped_logit"]


def test_spikes_of_a_recorded_curve_are_counted(trained: Trained, tmp_path: Path) -> None:
    run = train(tmp_path / "runs", *files(trained.text), "train.tokens=4k", "train.log_every=1")
    before = evaluate(run, parse_request("stability", ["tokens=32"])).record.as_json()
    assert before["details"]["recorded"] == 32
    assert before["metrics"]["stable_lr"] == 4e-3

    points = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    for step, name, value in [(21, "loss", 70.0), (26, "grad_norm", 400.0), (29, "grad_norm", 900.0)]:
        points[step - 1][f"train/{name}"] = value
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    found = evaluate(run, parse_request("stability", ["tokens=32", "deviations=20"])).record.as_json()
    assert (found["metrics"]["loss_spikes"], found["metrics"]["grad_norm_spikes"]) == (1, 2)
    assert found["curves"]["grad_norm_spikes"]["points"] == ((26, 400.0), (29, 900.0))
    assert found["metrics"]["stable_lr"] == 4e-3, "it recovered"
    strict = evaluate(run, parse_request("stability", ["tokens=32", "margin=0", "history=10"])).record.metrics
    losses = [point["train/loss"] for point in points if "train/loss" in point]
    ends = [statistics.fmean(losses[place : place + 3]) for place in range(30)]
    assert strict["stable_lr"] == (4e-3 if ends[-1] == min(ends) else 0)


def test_rates_are_drawn_for_the_arms_of_a_sweep(trained: Trained, lab: Lab, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    shutil.copytree(trained.bytes.path, root / Path(*trained.bytes.path.parts[-3:]))
    out = tmp_path / "pictures"
    done = lab("eval", trained.bytes.path.parts[-3], "stability", "tokens=32", "--root", root, "--out", out)
    assert done.code == 0, done
    assert [path.name for path in out.iterdir()] == ["learning_rates.png"]


def test_what_cannot_be_asked_is_refused(trained: Trained, lab: Lab) -> None:
    for options, message in [
        (["history=9"], "history: must be at least 10, got 9"),
        (["deviations=-1"], "deviations: must be 0 or above"),
        (["margin=-0.5"], "margin: must be 0 or above"),
    ]:
        done = lab("eval", trained.bytes.path, "stability", *options, "--as", "no", "--root", trained.root)
        assert (done.code, message in done.err, len(done.err.strip().splitlines())) == (2, True, 1), done
    assert not (trained.bytes.path / "evaluations" / "no.json").exists()
