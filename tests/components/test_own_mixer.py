"""A mixer in one file of the user's is a whole citizen: it trains, generates from its cache, and is counted.

So is a model in which no layer attends, whose configuration says nothing of attention.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components.architecture import Architecture
from components.decoder import Decoder
from components.generation import CachedForward, FullForward, PreparedForward, Sampling, generate_batch
from components.registry import OptionError
from lab.accounting.cache import cache_bytes, cache_bytes_by_kind
from lab.accounting.conventions import conventions
from lab.accounting.costs import costs
from lab.accounting.reach import reach
from lab.cli.main import main
from lab.composition import extensions
from lab.composition.compose import compose
from lab.composition.frozen.freeze import load_experiment, to_plain
from lab.dispatch.control.preparation.prepare import prepare
from lab.dispatch.worker.attempt import Stop, execute
from lab.dispatch.worker.worker import train_frozen
from lab.interop.configuration import to_hf_config
from lab.planning.plan.build import plan_train
from lab.refusals import RequestError
from tests.components.receptive_field import measured
from tests.evaluation.conftest import TINY, files, write_text

FIXTURES = Path(__file__).parents[1] / "fixtures"
SIZES = ("model.d_model=24", "model.n_layers=2", "model.mlp.d_ff=40", "model.vocab_size=300")
ATTENTION_FREE = """\
defaults:
  - mixer: linear
  - softcap: none
  - norm: rmsnorm
  - residual: pre
  - mlp: swiglu
  - embedding: untied
  - init: fan_in
  - _self_

vocab_size: null
d_model: 32
n_layers: 3
mixer: {n_heads: 2, head_dim: 8}
mlp: {d_ff: 48}
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a mixer and a model of its own."""
    folder = tmp_path / "work"
    (folder / "experiments" / "model").mkdir(parents=True)
    shutil.copy(FIXTURES / "own_mixer" / "lab_components.py", folder)
    (folder / "experiments" / "model" / "attention_free.yaml").write_text(ATTENTION_FREE)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    yield folder
    monkeypatch.chdir(tmp_path)
    extensions.load()  # forgets the file


def architecture(*overrides: str) -> Architecture:
    return compose("gemma2_tiny", [*SIZES, *overrides]).experiment.model


MODELS: dict[str, tuple[str, ...]] = {
    "own mixer": ("model/mixer=leaky_conv",),
    "own mixer, convolution alone": ("model/mixer=leaky_conv", "model.mixer.remembers=false", "model.mixer.width=3"),
    "own mixer beside attention": ("model.n_layers=3", "model.pattern=[local,leaky_conv,global]"),
    "linear by its pattern": ("model.pattern=[linear]",),
    "nothing said of attention": ("model=attention_free",),
}


def logits(forward: CachedForward | FullForward, texts: list[list[int]], steps: int) -> list[torch.Tensor]:
    added = torch.randint(0, 256, (steps, len(texts)), generator=torch.Generator().manual_seed(3))
    return [forward.begin(texts, steps), *(forward.extend(tokens) for tokens in added)]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("texts", [[[5, 9, 2]], [[7], [1, 2, 3, 4, 5, 6, 7, 8, 9], [8, 8]]])
def test_a_cached_step_is_the_whole_forward(name: str, texts: list[list[int]]) -> None:
    model = Decoder.initialized(architecture(*MODELS[name]), seed=0).double().eval().requires_grad_(False)
    cached, full = logits(CachedForward(model), texts, 9), logits(FullForward(model), texts, 9)
    for ours, theirs in zip(cached, full, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    prepared = logits(PreparedForward(model), texts, 9)
    for ours, theirs in zip(prepared, full, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    kept, anew = (list(generate_batch(model, texts, 20, Sampling(seed=2), cached=cached)) for cached in (True, False))
    assert kept == anew


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_its_cache_is_as_large_as_accounting_says(name: str, dtype: torch.dtype) -> None:
    described = architecture(*MODELS[name])
    cache = Decoder(described).to(dtype).new_cache(20, [0, 0, 0])
    assert cache.bytes == cache_bytes(described, 3, 20, dtype)
    assert cache.bytes == sum(cache_bytes_by_kind(described, 3, 20, dtype).values())


def test_what_it_keeps_are_tensors_by_name_each_in_its_own_dtype() -> None:
    cache = Decoder(architecture("model/mixer=leaky_conv")).to(torch.bfloat16).new_cache(20, [0])
    kept = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in cache.layers[0].tensors.items()}
    assert kept == {"inputs": ((1, 3, 24), torch.bfloat16), "sum": ((1, 24), torch.float64)}


def test_it_is_counted_in_parameters_flops_and_bytes() -> None:
    described = architecture("model/mixer=leaky_conv")
    counted = costs(described, 64)
    assert counted.parameters == sum(parameter.numel() for parameter in Decoder(described).parameters())
    others = 2 * 3 * 24 * 40 + 300 * 24
    assert counted.forward_flops_per_token == 2 * others + 2 * (2 * 24 * 24 + 2 * 4 * 24)
    assert costs(described, 640).forward_flops_per_token == counted.forward_flops_per_token
    assert counted.kv_bytes_per_token * 64 == 2 * 2 * (3 * 24 + 24)
    assert conventions(described, 64)["square"] == conventions(described, 64)["visible"] == counted.flops_per_token


def test_its_reach_is_counted_and_true() -> None:
    assert reach(architecture("model/mixer=leaky_conv")) is None
    described = architecture(*MODELS["own mixer, convolution alone"])
    assert reach(described) == 2 * (3 - 1) + 1
    heard = measured(described, 9)
    assert [int(row.sum()) for row in heard] == [1, 2, 3, 4, 5, 5, 5, 5, 5]
    beside = architecture("model.n_layers=2", "model.pattern=[local,leaky_conv]", "model.span.window=4",
                          "model.kinds.leaky_conv.mixer.remembers=false")  # fmt: skip
    assert reach(beside) == (4 - 1) + (4 - 1) + 1


def test_an_own_mixer_keeps_documents_apart() -> None:
    model = Decoder.initialized(architecture("model/mixer=leaky_conv"), seed=0).double()
    tokens = torch.randint(0, 256, (1, 12), generator=torch.Generator().manual_seed(3))
    documents = torch.tensor([[0] * 5 + [1] * 7])
    with torch.no_grad():
        packed = model(tokens, documents)
        torch.testing.assert_close(packed[:, 5:], model(tokens[:, 5:]))
        assert not torch.allclose(model(tokens)[:, 5:], packed[:, 5:], atol=1e-3)


@pytest.mark.parametrize("name", ["own mixer", "nothing said of attention"])
def test_it_trains_and_generates_as_a_run_like_any_other(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = write_text(tmp_path / "text.jsonl", "{n} and {square} ")
    sizes = [each for each in TINY if "heads" not in each]
    (planned,) = plan_train("gemma2_tiny", (*sizes, *files(text), *MODELS[name])).runs
    run = prepare([planned], tmp_path / "runs").order[0]
    assert execute(run, train_frozen, stop=Stop(), capture=False) == 0, (run.path / "log.txt").read_text()
    root = ("--root", str(tmp_path / "runs"))
    monkeypatch.setattr(sys, "argv", ["lab", "generate", str(run.path), "1 and", "--max-tokens", "4", *root])
    main()
    monkeypatch.setattr(sys, "argv", ["lab", "export", str(run.path), "exported", *root])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "mixer = " in capsys.readouterr().err


def test_a_model_that_says_nothing_of_attention_is_frozen_and_read_again() -> None:
    experiment = compose("gemma2_tiny", ["model=attention_free"]).experiment
    plain = to_plain(experiment)
    assert [plain["model"][slot] for slot in ("heads", "qk_norm", "span", "position")] == [None] * 4
    assert plain["model"]["pattern"] == ["linear"]
    assert load_experiment(json.loads(json.dumps(plain))) == experiment
    assert all(layer.attention is None for layer in experiment.model.layers)
    with pytest.raises(RequestError, match="mixer = linear"):
        to_hf_config(experiment.model)


def test_a_layer_that_attends_needs_what_attention_is_made_of() -> None:
    with pytest.raises(RequestError, match=r"model\.heads: is missing: layers that attend need one of mha, gqa"):
        compose("gemma2_tiny", ["model=attention_free", "model/mixer=attention", "model.mixer={}"])
    described = compose("gemma2_tiny", ["model=attention_free"]).experiment.model
    with pytest.raises(OptionError, match=r"mixer.n_heads: must be given"):
        replace(described, mixer=described.mixer.replace(n_heads=None))


@pytest.mark.parametrize(
    "asked",
    ["model.span.window=16", "model/position=alibi", "model/qk_norm=rmsnorm", "model.softcap.attention=9",
     "model/heads=mha", "model.heads.n_heads=8"],
)  # fmt: skip
def test_options_of_attention_are_refused_where_no_layer_attends(asked: str) -> None:
    with pytest.raises(RequestError, match=r"no layer is attention \(the mixer is leaky_conv\)"):
        compose("gemma2_tiny", ["model.pattern=[leaky_conv]", asked])


def test_a_linear_model_reads_two_sizes_of_the_heads_and_refuses_the_rest() -> None:
    model = compose("gemma2_tiny", ["model.pattern=[linear]", "model.heads.head_dim=16"]).experiment.model
    assert model.layers[0].mixer.replace(chunk=64) == model.kinds["linear"]["mixer"].replace(n_heads=4, head_dim=16)
    for asked, read in [
        ("model.heads.bias=true", ()),
        ("model.heads.n_heads=2", ("model.kinds.linear.mixer.n_heads=2",)),
    ]:
        with pytest.raises(RequestError, match=r"model\.heads.*: has no effect: no layer is attention"):
            compose("gemma2_tiny", ["model.pattern=[linear]", asked, *read])
