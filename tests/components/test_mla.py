"""Latent attention: the same output and gradients as the transformers library's DeepSeek-V2 and V3, and its costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import DeepseekV2Config, DeepseekV3Config
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Attention, DeepseekV2RotaryEmbedding
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention, DeepseekV3RotaryEmbedding

from components.attention.heads import GQA
from components.attention.mixer import Attention
from components.attention.mla import MLA
from components.attention.qk_norm import NoQKNorm, QKRMSNorm
from components.attention.span import GlobalSpan, LocalSpan
from components.attention.spec import AttentionSpec
from components.decoder import Decoder
from components.forward_context import ForwardContext
from components.position.positions import RoPE
from components.registry import OptionError
from lab.accounting.costs import costs
from tests.components.architectures import gemma2

HEADS = MLA(n_heads=4, head_dim=8, rope_dim=6, value_dim=10, kv_rank=12)
NAMES = {
    "q": "q_proj",
    "q_down": "q_a_proj",
    "q_down_norm": "q_a_layernorm",
    "q_up": "q_b_proj",
    "kv_down": "kv_a_proj_with_mqa",
    "kv_down_norm": "kv_a_layernorm",
    "kv_up": "kv_b_proj",
    "o": "o_proj",
}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def published(config_class: Any, attention_class: Any, q_rank: int | None) -> Any:
    config = config_class(
        hidden_size=24, num_attention_heads=4, num_key_value_heads=4, qk_nope_head_dim=8, qk_rope_head_dim=6,
        v_head_dim=10, kv_lora_rank=12, q_lora_rank=q_rank, attn_implementation="eager",
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    )  # fmt: skip
    layer = attention_class(config, layer_idx=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return layer


@pytest.mark.parametrize("kernel", ["auto", "reference", "blockwise", "sdpa", "native"])
@pytest.mark.parametrize("q_rank", [None, 7])
@pytest.mark.parametrize(
    ("config_class", "attention_class", "rotary_class"),
    [
        (DeepseekV2Config, DeepseekV2Attention, DeepseekV2RotaryEmbedding),
        (DeepseekV3Config, DeepseekV3Attention, DeepseekV3RotaryEmbedding),
    ],
)
def test_latent_attention_is_deepseeks(
    config_class: Any, attention_class: Any, rotary_class: Any, q_rank: int | None, kernel: str
) -> None:
    theirs = published(config_class, attention_class, q_rank)
    heads, position = replace(HEADS, q_rank=q_rank), RoPE(theta=500.0, pairing="interleaved")
    ours = Attention(24, heads, NoQKNorm(), position, AttentionSpec(scale=heads.scale))
    state = theirs.state_dict()
    ours.heads.load_state_dict({name: state[f"{NAMES[name.split('.')[0]]}.weight"] for name in ours.heads.state_dict()})
    x, T = noise(2, 11, 24).requires_grad_(), 11
    mask = torch.full((T, T), float("-inf")).triu(1)[None, None]
    tables = rotary_class(theirs.config)(x, torch.arange(T)[None])
    expected, _ = theirs(x, attention_mask=mask, position_embeddings=tables)
    found = ours(x, ForwardContext({(position, 6): position.rotation(6, torch.arange(T))}, {}, None, kernel))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    weights = noise(2, 11, 24, seed=3)
    wanted = torch.autograd.grad(
        (expected * weights).sum(), [x, theirs.kv_b_proj.weight, theirs.kv_a_proj_with_mqa.weight]
    )
    got = torch.autograd.grad((found * weights).sum(), [x, ours.heads.kv_up.weight, ours.heads.kv_down.weight])
    for ours_, theirs_ in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours_, theirs_, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("q_rank", [None, 7])
def test_flops_equal_torchs_count(q_rank: int | None) -> None:
    model = gemma2(span=GlobalSpan(), heads=replace(HEADS, q_rank=q_rank))
    decoder = Decoder.initialized(model, seed=0, kernel="reference")
    with FlopCounterMode(display=False) as counter:
        decoder(torch.zeros(5, 1, dtype=torch.long))
    assert costs(model, 1).forward_flops_per_token * 5 == counter.get_total_flops()


def test_attention_flops_count_long_keys_and_short_values() -> None:
    one, many = (costs(gemma2(span=GlobalSpan(), heads=HEADS), context).forward_flops_per_token for context in (1, 40))
    assert many - one == pytest.approx(4 * 2 * 4 * (14 + 10) * (41 / 2 - 1))


def test_the_cache_holds_the_latent_and_the_shared_key_alone() -> None:
    full = costs(gemma2(span=GlobalSpan(), heads=HEADS), 40).kv_bytes_per_token
    assert full == 2 * 4 * (12 + 6)
    assert costs(gemma2(span=LocalSpan(window=10), heads=HEADS), 40).kv_bytes_per_token == full / 4


def test_scores_are_scaled_by_the_whole_key_unless_told_otherwise() -> None:
    assert HEADS.scale == pytest.approx(14**-0.5)
    assert replace(HEADS, query_pre_attn_scalar=9.0).scale == pytest.approx(1 / 3)


def test_only_the_rotary_part_of_a_key_knows_its_position() -> None:
    layer = Attention(24, HEADS, NoQKNorm(), RoPE(), AttentionSpec(scale=1.0))
    for parameter in layer.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(2))
    x = noise(1, 1, 24).expand(1, 5, 24)
    q, k, v = layer.heads.qkv(x, RoPE().rotation(6, torch.arange(5)))
    for turned in (q, k):
        torch.testing.assert_close(turned[:, :, :1, :8].expand(1, 4, 5, 8), turned[..., :8])
        assert (turned[:, :, 1:, 8:] - turned[:, :, :-1, 8:]).abs().amax(-1).min() > 1e-2
    assert torch.equal(k[:, :1, :, 8:].expand(1, 4, 5, 6), k[..., 8:])
    assert v.shape == (1, 4, 5, 10)


@pytest.mark.parametrize(
    ("build", "option"),
    [
        (lambda: replace(HEADS, kv_rank=0), "kv_rank"),
        (lambda: replace(HEADS, q_rank=0), "q_rank"),
        (lambda: replace(HEADS, rope_dim=0), "rope_dim"),
        (lambda: replace(HEADS, query_pre_attn_scalar=-1.0), "query_pre_attn_scalar"),
        (lambda: gemma2(heads=replace(HEADS, rope_dim=5)), "position.fraction"),
        (lambda: gemma2(heads=HEADS, qk_norm=QKRMSNorm()), "qk_norm"),
        (lambda: gemma2(heads=HEADS, kinds={"local": {"qk_norm": QKRMSNorm()}}), "kinds.local.qk_norm"),
    ],
)
def test_impossible_options_are_refused_by_name(build: Any, option: str) -> None:
    with pytest.raises(OptionError) as refusal:
        build()
    assert refusal.value.option == option


def test_one_layer_kind_may_have_latent_heads_beside_plain_ones() -> None:
    model = gemma2(kinds={"global": {"heads": HEADS}})
    assert [type(layer.mixer.heads) for layer in model.layers] == [GQA, MLA, GQA, MLA]
    assert Decoder.initialized(model, seed=0)(torch.zeros(2, 9, dtype=torch.long)).isfinite().all()
