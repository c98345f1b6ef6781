"""Gated linear attention: the chunked form against the recurrence, forward and backward; documents; extremes; costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from components import registry
from components.attention.heads import MHA
from components.attention.span import GlobalSpan
from components.decoder import Decoder
from components.forward_context import ForwardContext
from components.initialization import NormalInit, initialize
from components.mixers.linear import GatedLinearAttention, LinearMixer, chunked, recurrent
from components.position.positions import NoPosition
from components.registry import OptionError
from lab.accounting.costs import costs
from lab.composition.check import check_attention_overrides
from lab.composition.compose import compose
from lab.composition.hydra.overrides import parse
from lab.refusals import RequestError
from tests.components.architectures import gemma2

LENGTHS = [1, 2, 3, 16, 17, 50, 64, 100]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def inputs(length: int, dtype: torch.dtype = torch.float64, gate: float = 1.0) -> list[Tensor]:
    """q, k, v and log gates, of unequal key and value sizes, all leaves."""
    sizes = (8, 8, 5, 8)
    drawn = [noise(2, 3, length, size, seed=seed, dtype=dtype) for seed, size in enumerate(sizes)]
    drawn[3] = F.logsigmoid(drawn[3]) * gate
    return [tensor.requires_grad_() for tensor in drawn]


def layer(chunk: int = 16) -> GatedLinearAttention:
    built = GatedLinearAttention(24, 4, 8, LinearMixer(gate_rank=5, gate_temperature=2.0, chunk=chunk))
    initialize(built, 0, NormalInit(std=0.4), 1)
    return built.double()


def context(documents: Tensor | None = None) -> ForwardContext:
    return ForwardContext({}, {}, documents, "auto")


@pytest.mark.parametrize("chunk", [1, 4, 16, 64])
@pytest.mark.parametrize("length", LENGTHS)
def test_chunks_equal_the_recurrence_forward_and_backward(length: int, chunk: int) -> None:
    one, two = inputs(length), inputs(length)
    expected, found = recurrent(*one), chunked(*two, chunk)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    weights = noise(*expected.shape, seed=9)
    for a, b in zip(
        torch.autograd.grad((found * weights).sum(), two),
        torch.autograd.grad((expected * weights).sum(), one),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_the_recurrence_is_a_sum_over_all_earlier_tokens() -> None:
    q, k, v, log_gate = inputs(7)
    expected = torch.zeros(2, 3, 7, 5, dtype=torch.float64)
    for t in range(7):
        for s in range(t + 1):
            decay = log_gate[:, :, s + 1 : t + 1].sum(2).exp()
            expected[:, :, t] += (q[:, :, t] * decay * k[:, :, s]).sum(-1, keepdim=True) * v[:, :, s]
    torch.testing.assert_close(recurrent(q, k, v, log_gate), expected)


@pytest.mark.parametrize("gate", [1e-6, 30.0, 1e4])
def test_extreme_gates_neither_overflow_nor_lose_what_they_keep(gate: float) -> None:
    """Gates of 30 nats a token forget e^1920 within a chunk: products of their inverses would be infinite in fp32."""
    single = inputs(64, torch.float32, gate)
    found = chunked(*single, 64)
    exact = recurrent(*(tensor.detach().double() for tensor in single))
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-4)
    for gradient in torch.autograd.grad(found.square().sum(), single):
        assert gradient.isfinite().all()


def test_a_strong_gate_does_not_blur_the_weak_ones_after_it() -> None:
    """Differences of running sums would: at -60000, fp32 steps by 0.004."""
    q, k, v, log_gate = (tensor.detach() for tensor in inputs(64, torch.float32, 1e-3))
    log_gate[:, :, 10] = -60_000.0
    exact = recurrent(*(tensor.double() for tensor in (q, k, v, log_gate)))
    torch.testing.assert_close(chunked(q, k, v, log_gate, 64).double(), exact, rtol=1e-5, atol=2e-5)


def test_the_layer_is_the_papers_formula() -> None:
    built, x = layer(), noise(2, 21, 24, seed=4)
    with torch.no_grad():
        for name in ("gate_up", "output_gate"):
            getattr(built, name).bias.copy_(noise(32, seed=5))
        built.norm.weight.copy_(noise(8, seed=6))

    def heads(y: Tensor) -> Tensor:
        return y.view(2, 21, 4, 8).transpose(1, 2)

    alpha = torch.sigmoid(x @ built.gate_down.weight.T @ built.gate_up.weight.T + built.gate_up.bias) ** (1 / 2.0)
    q, k, v = (heads(x @ projection.weight.T) for projection in (built.q, built.k, built.v))
    mixed = recurrent(q * 8**-0.5, k, v, heads(alpha).log())
    normed = mixed / (mixed.square().mean(-1, keepdim=True) + 1e-6).sqrt() * built.norm.weight
    gate = x @ built.output_gate.weight.T + built.output_gate.bias
    expected = (normed.transpose(1, 2).flatten(2) * gate * torch.sigmoid(gate)) @ built.o.weight.T
    torch.testing.assert_close(built(x, context()), expected, rtol=1e-10, atol=1e-10)


def test_the_chunk_changes_no_result_and_is_no_part_of_what_an_experiment_is() -> None:
    x = noise(2, 70, 24)
    found = [layer(chunk)(x, context()) for chunk in (1, 8, 64)]
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found[0], found[2], rtol=1e-10, atol=1e-10)
    assert [option.name for option in registry.options(LinearMixer) if not option.affects_result] == ["chunk"]


def test_the_state_starts_anew_with_each_document() -> None:
    """Documents shorter than a chunk, longer than one, and of one token; an id that comes back is a new document."""
    built, lengths = layer(chunk=8), [5, 20, 1, 1, 13]
    ids = torch.tensor([0, 1, 2, 0, 7]).repeat_interleave(torch.tensor(lengths))[None]
    x = noise(1, 40, 24).requires_grad_()
    packed = built(x, context(ids))
    alone = torch.cat([built(part, context()) for part in x.split(lengths, dim=1)], dim=1)
    torch.testing.assert_close(packed, alone, rtol=1e-10, atol=1e-10)
    weights = noise(1, 40, 24, seed=8)
    (one,), (two,) = (torch.autograd.grad((out * weights).sum(), x) for out in (packed, alone))
    torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(built(x, context()), packed, atol=1e-3)


def test_a_model_of_linear_layers_keeps_documents_apart() -> None:
    model = Decoder.initialized(gemma2(mixer=LinearMixer()), seed=0)
    tokens = torch.randint(0, 61, (1, 12), generator=torch.Generator().manual_seed(3))
    documents = torch.tensor([[0] * 5 + [1] * 7])
    with torch.no_grad():
        torch.testing.assert_close(model(tokens, documents)[:, 5:], model(tokens[:, 5:]), rtol=1e-4, atol=1e-5)


def test_under_autocast_the_state_is_kept_in_fp32() -> None:
    built = layer().float()
    x = noise(2, 300, 24, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = built(x, context())
    assert found.dtype == torch.bfloat16
    expected = built(x, context())
    assert (found - expected).norm() < 0.03 * expected.norm()
    assert layer().to(torch.bfloat16)(x.bfloat16(), context()).isfinite().all()


def test_sizes_are_the_blocks_heads_unless_given() -> None:
    model = gemma2(
        heads=MHA(n_heads=4, head_dim=8), pattern=("local", "linear"), kinds={"linear": {"mixer": LinearMixer()}}
    )
    built = Decoder.initialized(model, seed=0)
    assert built.layers[1].mixer.q.weight.shape == (32, 24)
    wider = {"linear": {"mixer": LinearMixer(n_heads=2, head_dim=10)}}
    assert Decoder(gemma2(pattern=("local", "linear"), kinds=wider)).layers[1].mixer.q.weight.shape == (20, 24)


def test_it_costs_its_state_and_no_more_with_context() -> None:
    model = gemma2(span=GlobalSpan(), position=NoPosition(), mixer=LinearMixer(n_heads=3, head_dim=10, gate_rank=7))
    short, long = costs(model, 64), costs(model, 6400)
    assert short.forward_flops_per_token == long.forward_flops_per_token
    assert long.kv_bytes_per_token * 6400 == short.kv_bytes_per_token * 64 == 2 * 4 * 3 * 10 * 10
    projections = 5 * 24 * 30 + 24 * 7 + 7 * 30
    rest = 4 * 3 * 24 * 40 + 61 * 24
    assert short.forward_flops_per_token == 2 * (4 * projections + rest) + 4 * 4 * 3 * 10 * 10


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"n_heads": 0}, "n_heads"),
        ({"head_dim": 0}, "head_dim"),
        ({"gate_rank": 0}, "gate_rank"),
        ({"gate_temperature": 0.0}, "gate_temperature"),
        ({"norm_eps": 0.0}, "norm_eps"),
        ({"chunk": 48}, "chunk"),
        ({"chunk": 0}, "chunk"),
    ],
)
def test_impossible_options_are_refused_by_name(options: dict[str, Any], option: str) -> None:
    with pytest.raises(OptionError) as refusal:
        LinearMixer(**options)
    assert refusal.value.option == option


def test_a_linear_layer_refuses_what_only_attention_reads() -> None:
    kinds = {"linear": {"mixer": LinearMixer(), "position": NoPosition()}}
    with pytest.raises(OptionError, match=r"kinds.linear.position: a layer that does not attend has no position"):
        gemma2(pattern=("local", "linear"), kinds=kinds)


@pytest.mark.parametrize(
    "asked", ["model.span.window=32", "model/position=alibi", "model.qk_norm.eps=1e-3", "model.softcap.attention=9"]
)
def test_a_model_without_attention_refuses_requests_about_it(asked: str) -> None:
    experiment = compose("gemma2_tiny").experiment
    linear = replace(experiment, model=replace(experiment.model, mixer=LinearMixer()))
    hybrid = replace(experiment, model=replace(experiment.model, kinds={"local": {"mixer": LinearMixer()}}))
    with pytest.raises(RequestError, match="no layer is attention"):
        check_attention_overrides(linear, parse([asked]))
    check_attention_overrides(hybrid, parse([asked]))
    check_attention_overrides(linear, parse(["model.d_model=64"]))


def test_a_position_at_the_embedding_needs_no_attention() -> None:
    experiment = compose("gemma2_tiny", ["model/position=sinusoidal"]).experiment
    linear = replace(experiment, model=replace(experiment.model, mixer=LinearMixer()))
    check_attention_overrides(linear, parse(["model/position=sinusoidal"]))
