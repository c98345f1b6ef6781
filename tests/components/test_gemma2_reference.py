"""The decoder configured as Gemma 2 is Gemma 2: the same logits and gradients as the transformers library's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from components.attention import mixer
from components.attention.kernels import attend
from components.attention.spec import AttentionInputs, AttentionSpec
from components.decoder import Decoder
from components.position.positions import Rotation
from tests.components.architectures import gemma2

LAYER_NAMES = {
    "self_attn.q_proj.weight": "mixer.heads.q.weight",
    "self_attn.k_proj.weight": "mixer.heads.k.weight",
    "self_attn.v_proj.weight": "mixer.heads.v.weight",
    "self_attn.o_proj.weight": "mixer.heads.o.weight",
    "mlp.gate_proj.weight": "mlp.gate.weight",
    "mlp.up_proj.weight": "mlp.up.weight",
    "mlp.down_proj.weight": "mlp.down.weight",
    "input_layernorm.weight": "mixer_norm.weight",
    "post_attention_layernorm.weight": "mixer_post_norm.weight",
    "pre_feedforward_layernorm.weight": "mlp_norm.weight",
    "post_feedforward_layernorm.weight": "mlp_post_norm.weight",
}


def ours(name: str) -> str:
    """A transformers parameter name as the decoder calls it."""
    if name.startswith("model.layers."):
        _, _, mixer, rest = name.split(".", 3)
        return f"layers.{mixer}.{LAYER_NAMES[rest]}"
    return {"model.embed_tokens.weight": "embedding.weight", "model.norm.weight": "final_norm.weight"}[name]


@pytest.fixture(scope="module")
def reference() -> Gemma2ForCausalLM:
    config = Gemma2Config(
        vocab_size=61,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=6,
        sliding_window=5,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
        max_position_embeddings=64,
        attn_implementation="eager",
        tie_word_embeddings=True,
        pad_token_id=None,  # a padding row gets no gradient there
    )
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    return model.eval()


def imported(reference: Gemma2ForCausalLM, **changes: object) -> Decoder:
    model = Decoder(gemma2(**changes))
    state = {ours(name): parameter for name, parameter in reference.named_parameters()}
    model.load_state_dict(state, strict=True)
    return model


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float(((ours - theirs).abs().max() / theirs.abs().max()).detach())


@pytest.mark.parametrize("kernel", ["reference", "blockwise", "native"])
def test_logits_and_every_gradient_equal_the_transformers_implementation(
    reference: Gemma2ForCausalLM, kernel: str
) -> None:
    model = imported(reference)
    model.kernel = kernel
    tokens = torch.randint(0, 61, (3, 17), generator=torch.Generator().manual_seed(1))
    weights = torch.randn(3, 17, 61, generator=torch.Generator().manual_seed(2))
    theirs = reference(input_ids=tokens, use_cache=False).logits
    logits = model(tokens)
    assert relative_error(logits, theirs) < 1e-5
    reference.zero_grad()
    (theirs * weights).sum().backward()
    (logits * weights).sum().backward()
    gradients = dict(model.named_parameters())
    for name, parameter in reference.named_parameters():
        ours_grad = gradients[ours(name)].grad
        assert ours_grad is not None
        assert parameter.grad is not None
        assert relative_error(ours_grad, parameter.grad) < 2e-5, name


def changed_architectures() -> dict[str, dict[str, object]]:
    base = gemma2()
    return {
        "window + 1": {"span": base.span.replace(window=6)},
        "window - 1": {"span": base.span.replace(window=4)},
        "pattern": {"pattern": ("global", "local")},
        "attention cap": {"softcap": base.softcap.replace(attention=2.5)},
        "final cap": {"softcap": base.softcap.replace(final=3.5)},
        "query scale": {"heads": base.heads.replace(query_pre_attn_scalar=8)},
        "rope base": {"position": base.position.replace(theta=9000.0)},
        "rope pairing": {"position": base.position.replace(pairing="interleaved")},
        "norm eps": {"norm": base.norm.replace(eps=1e-3)},
        "exact gelu": {"mlp": base.mlp.replace(tanh=False)},
        "unscaled embedding": {"embedding": base.embedding.replace(scaled=False)},
    }


@pytest.mark.parametrize("change", changed_architectures())
def test_every_option_changes_the_output(reference: Gemma2ForCausalLM, change: str) -> None:
    tokens = torch.randint(0, 61, (2, 17), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = reference(input_ids=tokens, use_cache=False).logits
        changed = imported(reference, **changed_architectures()[change])(tokens)
    assert relative_error(changed, theirs) > 1e-4


def modulo(spec: AttentionSpec, inputs: AttentionInputs, kernel: str) -> torch.Tensor:
    """Query head h reads key-value head h mod n_kv_heads, as one public code base has it."""
    order = torch.arange(inputs.q.shape[1]) % inputs.k.shape[1]
    return attend(spec, replace(inputs, k=inputs.k[:, order], v=inputs.v[:, order]), kernel=kernel)


def halves_swapped(self: Rotation, x: torch.Tensor) -> torch.Tensor:
    """The second half of a head takes the first one's place in the rotation."""
    return TURN(self, x.roll(self.cos.shape[-1], dims=-1)).roll(self.cos.shape[-1], dims=-1)


TURN = Rotation.__call__


@pytest.mark.parametrize(
    ("owner", "name", "mutant"), [(mixer.attend, "call", modulo), (Rotation, "__call__", halves_swapped)]
)
def test_known_mistakes_of_public_code_break_parity(
    reference: Gemma2ForCausalLM, owner: object, name: str, mutant: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = torch.randint(0, 61, (2, 17), generator=torch.Generator().manual_seed(1))
    model = imported(reference)
    with torch.no_grad():
        theirs = reference(input_ids=tokens, use_cache=False).logits
        assert relative_error(model(tokens), theirs) < 1e-5
        monkeypatch.setattr(owner, name, mutant)
        assert relative_error(model(tokens), theirs) > 1e-3
