"""Tiny models of the published architectures, with options chosen to bite: a window of about half the context, unequal
sizes, caps that the scores reach, rotary scalings that act on some of the frequencies, eps that is not negligible.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CONTEXT = 13
VOCAB = 61


@dataclass(frozen=True)
class Case:
    """A tiny model and the published one that it is a model of.

    Attributes:
        model_type: the library's name.
        published: its file in experiments/model.
        options: of the library's configuration.
    """

    model_type: str
    published: str
    options: dict[str, Any]


def _sizes(**changes: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCAB,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    } | changes


def _rope(theta: float = 500.0, rope_type: str = "default", **more: Any) -> dict[str, Any]:
    return {"rope_type": rope_type, "rope_theta": theta, **more}


LLAMA3_ROPE = _rope(
    100.0,
    "llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
YARN_ROPE = _rope(
    150.0, "yarn", factor=16.0, beta_fast=3.0, beta_slow=0.5, truncate=False, original_max_position_embeddings=24
)

CASES = {
    "GPT-2": Case(
        "gpt2",
        "gpt2",
        {
            "vocab_size": VOCAB,
            "n_positions": 20,
            "n_embd": 24,
            "n_layer": 3,
            "n_head": 3,
            "n_inner": 40,
            "layer_norm_epsilon": 1e-2,
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
        },
    ),
    "GPT-NeoX": Case(
        "gpt_neox",
        "gpt_neox",
        {
            "vocab_size": VOCAB,
            "hidden_size": 32,
            "intermediate_size": 40,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "layer_norm_eps": 1e-2,
            "rope_parameters": _rope(partial_rotary_factor=0.25),
        },
    ),
    "Llama 3": Case(
        "llama", "llama3_8b", _sizes(head_dim=8, rms_norm_eps=1e-2, rope_parameters=LLAMA3_ROPE, attention_bias=True)
    ),
    "Mistral": Case(
        "mistral", "mistral_7b", _sizes(head_dim=8, rms_norm_eps=1e-2, sliding_window=6, rope_parameters=_rope())
    ),
    "Mixtral": Case(
        "mixtral",
        "mixtral_8x7b",
        _sizes(
            head_dim=8,
            rms_norm_eps=1e-2,
            sliding_window=6,
            num_local_experts=5,
            num_experts_per_tok=2,
            rope_parameters=_rope(),
        ),
    ),
    "Gemma 1": Case("gemma", "gemma1_2b", _sizes(head_dim=8, rms_norm_eps=1e-2, rope_parameters=_rope())),
    "Gemma 2": Case(
        "gemma2",
        "gemma2_2b",
        _sizes(
            num_hidden_layers=4,
            head_dim=8,
            rms_norm_eps=1e-2,
            sliding_window=6,
            query_pre_attn_scalar=6,
            attn_logit_softcapping=2.0,
            final_logit_softcapping=3.0,
            rope_parameters=_rope(),
        ),
    ),
    "Gemma 3": Case(
        "gemma3_text",
        "gemma3_1b",
        _sizes(
            num_hidden_layers=4,
            head_dim=8,
            rms_norm_eps=1e-2,
            sliding_window=6,
            query_pre_attn_scalar=6,
            layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters={
                "sliding_attention": _rope(50.0),
                "full_attention": _rope(900.0, "linear", factor=4.0),
            },
        ),
    ),
    "Qwen 2": Case(
        "qwen2",
        "qwen2_7b",
        _sizes(
            rms_norm_eps=1e-2,
            use_sliding_window=True,
            sliding_window=6,
            max_window_layers=1,
            tie_word_embeddings=True,
            rope_parameters=_rope(),
        ),
    ),
    "Qwen 3": Case("qwen3", "qwen3_8b", _sizes(head_dim=8, rms_norm_eps=1e-2, rope_parameters=_rope())),
    "OLMo 2": Case("olmo2", "olmo2_7b", _sizes(rms_norm_eps=1e-2, rope_parameters=_rope())),
    "Phi-3": Case(
        "phi3",
        "phi3_mini",
        _sizes(
            hidden_size=32,
            rms_norm_eps=1e-2,
            sliding_window=6,
            rope_parameters=_rope(partial_rotary_factor=0.5),
        ),
    ),
    "StarCoder 2": Case(
        "starcoder2", "starcoder2_7b", _sizes(norm_epsilon=1e-2, sliding_window=6, rope_parameters=_rope())
    ),
    "Falcon": Case(
        "falcon",
        "falcon_7b",
        {
            "vocab_size": VOCAB,
            "hidden_size": 24,
            "ffn_hidden_size": 40,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "layer_norm_epsilon": 1e-2,
            "rope_parameters": _rope(),
        },
    ),
    "Command R": Case(
        "cohere",
        "cohere_command_r",
        _sizes(hidden_size=32, layer_norm_eps=1e-2, logit_scale=0.3, rope_parameters=_rope()),
    ),
    "SmolLM3": Case(
        "smollm3",
        "smollm3_3b",
        _sizes(num_hidden_layers=4, no_rope_layer_interval=3, rms_norm_eps=1e-2, rope_parameters=_rope()),
    ),
    "gpt-oss": Case(
        "gpt_oss",
        "gpt_oss_20b",
        _sizes(
            head_dim=8,
            num_hidden_layers=4,
            rms_norm_eps=1e-2,
            sliding_window=6,
            num_local_experts=5,
            num_experts_per_tok=2,
            rope_parameters=YARN_ROPE,
        ),
    ),
}
"""The seventeen, by the name that docs/parity.md shows."""

VARIANTS = {
    "Falcon 40B": Case(
        "falcon",
        "falcon_7b",
        {
            "vocab_size": VOCAB,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_kv_heads": 2,
            "new_decoder_architecture": True,
        },
    ),
    "Falcon, every head its own keys, one branch after the other": Case(
        "falcon",
        "falcon_7b",
        {
            "vocab_size": VOCAB,
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "multi_query": False,
            "parallel_attn": False,
            "bias": True,
        },
    ),
    "GPT-NeoX, one branch after the other, tied": Case(
        "gpt_neox",
        "gpt_neox",
        {
            "vocab_size": VOCAB,
            "hidden_size": 32,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "use_parallel_residual": False,
            "hidden_act": "gelu_pytorch_tanh",
            "tie_word_embeddings": True,
        },
    ),
    "Llama, linear scaling, tied, biases in the MLP": Case(
        "llama",
        "llama3_8b",
        _sizes(head_dim=6, rope_parameters=_rope(500.0, "linear", factor=3.0), mlp_bias=True, tie_word_embeddings=True),
    ),
    "Llama, YaRN with a stated attention factor, one head": Case(
        "llama",
        "llama3_8b",
        _sizes(
            num_attention_heads=1,
            num_key_value_heads=1,
            head_dim=12,
            hidden_act="gelu",
            rope_parameters=_rope(200.0, "yarn", factor=4.0, attention_factor=1.3, original_max_position_embeddings=16),
        ),
    ),
    "Llama, YaRN with DeepSeek's attention factor": Case(
        "llama",
        "llama3_8b",
        _sizes(
            head_dim=8,
            rope_parameters=_rope(
                200.0,
                "yarn",
                factor=4.0,
                mscale=1.0,
                mscale_all_dim=0.4,
                beta_fast=4.0,
                original_max_position_embeddings=40,
            ),
        ),
    ),
    "Mistral without a window": Case("mistral", "mistral_7b", _sizes(sliding_window=None)),
    "Gemma 2 without caps, all layers local": Case(
        "gemma2",
        "gemma2_2b",
        _sizes(
            head_dim=8,
            attn_logit_softcapping=None,
            final_logit_softcapping=None,
            sliding_window=5,
            layer_types=["sliding_attention"] * 3,
        ),
    ),
    "Qwen 2, no window, untied": Case("qwen2", "qwen2_7b", _sizes()),
    "Qwen 3, biases, tied": Case(
        "qwen3", "qwen3_8b", _sizes(head_dim=8, attention_bias=True, tie_word_embeddings=True)
    ),
    "StarCoder 2, untied, without biases": Case(
        "starcoder2", "starcoder2_7b", _sizes(use_bias=False, tie_word_embeddings=False, hidden_act="gelu")
    ),
    "gpt-oss, all layers global": Case(
        "gpt_oss",
        "gpt_oss_20b",
        _sizes(
            head_dim=8,
            num_hidden_layers=2,
            num_local_experts=3,
            num_experts_per_tok=3,
            layer_types=["full_attention"] * 2,
            rope_parameters=_rope(),
        ),
    ),
    "SmolLM3, first layer without positions": Case(
        "smollm3", "smollm3_3b", _sizes(num_hidden_layers=3, no_rope_layers=[0, 1, 1], attention_bias=True)
    ),
}
"""What else a family's file says it can be."""
