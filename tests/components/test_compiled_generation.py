"""A compiled step of generation: the same logits, one compilation for all positions, and what happens if it fails."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from components.decoder import Decoder
from components.generation import CachedForward, FullForward, PreparedForward, Sampling, generate_batch, prepared
from components.generation.prepared import decide
from components.registry import OptionError
from tests.components.architectures import gemma2
from tests.components.test_cache import SHAPES, model_of, prompts
from tests.components.test_prepared_generation import assert_same, steps_of

TWO_LAYERS = Decoder.initialized(gemma2(n_layers=2), seed=0).eval().requires_grad_(False)


def static_steps(model: Decoder, texts: list[list[int]], steps: int, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The logits of what is compiled, computed without a compiler."""
    with monkeypatch.context() as patched:
        patched.setattr(torch, "compile", lambda function, **options: function)
        return steps_of(PreparedForward(model, "on"), texts, steps)


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "experts"])
@pytest.mark.parametrize("lengths", [(3,), (1, 9, 4, 12)])
def test_every_static_step_is_the_uncached_forward(
    name: str, lengths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, texts = model_of(name), prompts(*lengths)
    assert_same(static_steps(model, texts, 8, monkeypatch), steps_of(FullForward(model), texts), 1e-9)


@pytest.mark.parametrize("name", ["gemma 2", "alibi", "latent"])
def test_static_steps_pass_the_ends_of_buckets(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.generation.step.BUCKET", 4)
    model, texts = model_of(name), prompts(2, 6)
    assert_same(static_steps(model, texts, 13, monkeypatch), steps_of(CachedForward(model), texts, 13), 1e-9)


@pytest.mark.slow
def test_one_compilation_serves_all_positions_and_later_generations() -> None:
    """And one more where a cache is used to its last slot."""
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    counters.clear()
    for length, steps in ((3, 150), (70, 150), (5, 200)):
        texts = prompts(length)
        forward = PreparedForward(TWO_LAYERS, "on")
        assert_same(steps_of(forward, texts, steps), steps_of(CachedForward(TWO_LAYERS), texts, steps), 2e-5)
        assert str(forward.decision) == "on: asked for"
    assert counters["stats"]["unique_graphs"] <= 2


def test_auto_compiles_where_the_tokens_repay_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not decide(TWO_LAYERS, "auto", 10**9).is_on, "measured: nothing is saved on a CPU"
    monkeypatch.setattr(prepared, "COMPILE_SECONDS", 2.0)
    monkeypatch.setattr(prepared, "COMPILE_SECONDS_A_LAYER", 1.0)
    monkeypatch.setattr(prepared, "SAVED_SECONDS_A_LAYER", {"cpu": 0.25})
    assert str(decide(TWO_LAYERS, "auto", 8)) == "on: 8 tokens save about 4 s, and it takes 4 s"
    assert str(decide(TWO_LAYERS, "auto", 7)) == "off: 7 tokens save about 4 s of the 4 s that it takes"
    monkeypatch.setattr(prepared, "SAVED_SECONDS_A_LAYER", {})
    assert str(decide(TWO_LAYERS, "auto", 8)) == "off: not measured on cpu; compile=on compiles"
    assert str(decide(TWO_LAYERS, "off", 8)) == "off: asked for"


@pytest.fixture
def repaid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every token repays compilation."""
    monkeypatch.setattr(prepared, "SAVED_SECONDS_A_LAYER", {"cpu": 100.0})


@pytest.mark.usefixtures("repaid")
def test_without_a_compiler_auto_generates_and_on_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "compiler_obstacle", lambda device: "no C++ compiler was found")
    assert str(decide(TWO_LAYERS, "auto", 10**9)) == "off: no C++ compiler was found"
    with pytest.raises(OptionError, match="compile: on is not possible here: no C"):
        decide(TWO_LAYERS, "on", 5)
    with pytest.raises(OptionError, match="compile: on is not possible here: no C"):
        generate_batch(TWO_LAYERS, [[1]], 3, Sampling(), compile="on")


@pytest.mark.usefixtures("repaid")
def test_a_layer_without_a_form_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.attention.mixer.Attention.prepared", lambda self, preparation: None)
    texts = prompts(4)
    with pytest.raises(OptionError, match="layer 0: Attention has no form for it; auto or off would generate"):
        steps_of(PreparedForward(TWO_LAYERS, "on"), texts, 2)
    forward = PreparedForward(TWO_LAYERS, "auto")
    with pytest.warns(RuntimeWarning, match="generation is not compiled: layer 0: Attention has no form for it"):
        ours = steps_of(forward, texts)
    assert_same(ours, steps_of(FullForward(TWO_LAYERS), texts), 2e-5)
    assert str(forward.decision) == "off: layer 0: Attention has no form for it"


@pytest.mark.usefixtures("repaid")
def test_a_failed_compilation_changes_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import Unsupported

    def failing(*arguments: object) -> Tensor:
        raise Unsupported("no such operation\nmore")

    monkeypatch.setattr(torch, "compile", lambda function, **options: failing)
    texts = prompts(4)
    with pytest.warns(RuntimeWarning, match="not compiled: torch.compile failed: no such operation$"):
        ours = steps_of(PreparedForward(TWO_LAYERS, "auto"), texts)
    assert_same(ours, steps_of(FullForward(TWO_LAYERS), texts), 2e-5)
    with pytest.raises(OptionError, match=r"compile: on is not possible: torch\.compile failed: no such"):
        steps_of(PreparedForward(TWO_LAYERS, "on"), texts)
