"""Attention sinks: a learned logit a head in the softmax, against gpt-oss and a naive loop."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gpt_oss.configuration_gpt_oss import GptOssConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssAttention

from components.attention import kernels
from components.attention.heads import GQA
from components.attention.kernels import KernelRefused
from components.attention.mixer import Attention
from components.attention.qk_norm import NoQKNorm
from components.attention.spec import AttentionSpec
from components.decoder import Decoder
from components.forward_context import ForwardContext
from components.position.positions import RoPE
from components.softcap import NoSoftcap
from lab.composition.compose import compose
from lab.refusals import RequestError
from tests.components.architectures import gemma2

HEADS = GQA(n_heads=4, n_kv_heads=2, head_dim=8, sinks=True, bias=True, output_bias=True)
KERNELS = ["auto", "reference", "blockwise", "native"]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def attention(window: int | None) -> Attention:
    layer = Attention(24, HEADS, NoQKNorm(), RoPE(), AttentionSpec(scale=HEADS.scale, window=window))
    generator = torch.Generator().manual_seed(1)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return layer


def test_sinks_start_at_zero_one_a_head_beside_the_projections() -> None:
    model = Decoder.initialized(gemma2(heads=HEADS, softcap=NoSoftcap()), seed=0)
    assert torch.equal(model.get_parameter("layers.2.mixer.sinks"), torch.zeros(4))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("window", [None, 5])
def test_attention_with_sinks_is_gpt_oss(kernel: str, window: int | None) -> None:
    config = GptOssConfig(
        hidden_size=24, num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_hidden_layers=1,
        attention_bias=True, attn_implementation="eager",
    )  # fmt: skip
    ours, theirs = attention(window), GptOssAttention(config, layer_idx=0)
    state = {name.replace("heads.", ""): value for name, value in ours.state_dict().items()}
    theirs.load_state_dict(
        {name if name == "sinks" else f"{name[0]}_proj{name[1:]}": value for name, value in state.items()}
    )
    x, T = noise(2, 12, 24), 12
    rotation = RoPE().rotation(8, torch.arange(T))
    seen = torch.ones(T, T).tril() - torch.ones(T, T).tril(-(window or T))
    mask = torch.zeros(T, T).masked_fill(seen == 0, float("-inf"))[None, None]
    expected, _ = theirs(x, (rotation.cos[None], rotation.sin[None]), mask)
    found = ours(x, ForwardContext({(RoPE(), 8): rotation}, {}, None, kernel))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    gradients = [
        torch.autograd.grad(out.square().sum(), layer.sinks)[0] for out, layer in ((found, ours), (expected, theirs))
    ]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)
    assert gradients[0].abs().min() > 0


def test_one_key_and_a_sink_share_the_softmax() -> None:
    """The first token sees itself alone: its value comes out times e^s / (e^s + e^sink)."""
    layer = attention(None)
    x = noise(1, 1, 24)
    q, k, v = layer.heads.qkv(x, None)
    score = (q * k.repeat_interleave(2, 1)).sum(-1).flatten() / math.sqrt(8)
    share = torch.sigmoid(score - layer.sinks)
    expected = layer.heads.output(share[None, :, None, None] * v.repeat_interleave(2, 1))
    torch.testing.assert_close(layer(x, ForwardContext({}, {}, None, "auto")), expected)


def test_sinks_at_minus_infinity_are_none() -> None:
    with_sinks = Decoder.initialized(gemma2(heads=HEADS), seed=0)
    without = Decoder.initialized(gemma2(heads=HEADS.replace(sinks=False)), seed=0)
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        assert not torch.allclose(with_sinks(tokens), without(tokens), atol=1e-3)
        for layer in with_sinks.layers:
            layer.mixer.sinks.fill_(-1e4)
        torch.testing.assert_close(with_sinks(tokens), without(tokens), rtol=1e-5, atol=1e-6)


def kernels_used(model: Decoder) -> set[str]:
    return {choice.kernel for choice in model.kernel_choices(2, 16).values()}


def test_a_kernel_without_sinks_is_never_used_and_refused_by_name() -> None:
    model = gemma2(heads=HEADS, softcap=NoSoftcap())
    assert "sdpa" not in kernels_used(Decoder(model).double())
    assert kernels_used(Decoder(gemma2(softcap=NoSoftcap())).double()) == {"sdpa"}
    with pytest.raises(KernelRefused, match="sinks"):
        Decoder(model, kernel="sdpa").kernel_choices(2, 16)
    assert kernels.lookup("sdpa").spec_refusal(model.layers[0].mixer.spec, sinks=True, device="cpu") is not None


def test_a_configuration_with_sinks_refuses_such_a_kernel_before_it_runs() -> None:
    with pytest.raises(RequestError, match="sdpa refuses the local layers: sinks"):
        compose("gemma2_tiny", ["model/softcap=none", "model.heads.sinks=true", "train.kernel=sdpa"])
