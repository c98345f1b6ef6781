"""Norms of queries and keys against published code and their formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.olmo2.configuration_olmo2 import Olmo2Config
from transformers.models.olmo2.modeling_olmo2 import Olmo2Attention, Olmo2RMSNorm, Olmo2RotaryEmbedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from components import registry
from components.attention.heads import GQA
from components.attention.mixer import Attention
from components.attention.qk_norm import QKFullRMSNorm, QKL2Norm, QKLayerNorm, QKNorm, QKRMSNorm
from components.attention.spec import AttentionSpec
from components.forward_context import ForwardContext
from components.fused.piece import naive
from components.initialization import NormalInit, initialize
from components.position.positions import RoPE
from components.registry import OptionError

HEADS = GQA(n_heads=4, n_kv_heads=2, head_dim=8)


def noise(*shape: int, seed: int = 0, std: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * std


def attention(qk_norm: QKNorm) -> Attention:
    layer = Attention(24, HEADS, qk_norm, RoPE(), AttentionSpec(scale=HEADS.scale))
    initialize(layer, 0, NormalInit(std=0.4), 1)
    return layer


def context(length: int) -> ForwardContext:
    return ForwardContext({(RoPE(), 8): RoPE().rotation(8, torch.arange(length))}, {}, None, "reference")


@pytest.mark.parametrize(("zero_centered", "published"), [(False, Qwen3RMSNorm), (True, Gemma3RMSNorm)])
def test_rmsnorm_is_the_published_norm_of_each_head(zero_centered: bool, published: type[nn.Module]) -> None:
    theirs, ours = published(8, eps=1e-3), QKRMSNorm(eps=1e-3, zero_centered=zero_centered).build(4, 8)
    for norm in (theirs, ours):
        nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
    x = noise(2, 4, 5, 8)
    torch.testing.assert_close(ours(x), theirs(x))
    with naive():
        assert torch.equal(ours(x), theirs(x))


def test_the_full_norm_acts_on_the_flat_projection_with_its_weight_in_that_order() -> None:
    theirs, ours = Olmo2RMSNorm(32, eps=1e-3), QKFullRMSNorm(eps=1e-3).build(4, 8)
    with torch.no_grad():
        theirs.weight.copy_(noise(32, seed=1))
    ours.load_state_dict(theirs.state_dict())
    flat = noise(2, 5, 32)
    expected = theirs(flat).view(2, 5, 4, 8).transpose(1, 2)
    with naive():
        assert torch.equal(ours(flat.view(2, 5, 4, 8).transpose(1, 2)), expected)
    torch.testing.assert_close(ours(flat.view(2, 5, 4, 8).transpose(1, 2)), expected)  # fused on a CPU


def test_attention_with_the_full_norm_is_olmo2s() -> None:
    config = Olmo2Config(
        hidden_size=24, num_attention_heads=4, num_key_value_heads=2, head_dim=8, attn_implementation="eager"
    )
    theirs = Olmo2Attention(config, layer_idx=0)
    generator = torch.Generator().manual_seed(2)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.4, generator=generator)
    ours = attention(QKFullRMSNorm(eps=config.rms_norm_eps))
    renamed = {
        name.replace("_proj", "") if "_proj" in name else name: value for name, value in theirs.state_dict().items()
    }
    ours.heads.load_state_dict(renamed)
    x = noise(2, 9, 24)
    mask = torch.full((9, 9), float("-inf")).triu(1)[None, None]
    tables = Olmo2RotaryEmbedding(config)(x, torch.arange(9)[None])
    expected, _ = theirs(x, tables, mask)
    torch.testing.assert_close(ours(x, context(9)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_layernorm_is_its_formula_on_each_head(bias: bool) -> None:
    norm = QKLayerNorm(eps=1e-3, bias=bias).build(4, 8).double()
    for i, parameter in enumerate(norm.parameters()):
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(i))
    assert len(list(norm.parameters())) == 1 + bias
    x = noise(2, 4, 5, 8).double() + 1
    centred = x - x.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-3).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected + norm.bias if bias else expected)


def test_l2_gives_every_head_the_length_that_it_learned() -> None:
    norm = QKL2Norm().build(4, 8)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 0.5, 3.0]))
    lengths = norm(noise(2, 4, 5, 8, std=7)).norm(dim=-1)
    torch.testing.assert_close(lengths, norm.weight.detach()[None, :, None].expand(2, 4, 5))
    assert torch.equal(norm(torch.zeros(1, 4, 1, 8)), torch.zeros(1, 4, 1, 8))


@pytest.mark.parametrize(("scale", "start"), [(None, 8**0.5), (3.0, 3.0)])
def test_l2_starts_at_its_scale_for_queries_and_keys_and_learns_both(scale: float | None, start: float) -> None:
    layer = attention(QKL2Norm(scale=scale))
    q_norm, k_norm = layer.heads.q_norm, layer.heads.k_norm
    assert (q_norm.weight.shape, k_norm.weight.shape) == ((4,), (2,))
    assert q_norm.weight.tolist() == pytest.approx([start] * 4)
    layer(noise(1, 9, 24), context(9)).square().sum().backward()
    assert (q_norm.weight.grad.abs() > 0).all()
    assert (k_norm.weight.grad.abs() > 0).all()


@pytest.mark.parametrize("name", [name for name in registry.names("qk_norm") if name != "none"])
def test_scores_do_not_grow_with_the_projections(name: str) -> None:
    """What every such norm is for: larger query and key weights leave the output as it is."""
    layer, x = attention(registry.lookup("qk_norm", name)(eps=1e-12)), noise(1, 9, 24)
    before = layer(x, context(9))
    with torch.no_grad():
        layer.heads.q.weight.mul_(50)
        layer.heads.k.weight.mul_(50)
    torch.testing.assert_close(layer(x, context(9)), before, rtol=1e-4, atol=1e-5)


def test_impossible_options_are_refused_by_name() -> None:
    for name in ("rmsnorm", "rmsnorm_full", "l2", "layernorm"):
        with pytest.raises(OptionError, match="eps: must be positive"):
            registry.lookup("qk_norm", name)(eps=0.0)
    with pytest.raises(OptionError, match="scale: must be positive"):
        QKL2Norm(scale=-1.0)
