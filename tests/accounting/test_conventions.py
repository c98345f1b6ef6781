"""The ledger beside torch's own count, beside masks counted pair by pair, and beside published figures."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from components.architecture import Architecture
from components.attention.heads import GQA, MHA, MQA
from components.attention.mla import MLA
from components.attention.qk_norm import QKRMSNorm
from components.attention.span import GlobalSpan, LocalSpan
from components.attention.spec import AttentionInputs, visible
from components.decoder import Decoder
from components.embedding import UntiedEmbedding
from components.initialization import initialize
from components.mixers import linear
from components.mixers.linear import LinearMixer, recurrent
from components.mlp import SwiGLU
from components.moe.experts import MixtureOfExperts
from components.position.embedding import LearnedPosition
from components.position.positions import ALiBi, NoPosition
from components.residual import Parallel
from lab.accounting.conventions import CONVENTIONS, conventions
from lab.accounting.costs import costs
from lab.accounting.peaks import Peak
from lab.accounting.utilization import Utilization
from lab.composition.compose import compose
from tests.components.architectures import gemma2

MODELS = sorted(path.stem for path in (Path(__file__).parents[2] / "experiments" / "model").glob("*.yaml"))
LATENT = MLA(n_heads=4, head_dim=8, rope_dim=4, value_dim=6, kv_rank=10, q_rank=12)
LINEAR = {"linear": {"mixer": LinearMixer(n_heads=3, head_dim=10, gate_rank=7)}}


@cache
def published(name: str) -> Architecture:
    return compose("gemma2_tiny", [f"model={name}"]).experiment.model


def counted_by_torch(model: Architecture, tokens: Tensor, *, backward: bool = False) -> float:
    """FLOPs a token that torch counts on the reference kernel, which computes every pair and then hides some."""
    decoder = Decoder(model, "reference")
    if not isinstance(tokens, FakeTensor):
        initialize(decoder, 0, model.init, model.n_layers)
    with FlopCounterMode(display=False) as counter:
        logits = decoder(tokens)
        if backward:
            logits.sum().backward()
    return counter.get_total_flops() / tokens.numel()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if "mixtral" not in name and "gpt_oss" not in name])
def test_the_full_square_is_torchs_count_of_every_published_architecture(name: str) -> None:
    model = published(name)
    model = replace(model, n_layers=len(model.repeated) + 1)  # the others are like these
    with FakeTensorMode():  # tensors of shapes alone: their size costs no memory
        found = counted_by_torch(model, torch.zeros(2, 48, dtype=torch.long))
    assert conventions(model, 48)["square"] / 3 == pytest.approx(found, rel=1e-12)


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "mha": {"heads": MHA(n_heads=4, head_dim=8)},
    "mqa": {"heads": MQA(n_heads=3, head_dim=8, sinks=True)},
    "window": {"span": LocalSpan(window=3)},
    "mla": {"heads": LATENT, "span": GlobalSpan()},
    "learned": {"position": LearnedPosition(context=32)},
    "alibi": {"position": ALiBi(), "embedding": UntiedEmbedding(), "qk_norm": QKRMSNorm()},
    "value_residual": {"heads": GQA(n_heads=4, n_kv_heads=2, head_dim=8, value_residual=True), "residual": Parallel()},
    "experts": {"mlp": MixtureOfExperts(n_experts=5, top_k=2, d_ff=16, n_shared_experts=1, bias=True)},
    "linear": {"mixer": LINEAR["linear"]["mixer"], "span": GlobalSpan(), "position": NoPosition()},
    "hybrid": {"pattern": ("local", "linear", "global"), "kinds": LINEAR},
    "all": {
        "pattern": ("local", "linear", "global"),
        "kinds": LINEAR | {"global": {"heads": LATENT, "mlp": MixtureOfExperts(n_experts=3, top_k=1, d_ff=8)}},
    },
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_full_square_is_torchs_count_of_every_kind_of_layer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "chunked", lambda *given: in_products(*given[:4]))
    model = gemma2(**ARCHITECTURES[name])
    tokens = torch.randint(0, 61, (2, 20), generator=torch.Generator().manual_seed(0))
    found = conventions(model, 20)["square"]
    assert found / 3 == pytest.approx(counted_by_torch(model, tokens), rel=1e-12)
    assert found == pytest.approx(counted_by_torch(model, tokens, backward=True), rel=1e-3)


def in_products(q: Tensor, k: Tensor, v: Tensor, log_gate: Tensor) -> Tensor:
    """`recurrent` with its outer product as a matrix product, which is what torch's counter counts."""
    state, outputs = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1]), []
    for t in range(q.shape[2]):
        state = log_gate[:, :, t].exp()[..., None] * state + k[:, :, t, :, None] @ v[:, :, t, None, :]
        outputs.append(q[:, :, t, None, :] @ state)
    return torch.cat(outputs, dim=2)


def test_the_recurrence_that_is_counted_is_the_definition() -> None:
    q, k, v, gates = torch.randn(4, 2, 3, 9, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = recurrent(q, k, v, -gates.exp())
    torch.testing.assert_close(in_products(q, k, v, -gates.exp()), expected)


@pytest.mark.parametrize(("name", "context"), list(itertools.product(["window", "mla", "hybrid", "mha"], [1, 4, 37])))
def test_the_ledger_lacks_of_the_square_precisely_the_pairs_that_the_masks_hide(name: str, context: int) -> None:
    model = gemma2(**ARCHITECTURES[name])
    hidden = 0.0
    for layer in model.layers:
        if layer.attention is not None:
            one = torch.empty(1, 1, context, 1)
            pairs = int(visible(layer.attention.spec, AttentionInputs(one, one, one)).sum())
            size = layer.attention.heads.key_size + layer.attention.heads.value_size
            hidden += 3 * 2 * layer.attention.heads.n_heads * size * (context**2 - pairs) / context
    found = conventions(model, context)
    assert found["visible"] == costs(model, context).flops_per_token
    assert found["square"] - found["visible"] == pytest.approx(hidden, abs=1e-6)


def test_palm_540b_has_its_published_utilization() -> None:
    """46.2% with attention and 45.7% without, of 6,144 TPU v4 at 238.3k tokens a second (2204.02311, appendix B)."""
    palm = gemma2(
        vocab_size=256_000,
        d_model=18_432,
        n_layers=118,
        heads=MQA(n_heads=48, head_dim=256),
        span=GlobalSpan(),
        residual=Parallel(),
        mlp=SwiGLU(d_ff=73_728),
    )
    found = conventions(palm, 2048)

    def share(convention: str) -> float:
        mfu = Utilization(found[convention], Peak(275e12, "TPU v4"), devices=6144).mfu(238.3e3)
        assert mfu is not None
        return mfu

    assert costs(palm, 2048).parameters == pytest.approx(540.35e9, rel=1e-4)
    assert share("palm") == pytest.approx(0.462, abs=5e-4)
    assert share("six_n") == pytest.approx(0.457, abs=5e-4)


def test_gpt2_counts_as_nanogpt_counts_it() -> None:
    """nanoGPT's estimate_mfu: N is 124,439,808 less the 1,024 learned positions; GPT-2 has L = H = 12 and Q = 64."""
    n = 124_439_808 - 1024 * 768
    found = conventions(published("gpt2"), 1024)
    assert found["palm"] == 6 * n + 12 * 12 * 12 * 64 * 1024
    assert found["palm_without_embeddings"] == found["palm"] - 6 * 50_257 * 768
    assert (found["six_n"], found["six_n_without_embeddings"]) == (6 * n, 6 * (n - 50_257 * 768))


def test_an_untied_head_is_no_embedding_but_for_kaplan() -> None:
    tied, untied = (conventions(gemma2(**changes), 8) for changes in ({}, {"embedding": UntiedEmbedding()}))
    table = 6 * 61 * 24
    assert untied["palm"] - tied["palm"] == table
    assert untied["palm_without_embeddings"] - tied["palm_without_embeddings"] == table
    assert untied["six_n_without_embeddings"] == tied["six_n_without_embeddings"]
    assert untied["visible"] == tied["visible"]


def test_six_n_of_experts_is_of_those_that_a_token_meets() -> None:
    model = gemma2(**ARCHITECTURES["experts"])
    assert conventions(model, 8)["six_n"] == 6 * costs(model, 8).active_parameters


def test_every_convention_says_what_it_counts() -> None:
    assert list(conventions(gemma2(), 8)) == list(CONVENTIONS)
