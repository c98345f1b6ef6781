"""Value residual: later layers mix the first layer's values into their own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from components.attention.heads import GQA, MHA
from components.attention.kernels import attend
from components.attention.spec import AttentionInputs
from components.decoder import Decoder
from components.mixers.linear import LinearMixer
from components.registry import OptionError
from tests.components.architectures import gemma2

HEADS = GQA(n_heads=4, n_kv_heads=2, head_dim=8, value_residual=True)
TOKENS = torch.randint(0, 61, (2, 12), generator=torch.Generator().manual_seed(3))


def model(mix: float | None = None, **changes: object) -> Decoder:
    built = Decoder.initialized(gemma2(**{"heads": HEADS, **changes}), seed=0)
    if mix is not None:
        with torch.no_grad():
            for layer in built.layers[1:]:
                layer.mixer.value_mix.fill_(mix)
    return built


def test_every_layer_but_the_first_learns_its_share_from_a_half() -> None:
    shares = {name: value for name, value in model().named_parameters() if name.endswith("value_mix")}
    assert list(shares) == [f"layers.{i}.mixer.value_mix" for i in (1, 2, 3)]
    assert all(torch.equal(value, torch.full((1,), 0.5)) for value in shares.values())


@pytest.mark.parametrize("mix", [0.5, 0.2, 1.3])
def test_a_layer_attends_to_its_share_of_its_own_values_and_the_rest_of_the_firsts(mix: float) -> None:
    """Layer by layer with plain tensors: v = λ · v + (1 - λ) · v_first, before attention."""
    decoder = model(mix)
    calls: list[tuple[Tensor, Tensor]] = []
    frames = []
    for layer in decoder.layers:
        layer.mixer.register_forward_hook(lambda _, inputs, output: calls.append((inputs[0], output)))
        layer.mixer.register_forward_pre_hook(lambda _, inputs: frames.append(inputs[1]))
    with torch.no_grad():
        decoder(TOKENS)
        first = None
        for layer, (x, output) in zip(decoder.layers, calls, strict=True):
            attention = layer.mixer
            q, k, v = attention.heads.qkv(x, frames[0].rotations[attention.position, 8])
            first = v if first is None else first
            mixed = v if layer is decoder.layers[0] else mix * v + (1 - mix) * first
            expected = attention.heads.output(attend(attention.spec, AttentionInputs(q, k, mixed)))
            torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


def test_a_share_of_one_is_a_plain_model() -> None:
    plain = Decoder.initialized(gemma2(heads=HEADS.replace(value_residual=False)), seed=0)
    with torch.no_grad():
        torch.testing.assert_close(model(1.0)(TOKENS), plain(TOKENS))
        assert not torch.allclose(model()(TOKENS), plain(TOKENS), atol=1e-2)


def test_a_share_of_none_leaves_later_value_projections_unused() -> None:
    decoder = model(0.0)
    decoder(TOKENS).square().sum().backward()
    used = [float(layer.mixer.heads.v.weight.grad.abs().max()) for layer in decoder.layers]
    assert used[0] > 0
    assert used[1:] == [0, 0, 0]


def test_nothing_of_one_pass_is_left_for_the_next() -> None:
    decoder = model()
    with torch.no_grad():
        before = decoder(TOKENS)
        decoder(TOKENS.flip(1)[:1])
        assert torch.equal(decoder(TOKENS), before)
    assert set(dict(decoder.named_buffers())) == set()


def test_the_first_layer_that_attends_is_the_source() -> None:
    mixed = model(pattern=("linear", "local"), kinds={"linear": {"mixer": LinearMixer()}})
    assert [getattr(layer.mixer, "values", None) for layer in mixed.layers] == [None, "first", None, "mixed"]
    assert mixed(TOKENS).isfinite().all()


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"kinds": {"global": {"heads": MHA(n_heads=4, head_dim=8, value_residual=True)}}}, "kinds.global.heads"),
        ({"kinds": {"global": {"heads": HEADS.replace(head_dim=6)}}}, "kinds.global.heads"),
        ({"n_layers": 1, "pattern": ("local",)}, "heads"),
    ],
)
def test_values_that_cannot_be_mixed_are_refused_by_name(changes: dict[str, object], option: str) -> None:
    with pytest.raises(OptionError) as refusal:
        gemma2(**{"heads": HEADS, **changes})
    assert refusal.value.option == f"{option}.value_residual"
