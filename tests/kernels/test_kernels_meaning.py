"""Every kernel computes what the spec says, forward and backward, field by field, or refuses the field by name."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.attention.kernels import KERNELS, attend
from components.attention.kernels.blockwise import tiles as tiles_module
from components.attention.spec import AttentionInputs, AttentionSpec
from tests.kernels.oracle import IN_DOUBLE, attend_by_the_book, draw_inputs, leaves

SCALE = 0.5
kernel_names = pytest.mark.parametrize("kernel", IN_DOUBLE)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles small enough for a dozen queries to make several blocks, of several tiles, with a rest."""
    monkeypatch.setattr(tiles_module, "ROWS", 4)
    monkeypatch.setattr(tiles_module, "LANES", 2)
    monkeypatch.setattr(tiles_module, "TILE_SCORES", 64)


def assert_by_the_book(kernel: str, spec: AttentionSpec, inputs: AttentionInputs, rtol: float = 1e-9) -> None:
    """Output and every gradient equal the oracle's."""
    ours, our_leaves = leaves(inputs)
    books, book_leaves = leaves(inputs)
    out, expected = attend(spec, ours, kernel), attend_by_the_book(spec, books)
    assert out.dtype == inputs.q.dtype
    d_out = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours_grad = torch.autograd.grad(out, list(our_leaves.values()), d_out.to(out.dtype))
    books_grad = torch.autograd.grad(expected, list(book_leaves.values()), d_out)
    for name, mine, book in zip(("out", *our_leaves), (out, *ours_grad), (expected, *books_grad), strict=True):
        error = (mine.double() - book.double()).abs().max().item()
        assert error <= rtol * (1 + book.abs().max().item()), f"{kernel}: {name} is off by {error:.2e} for {spec}"


FIELDS = {
    "global": ({}, {}),
    "not causal": ({"causal": False}, {}),
    "window": ({"window": 4}, {}),
    "window of one": ({"window": 1}, {}),
    "window one short of the context": ({"window": 8}, {"queries": 9}),
    "window longer than the context": ({"window": 100}, {}),
    "softcap": ({"softcap": 3.0}, {}),
    "high softcap": ({"softcap": 1000.0}, {}),
    "alibi": ({}, {"alibi": True}),
    "sinks": ({}, {"sinks": True}),
    "documents": ({}, {"documents": True, "batch": 2}),
    "documents not causal": ({"causal": False}, {"documents": True, "batch": 2}),
    "cache": ({}, {"offset": 6}),
    "cache with room ahead": ({"window": 3}, {"offset": 6, "ahead": 5}),
    "one query of a cache": ({"window": 3, "softcap": 3.0}, {"queries": 1, "offset": 6, "ahead": 2}),
    "one token": ({"softcap": 3.0}, {"queries": 1}),
    "multi-head": ({"softcap": 3.0}, {"kv_heads": 4}),
    "multi-query": ({"window": 3}, {"kv_heads": 1, "batch": 2}),
    "narrow values": ({"softcap": 3.0}, {"value_dim": 3}),
    "all at once": (
        {"window": 5, "softcap": 3.0},
        {"alibi": True, "sinks": True, "documents": True, "batch": 2, "offset": 3, "ahead": 2, "queries": 11},
    ),
    "all but alibi": (
        {"window": 5, "softcap": 3.0},
        {"sinks": True, "documents": True, "batch": 2, "offset": 3, "queries": 11},
    ),
}


@pytest.mark.parametrize("kernel", list(KERNELS))
@pytest.mark.parametrize("field", list(FIELDS))
def test_every_field_is_honoured_forward_and_backward_or_refused(kernel, field):
    of_spec, of_inputs = FIELDS[field]
    spec, inputs = AttentionSpec(SCALE, **of_spec), draw_inputs(**of_inputs)
    reason = KERNELS[kernel].refusal(spec, leaves(inputs)[0])
    if kernel in IN_DOUBLE and not (kernel == "sdpa" and (spec.softcap is not None or inputs.sinks is not None)):
        assert reason is None
        assert_by_the_book(kernel, spec, inputs)
    else:
        named = {
            "native": ("dtype = float64",),
            "sdpa": ("softcap", "sinks"),
            "flex": ("training on cpu", "sinks"),
            "xformers": ("device = cpu",),
        }
        assert reason.startswith(named[kernel])


@st.composite
def calls(draw):
    """A spec and its inputs: sizes that no block divides, windows around the context's length, caps that saturate."""
    kv_heads = draw(st.integers(1, 4))
    causal = draw(st.booleans() | st.just(True))
    spec = AttentionSpec(
        scale=draw(st.sampled_from([0.1, 0.5, 1.0])),
        causal=causal,
        window=draw(st.none() | st.integers(1, 14)) if causal else None,
        softcap=draw(st.none() | st.sampled_from([0.5, 3.0, 50.0, 600.0])),
    )
    inputs = draw_inputs(
        draw(st.integers(0, 1000)),
        batch=draw(st.integers(1, 2)),
        heads=kv_heads * draw(st.integers(1, 4 // kv_heads)),
        kv_heads=kv_heads,
        queries=draw(st.integers(1, 10)),
        offset=draw(st.integers(0, 6)),
        ahead=draw(st.integers(0, 3)),
        head_dim=draw(st.integers(1, 5)),
        value_dim=draw(st.integers(1, 5)),
        alibi=draw(st.booleans()),
        sinks=draw(st.booleans()),
        documents=draw(st.booleans()),
    )
    return spec, inputs


@settings(max_examples=30, deadline=None)
@given(calls())
def test_kernels_agree_with_the_book_on_any_call(call):
    spec, inputs = call
    for name, kernel in KERNELS.items():
        if kernel.refusal(spec, leaves(inputs)[0]) is None:
            assert_by_the_book(name, spec, inputs)


@kernel_names
@pytest.mark.parametrize("window", [1, 3, 4, 5, 8])
def test_window_counts_the_query_itself(kernel, window):
    inputs = draw_inputs(queries=12, heads=1, kv_heads=1)
    # Equal scores and one-hot values: the output reads off which keys a query saw.
    inputs = replace(inputs, q=torch.zeros_like(inputs.q), v=torch.eye(12, dtype=torch.float64).view(1, 1, 12, 12))
    seen = attend(AttentionSpec(SCALE, window=window), inputs, kernel)[0, 0] > 0
    for position in range(12):
        expected = list(range(max(0, position - window + 1), position + 1))
        assert seen[position].nonzero().flatten().tolist() == expected


@pytest.mark.parametrize(
    ("kernel", "softcap"),
    [
        (kernel, softcap)
        for kernel in IN_DOUBLE
        for softcap in (None, 2.0, 1000.0)
        if softcap is None or kernel != "sdpa"
    ],
)
@pytest.mark.parametrize("window", [None, 5])
def test_the_future_does_not_reach_the_past(kernel, softcap, window):
    spec = AttentionSpec(SCALE, window=window, softcap=softcap)
    inputs = draw_inputs(queries=12)
    before = attend(spec, inputs, kernel)
    k, v = inputs.k.clone(), inputs.v.clone()
    k[:, :, 7:] *= 1000  # scores far above any that are seen, so that the slightest leak takes over the row
    v[:, :, 7:] += 1000
    after = attend(spec, replace(inputs, k=k, v=v), kernel)
    assert torch.equal(after[:, :, :7], before[:, :, :7])
    assert not torch.allclose(after[:, :, 7:], before[:, :, 7:])


@kernel_names
def test_query_heads_share_neighbouring_key_value_heads(kernel):
    inputs = draw_inputs(heads=6, kv_heads=2)
    out = attend(AttentionSpec(SCALE), inputs, kernel)
    moved = attend(AttentionSpec(SCALE), replace(inputs, v=inputs.v * torch.tensor([[[[1.0]], [[2.0]]]])), kernel)
    assert torch.equal(moved[:, :3], out[:, :3])
    torch.testing.assert_close(moved[:, 3:], 2 * out[:, 3:])


@pytest.mark.parametrize("kernel", ["reference", "blockwise"])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_a_sink_takes_its_share_and_carries_no_value(kernel, softcap):
    inputs = draw_inputs(queries=5)
    inputs = replace(inputs, v=torch.ones_like(inputs.v), q=torch.zeros_like(inputs.q))
    sinks = torch.tensor([0.0, math.log(3), -1e4, 1e4], dtype=torch.float64)
    out = attend(AttentionSpec(SCALE, softcap=softcap), replace(inputs, sinks=sinks), kernel)[0, :, :, 0]
    n_seen = torch.arange(1, 6, dtype=torch.float64)
    expected = torch.stack([n_seen / (n_seen + 1), n_seen / (n_seen + 3), torch.ones(5), torch.zeros(5)])
    torch.testing.assert_close(out, expected.double())


@kernel_names
def test_documents_are_read_from_the_queries_own_positions(kernel):
    inputs = draw_inputs(queries=2, offset=3, heads=1, kv_heads=1)
    inputs = replace(
        inputs,
        q=torch.zeros_like(inputs.q),
        v=torch.eye(5).double()[None, None],
        documents=torch.tensor([[0, 1, 0, 1, 0]]),
    )
    out = attend(AttentionSpec(SCALE), inputs, kernel)[0, 0]
    third = 1 / 3
    expected = torch.tensor([[0, 0.5, 0, 0.5, 0], [third, 0, third, 0, third]], dtype=torch.float64)
    torch.testing.assert_close(out, expected)
