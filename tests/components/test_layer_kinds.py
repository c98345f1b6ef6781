"""Which layers see how far: patterns, windows and positions by layer kind."""

from __future__ import annotations

import torch

from components.attention.span import GlobalSpan, InterleavedSpan, LocalSpan
from components.decoder import Decoder
from components.position.positions import NoPosition, RoPE
from tests.components.architectures import gemma2


def windows(**changes: object) -> list[int | None]:
    return [layer.mixer.window for layer in gemma2(**changes).layers]


def reached(model: Decoder, length: int) -> int:
    """How many tokens, itself included, the last one hears of."""
    x = torch.zeros(1, length, dtype=torch.long)
    embedded = model.embedding(x).detach().requires_grad_()
    model.embedding.forward = lambda _: embedded  # type: ignore[method-assign]
    (gradient,) = torch.autograd.grad(model.hidden(x)[0, -1].sum(), embedded)
    return int((gradient[0].abs().amax(-1) > 0).sum())


def test_five_local_layers_to_one_global_as_gemma_3() -> None:
    pattern = ("local",) * 5 + ("global",)
    assert windows(n_layers=14, pattern=pattern) == [5, 5, 5, 5, 5, None] * 2 + [5, 5]


def test_global_layers_first_and_last_alone() -> None:
    pattern = ("global", "local", "local", "local", "global")
    assert windows(n_layers=5, pattern=pattern) == [None, 5, 5, 5, None]


def test_each_layer_kind_may_have_its_own_window() -> None:
    kinds = {"wide": {"span": LocalSpan(window=9)}, "all": {"span": GlobalSpan()}}
    changes = {"n_layers": 6, "span": LocalSpan(window=2), "pattern": ("local", "wide", "all"), "kinds": kinds}
    assert windows(**changes) == [2, 9, None] * 2


def test_the_windows_of_a_mixed_pattern_add_up_to_its_reach() -> None:
    kinds = {"wide": {"span": LocalSpan(window=4)}}
    architecture = gemma2(n_layers=3, span=LocalSpan(window=2), pattern=("local", "wide", "local"), kinds=kinds)
    assert reached(Decoder.initialized(architecture, seed=0).double(), 12) == 1 + (1 + 3 + 1)


def test_one_global_layer_hears_of_everything() -> None:
    pattern = ("local",) * 3 + ("global",)
    assert reached(Decoder.initialized(gemma2(pattern=pattern), seed=0).double(), 40) == 40


def test_rotary_local_layers_under_global_ones_without_positions() -> None:
    """SmolLM3's and Llama 4's: only the layers that see everything go without rotation."""
    architecture = gemma2(span=InterleavedSpan(window=5), kinds={"global": {"position": NoPosition()}})
    assert [layer.mixer.position for layer in architecture.layers] == [RoPE(), NoPosition()] * 2
    assert Decoder.initialized(architecture, seed=0)(torch.zeros(1, 9, dtype=torch.long)).isfinite().all()


def test_a_layer_kinds_base_turns_only_its_own_layers() -> None:
    tokens = torch.arange(9)[None]
    base = gemma2(n_layers=2, pattern=("local", "global"))
    other = gemma2(n_layers=2, pattern=("local", "global"), kinds={"global": {"position": RoPE(theta=1e6)}})
    found: list[list[torch.Tensor]] = []
    for architecture in (base, other):
        model, outputs = Decoder.initialized(architecture, seed=0), []
        for layer in model.layers:
            layer.register_forward_hook(lambda _, __, output, outputs=outputs: outputs.append(output))
        with torch.no_grad():
            model(tokens)
        found.append(outputs)
    assert torch.equal(found[0][0], found[1][0])
    assert not torch.allclose(found[0][1], found[1][1], atol=1e-4)
