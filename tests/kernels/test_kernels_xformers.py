"""xformers' kernel: its biases hide what the spec hides, its layouts hold what they should, on a CPU's own arithmetic.

Its operators need a CUDA device. What they are handed does not: every bias can be written out (`materialize`), and
attention by xformers' own documented formula with that bias must be the book's.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.attention.kernels import KERNELS, KernelRefused, xformers
from components.attention.kernels.kernel import Case, reach
from components.attention.spec import AttentionInputs, AttentionSpec, visible
from lab.bench.conformance import Shape, draw, error, exact, incoming, run
from tests.kernels.oracle import attend_by_the_book, draw_inputs, leaves

XFORMERS = KERNELS["xformers"]
installed = pytest.mark.skipif(importlib.util.find_spec("xformers") is None, reason="xformers is not installed")
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="xformers computes attention on a CUDA device only")


@st.composite
def calls(draw):
    """A spec that xformers honours, and inputs: with documents, or a cache and room ahead."""
    kv_heads, causal, documents = draw(st.integers(1, 4)), draw(st.booleans() | st.just(True)), draw(st.booleans())
    spec = AttentionSpec(0.5, causal=causal, window=draw(st.none() | st.integers(1, 14)) if causal else None)
    inputs = draw_inputs(
        draw(st.integers(0, 1000)),
        batch=draw(st.integers(1, 3)),
        heads=kv_heads * draw(st.integers(1, 4 // kv_heads)),
        kv_heads=kv_heads,
        queries=draw(st.integers(1, 10)),
        offset=0 if documents else draw(st.integers(0, 6)),
        ahead=0 if documents else draw(st.integers(0, 3)),
        documents=documents,
    )
    return spec, inputs


@installed
@settings(max_examples=100, deadline=None)
@given(calls())
def test_its_biases_hide_what_the_spec_hides(call):
    spec, inputs = call
    seen = reach(spec, inputs)
    B, _, T, _ = inputs.q.shape
    keys = seen.stop - seen.start
    truth = visible(spec, inputs)[..., seen.start : seen.stop].expand(B, 1, T, keys)[:, 0]
    assert visible(spec, inputs).sum() == truth.sum() / (1 if inputs.documents is not None else B), (
        "nothing seen is cut"
    )
    if inputs.documents is not None:
        lengths = xformers.document_lengths(inputs.documents)
        assert torch.equal(shown(xformers.bias(seen, T, lengths), B * T, B * T), torch.block_diag(*truth).bool())
    else:
        assert torch.equal(shown(xformers.bias(seen, T, None), T, keys).expand(B, -1, -1), truth)
        if seen.window is not None and keys == T:  # the way in which fp32 is trained
            packed = shown(xformers.bias(seen, T, [T] * B), B * T, B * T)
            assert torch.equal(packed, torch.block_diag(*truth).bool())


def shown(bias, queries, keys):
    if bias is None:
        return torch.ones(queries, keys, dtype=torch.bool)
    return bias.materialize((queries, keys)) == 0


def by_its_formula(query, key, value, attn_bias=None, p=0.0, scale=None, *, op=None):
    """The "equivalent PyTorch code" of xformers' documentation, which has five dimensions without gradients only."""
    assert p == 0
    assert op == "operators"
    five = query.ndim == 5
    assert not (five and any(x.requires_grad for x in (query, key, value)))
    q, k, v = ((x.flatten(2, 3) if five else x).transpose(1, 2) for x in (query, key, value))
    scores = q @ k.transpose(-2, -1) * scale
    if attn_bias is not None:
        scores = scores + attn_bias.materialize(tuple(scores.shape), dtype=scores.dtype)
    out = (scores.softmax(-1) @ v).transpose(1, 2)
    return out.reshape(*query.shape[:-1], value.shape[-1])


@installed
@settings(max_examples=40, deadline=None)
@given(calls(), st.booleans(), st.booleans())
def test_what_it_is_handed_gives_what_the_book_says(call, training, packed):
    from xformers.ops import fmha

    spec, inputs = call

    def operators(spec, case, seen, lengths, device):
        """As on a device whose operators know windows in packed documents only, or all windows."""
        if packed and seen.window is not None and case.queries == seen.stop - seen.start and lengths is None:
            lengths = [case.queries] * case.batch
        return xformers.bias(seen, case.queries, lengths), "operators"

    ours, our_leaves = leaves(inputs)
    books, book_leaves = leaves(inputs)
    expected = attend_by_the_book(spec, books)
    with (
        mock.patch.object(xformers, "_operators", operators),
        mock.patch.object(fmha, "memory_efficient_attention", by_its_formula),
    ):
        out = XFORMERS.compute(spec, ours if training else inputs)
    torch.testing.assert_close(out, expected)
    if training:
        d_out = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        grads = torch.autograd.grad(out, list(our_leaves.values()), d_out)
        torch.testing.assert_close(grads, torch.autograd.grad(expected, list(book_leaves.values()), d_out))


@installed
@pytest.mark.parametrize(("window", "documents"), [(None, False), (5, False), (5, True), (None, True)])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kv_heads", [2, 4])
def test_its_operators_are_asked_about_the_layout_that_they_get(window, documents, training, kv_heads):
    inputs = draw_inputs(queries=9, batch=2, kv_heads=kv_heads, documents=documents, dtype=torch.bfloat16, value_dim=16)
    inputs = leaves(inputs)[0] if training else inputs
    spec = AttentionSpec(0.5, window=window)
    seen, case = reach(spec, inputs), Case.of(inputs)
    for packed in (False, True):
        asked = xformers._shapes(case, seen, inputs.q.device, packed=packed)
        got = xformers.laid_out(inputs, seen, packed=packed, expanded=training)
        assert [(x.shape, x.dtype) for x in asked] == [(x.shape, x.dtype) for x in got]


@installed
def test_operators_that_take_nothing_say_why():
    inputs = draw_inputs(dtype=torch.float32)
    spec = AttentionSpec(0.5, window=4)
    reason = xformers._operators(spec, Case.of(inputs), reach(spec, inputs), None, inputs.q.device)
    assert reason.startswith("none of xformers' operators takes this (flash3: ")
    assert "cutlass: device=cpu" in reason


def test_document_lengths_are_those_of_stretches():
    documents = torch.tensor([[0, 0, 1, 1, 1], [4, 4, 4, 4, 4], [9, 3, 3, 2, 2]])
    assert xformers.document_lengths(documents) == [2, 3, 5, 1, 2, 2]
    with pytest.raises(KernelRefused, match="an id comes back after another"):
        xformers.document_lengths(torch.tensor([[0, 1, 0]]))


@pytest.mark.parametrize(
    ("spec", "change", "named"),
    [
        (AttentionSpec(1.0), {"device": "cpu"}, "device = cpu: xformers computes attention on cuda only"),
        (AttentionSpec(1.0, softcap=50.0), {}, "softcap = 50"),
        (AttentionSpec(1.0), {"sinks": True}, "sinks"),
        (AttentionSpec(1.0), {"alibi": True}, "alibi"),
        (AttentionSpec(1.0), {"dtype": torch.float64}, "dtype = float64"),
        (AttentionSpec(1.0), {"head_dim": 36}, "head_dim = 36: not a multiple of 8"),
        (AttentionSpec(1.0), {"value_dim": 6, "dtype": torch.float32}, "head_dim = 6: not a multiple of 4"),
        (AttentionSpec(1.0), {"documents": True, "queries": 1, "offset": 8}, "documents with a cache"),
    ],
)
def test_what_it_cannot_do_is_refused_with_the_reason(monkeypatch, spec, change, named):
    monkeypatch.setattr(xformers, "_absent", lambda: False)
    case = Case("cuda", torch.bfloat16, heads=4, kv_heads=2, queries=9, keys=9, head_dim=32, value_dim=32)
    assert XFORMERS.planned_refusal(AttentionSpec(1.0), case) is None
    assert XFORMERS.planned_refusal(spec, replace(case, **change)).startswith(named)


def test_its_absence_is_a_reason_and_no_crash(monkeypatch):
    monkeypatch.setattr(xformers, "_absent", lambda: True)
    assert "not installed" in XFORMERS.spec_refusal(AttentionSpec(1.0), device="cuda")


@on_cuda
@installed
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("backward", [False, True])
def test_on_a_device_it_is_exact_to_its_dtypes_bound_or_refuses(dtype, window, documents, backward):
    spec = AttentionSpec(0.125, window=window)
    inputs: AttentionInputs = draw(Shape(2, 4, 2, 333, 64), dtype, "cuda", documents=documents)
    d_out = incoming(inputs) if backward else None
    try:
        found = run(XFORMERS, spec, inputs, d_out)
    except KernelRefused as refused:
        pytest.skip(refused.reason)
    off = error(found, exact(spec, inputs, d_out), dtype)
    assert max(off.values()) <= 1, off
