"""Attention's statistics are those of the weights that the reference kernel's formula gives, a query at a time."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from components.attention.kernels.reference import Reference
from components.attention.spec import AttentionInputs, AttentionSpec
from lab.evaluation import pictures
from lab.evaluation.evaluate import evaluate, parse_request
from lab.evaluation.measure import attention_probe
from lab.evaluation.measure.attention_statistics import batch_sums, combine_batches, maps
from tests.evaluation.conftest import Done, Trained, files, train
from tests.evaluation.test_stability import VARIANTS, model_of

Lab = Callable[..., Done]


def naive(spec: AttentionSpec, inputs: AttentionInputs, b: int, h: int, t: int) -> list[float]:
    """One query's weights, key by key, and what a sink takes last."""
    key_head, scores = h // (inputs.q.shape[1] // inputs.k.shape[1]), []
    for s in range(inputs.k.shape[2]):
        score = spec.scale * float(inputs.q[b, h, t] @ inputs.k[b, key_head, s])
        if spec.softcap is not None:
            score = spec.softcap * math.tanh(score / spec.softcap)
        if inputs.alibi_slopes is not None:
            score -= float(inputs.alibi_slopes[h]) * (t - s)
        hidden = s > t or (spec.window is not None and t - s >= spec.window)
        if inputs.documents is not None:
            hidden = hidden or bool(inputs.documents[b, s] != inputs.documents[b, t])
        scores.append(-math.inf if hidden else score)
    scores.append(-math.inf if inputs.sinks is None else float(inputs.sinks[h]))
    exponentials = [math.exp(score - max(scores)) for score in scores]
    return [each / math.fsum(exponentials) for each in exponentials]


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("masked", [False, True])
def test_statistics_are_those_of_each_query_by_itself(name: str, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_probe, "SCORES_AT_ONCE", 300)  # so that queries come in blocks
    model, T, window = model_of(name), 12, 4
    tokens = torch.randint(0, 250, (2, T), generator=torch.Generator().manual_seed(0))
    documents = (torch.arange(T) >= 7).long().expand(2, T) if masked else None
    calls: list[tuple[AttentionSpec, AttentionInputs]] = []
    compute = Reference.compute

    def record(self: Reference, spec: AttentionSpec, inputs: AttentionInputs) -> torch.Tensor:
        calls.append((spec, inputs))
        return compute(self, spec, inputs)

    model.kernel = "reference"
    with monkeypatch.context() as patch:
        patch.setattr(Reference, "compute", record)
        model.hidden(tokens, documents)
    part = batch_sums(model, tokens, documents, window)
    found = combine_batches([part, part], sinks=name == "sinks")
    assert list(found.layers) == attention_probe.attention_layers(model.architecture)
    drawn = maps(model, tokens[:1], None if documents is None else documents[:1], [0], [1])
    for row, (spec, inputs) in enumerate(calls):
        for h in range(inputs.q.shape[1]):
            queries = [(b, t) for b in range(2) for t in range(T)]
            weights = {(b, t): naive(spec, inputs, b, h, t) for b, t in queries}
            first = {(b, t): 7 if masked and t >= 7 else 0 for b, t in queries}
            mass = sum(sum(each[:T]) for each in weights.values())
            expected = {
                "entropy": -sum(w * math.log(w) for each in weights.values() for w in each if w > 0) / (2 * T),
                "first_token_mass": sum(each[first[at]] for at, each in weights.items()) / (2 * T),
                "distance": sum(w * (t - s) for (_, t), each in weights.items() for s, w in enumerate(each[:T])) / mass,
                "beyond_window_mass": sum(
                    w for (_, t), each in weights.items() for s, w in enumerate(each[:T]) if t - s >= window
                )
                / (2 * T),
                **({"sink_mass": sum(each[T] for each in weights.values()) / (2 * T)} if name == "sinks" else {}),
            }
            # Tables of cosines are in fp32 at times, and so are ALiBi's slopes.
            assert {key: table[row][h] for key, table in found.tables.items()} == pytest.approx(expected, rel=1e-6)
            if (row, h) == (0, 1):
                assert np.allclose(drawn[0, 1], [weights[0, t][:T] for t in range(T)], rtol=1e-6, atol=1e-9)
    assert found.by_layer("entropy")[0][1] == pytest.approx(np.mean(found.tables["entropy"][0]))


def test_uniform_attention_has_the_entropy_and_the_distance_of_its_formula() -> None:
    model, T = model_of("gemma2"), 16
    for layer in model.layers:
        layer.mixer.heads.q.weight.zero_()
    found = combine_batches([batch_sums(model, torch.zeros(1, T, dtype=torch.long), None, 4)], sinks=False)
    assert found.mean("entropy") == pytest.approx(sum(math.log(t + 1) for t in range(T)) / T)
    assert found.mean("distance") == pytest.approx((T - 1) / 4)
    assert found.mean("first_token_mass") == pytest.approx(sum(1 / (t + 1) for t in range(T)) / T)
    assert found.mean("beyond_window_mass") == pytest.approx(sum(max(0, t - 3) / (t + 1) for t in range(T)) / T)


def test_a_map_of_a_long_text_keeps_its_peaks() -> None:
    model = model_of("gemma2")
    found = maps(model, torch.zeros(1, 600, dtype=torch.long), None, [1], [0])
    assert np.shape(found[1, 0]) == (256, 256)
    assert found[1, 0][0][0] == 1, "the first query has one key only"


def test_pictures_stand_beside_each_other(trained: Trained, lab: Lab, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    runs = [trained.copy(run, root).path for run in (trained.bytes, trained.bpe)]
    out = tmp_path / "pictures"
    ask = ("eval", *runs, "attention_maps", "text=The square of 12 is 144.", "--root", root)
    done = lab(*ask, "--out", out)
    assert done.code == 0, done
    assert sorted(path.name for path in out.iterdir()) == ["maps.png", "statistics.png"]
    single = [Image.open(run / "evaluations/attention_maps/maps.png").convert("RGB") for run in runs]
    both = Image.open(out / "maps.png").convert("RGB")
    assert both.width == sum(image.width for image in single)
    left, right = (image.crop((0, 0, image.width, single[0].height)) for image in single)
    bottom = both.height
    assert both.crop((0, bottom - left.height, left.width, bottom)).tobytes() == left.tobytes()
    assert both.crop((left.width, bottom - right.height, both.width, bottom)).tobytes() == right.tobytes()
    refused = lab(*ask, "--out", out)
    assert (refused.code, "exists and isn't empty" in refused.err) == (2, True)
    result = json.loads((runs[0] / "evaluations/attention_maps.json").read_text())
    assert result["images"] == ["evaluations/attention_maps/maps.png", "evaluations/attention_maps/statistics.png"]
    content = (runs[0] / "evaluations/attention_maps/maps.png").read_bytes()
    assert lab(*ask).code == 0
    assert (runs[0] / "evaluations/attention_maps/maps.png").read_bytes() == content, "the same numbers, the same bytes"


def test_each_cell_of_a_picture_is_drawn_in_its_place() -> None:
    dark, bright = [[0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]
    image = np.asarray(Image.open(io.BytesIO(pictures.maps({(0, 0): dark, (0, 1): bright}, 2))).convert("L"))
    height, width = image.shape
    assert image[height // 2, int(width * 0.35)] < 40
    assert image[height // 2, int(width * 0.8)] > 200


def test_held_out_windows_give_the_same_however_they_are_cut(trained: Trained) -> None:
    one, two = (
        evaluate(
            trained.bytes, parse_request("attention_maps", ["texts=3", "context=24", f"batch={batch}"])
        ).record.as_json()
        for batch in (1, 3)
    )
    assert one["metrics"] == pytest.approx(two["metrics"], rel=1e-5)
    assert list(one["metrics"]) == ["entropy", "first_token_mass", "distance", "beyond_window_mass"]
    assert one["metrics"]["beyond_window_mass"] == 0, "a window of 32 hides nothing of 24 tokens"
    assert one["details"]["window"] == 32


def test_what_cannot_be_asked_is_refused(trained: Trained, lab: Lab, tmp_path: Path) -> None:
    brief = ("train.tokens=128", "schedule.warmup_tokens=0")
    state = train(tmp_path / "runs", *files(trained.text), *brief, "model/mixer=linear")
    for run, options, message in [
        (state, [], "layers: no layer of the model attends: mixer=linear"),
        (trained.bytes, ["layers=[0,2]"], "layers: 2 is not among the layers that attend: [0, 1]"),
        (trained.bytes, ["heads=[4]"], "heads: 4 is not among the 4 heads"),
        (trained.bytes, ["heads=[]"], "heads: must name at least one"),
        (trained.bytes, ["text=some", "texts=3"], "texts: has no effect with a text of your own"),
        (trained.bytes, ["text=''"], "text: holds no token"),
    ]:
        done = lab("eval", run.path, "attention_maps", *options, "--as", "no", "--root", run.path.parents[2])
        assert (done.code, message in done.err, len(done.err.strip().splitlines())) == (2, True, 1), done
        assert not (run.path / "evaluations" / "no.json").exists()
