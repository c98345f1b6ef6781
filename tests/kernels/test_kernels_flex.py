"""FlexAttention: what it is told is the spec, its block masks skip nothing, and its compiled forward pass is right."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from torch.nn.attention import flex_attention as torchs

from components.attention.kernels import KERNELS, attend, flex
from components.attention.kernels.flex_blocks import block_mask
from components.attention.kernels.kernel import Case, reach
from components.attention.spec import AttentionSpec, visible
from lab.bench.conformance import Shape, draw, error, exact, incoming, run
from tests.kernels.oracle import attend_by_the_book, draw_inputs, leaves
from tests.kernels.test_kernels_meaning import calls

FLEX = KERNELS["flex"]
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention's backward pass needs a CUDA device")


@contextmanager
def uncompiled():
    """torch's own unfused evaluation of masks and scores, in any dtype and with gradients."""
    with (
        mock.patch.object(torchs, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True),
        mock.patch.object(torchs, "_validate_device"),
        mock.patch.object(flex, "_compiled", return_value=flex._call),
    ):
        yield


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(calls())
def test_masks_and_scores_say_what_the_book_says(call):
    spec, inputs = call
    with uncompiled():
        trained = {name: leaf for name, leaf in leaves(inputs)[1].items() if name != "alibi_slopes"}
        books = {name: leaf.detach().clone().requires_grad_() for name, leaf in trained.items()}
        out = FLEX.compute(spec, replace(inputs, **trained))
        expected = attend_by_the_book(spec, replace(inputs, **books))
        torch.testing.assert_close(out, expected)
        d_out = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        grads = torch.autograd.grad(out, list(trained.values()), d_out)
        torch.testing.assert_close(grads, torch.autograd.grad(expected, list(books.values()), d_out))


@settings(max_examples=60, deadline=None)
@given(calls())
def test_blocks_that_are_skipped_hide_everything_and_full_ones_nothing(call):
    spec, inputs = call
    seen = reach(spec, inputs)
    queries, block = inputs.q.shape[2], 2
    mask = block_mask(seen, queries, inputs.q.device, inputs.documents, block)
    truth = visible(spec, inputs)[..., seen.start : seen.stop]
    truth = truth.reshape(-1, *truth.shape[-2:])
    for sequence, sees in enumerate(truth):
        partial, full = (listed(mask, sequence, prefix) for prefix in ("kv", "full_kv"))
        for row in range(-(-queries // block)):
            assert not partial[row] & full[row]
            for column in range(-(-truth.shape[-1] // block)):
                tile = sees[row * block : (row + 1) * block, column * block : (column + 1) * block]
                if column in full[row]:
                    assert tile.all()
                if column not in partial[row] | full[row]:
                    assert not tile.any()


def listed(mask, sequence, prefix):
    """Blocks of keys listed for each block of queries."""
    counts, indices = getattr(mask, f"{prefix}_num_blocks"), getattr(mask, f"{prefix}_indices")
    sequence = min(sequence, counts.shape[0] - 1)
    return [set(row[:count].tolist()) for row, count in zip(indices[sequence, 0], counts[sequence, 0], strict=True)]


@pytest.mark.parametrize("window", [None, 1, 130, 256])
@pytest.mark.parametrize(("queries", "offset"), [(512, 0), (300, 0), (1, 700), (200, 130)])
def test_block_masks_are_those_that_torch_finds_by_asking_for_every_pair(window, queries, offset):
    inputs = draw_inputs(queries=queries, offset=offset, heads=1, kv_heads=1, head_dim=1)
    seen = reach(AttentionSpec(1.0, window=window), inputs)
    keys = seen.stop - seen.start
    mine = block_mask(seen, queries, inputs.q.device, None)
    theirs = torchs.create_block_mask(mine.mask_mod, None, None, queries, keys, device="cpu")
    for prefix in ("kv", "full_kv"):
        assert listed(mine, 0, prefix) == listed(theirs, 0, prefix)


def test_a_block_mask_is_built_once_for_all_layers_and_steps():
    inputs, spec = draw_inputs(queries=9, batch=2, documents=True), AttentionSpec(0.5, window=4)
    with uncompiled(), mock.patch.object(flex, "block_mask", wraps=flex.block_mask) as build:
        for _ in range(3):
            FLEX.compute(spec, inputs)
        assert build.call_count == 1
        FLEX.compute(replace(spec, window=5), inputs)
        assert build.call_count == 2
        inputs.documents[0, :] = 7  # written over in place
        torch.testing.assert_close(FLEX.compute(spec, inputs), attend(spec, inputs, "reference"))
        assert build.call_count == 3
        for window in range(1, 100):
            flex._blocks(reach(AttentionSpec(1.0, window=window), draw_inputs(queries=100)), draw_inputs(queries=100))
        assert len(flex._MASKS) == flex._MASKS.bound


@pytest.mark.slow
# Compiling takes seconds, so few calls: everything at once past a block's edge, a masked tail, and a step of decoding.
@pytest.mark.parametrize(
    ("spec", "shape", "extras", "dtype"),
    [
        (
            AttentionSpec(0.4, window=70, softcap=5.0),
            Shape(2, 4, 2, 150, 24, offset=7),
            {"alibi": True, "documents": True},
            torch.float32,
        ),
        (AttentionSpec(0.4, window=3, softcap=5.0), Shape(1, 6, 2, 1, 16, offset=8), {}, torch.bfloat16),
    ],
)
def test_its_compiled_forward_pass_is_exact_to_its_dtypes_bound(spec, shape, extras, dtype):
    inputs = draw(shape, dtype, "cpu", **extras)
    assert FLEX.refusal(spec, inputs) is None
    off = error(run(FLEX, spec, inputs), exact(spec, inputs), dtype)
    assert off["out"] <= 1
    wider = replace(spec, window=spec.window + 1)
    assert error(run(KERNELS["reference"], wider, inputs), exact(spec, inputs), dtype)["out"] > 1, "the bound bites"


@on_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("extras", [{}, {"sinks": True}, {"alibi": True, "documents": True}])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (100, 50.0)])
def test_its_backward_pass_is_exact_to_its_dtypes_bound(dtype, extras, window, softcap):
    spec, inputs = (
        AttentionSpec(0.125, window=window, softcap=softcap),
        draw(Shape(2, 4, 2, 333, 64), dtype, "cuda", **extras),
    )
    d_out = incoming(inputs)
    off = error(run(FLEX, spec, inputs, d_out), exact(spec, inputs, d_out), dtype)
    assert max(off.values()) <= 1, off


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"device": "mps"}, "device = mps"),
        ({"training": True}, "training on cpu: it has no backward pass there"),
        ({"dtype": torch.float64}, "dtype = float64"),
        ({"sinks": True}, "sinks"),
        ({"device": "cuda", "head_dim": 8}, "head_dim = 8: on cuda it takes 16 or more"),
        ({"device": "cuda", "value_dim": 512}, "head_dim = 512: on cuda its tiles fit 256 or less"),
        ({"device": "cuda", "alibi": True, "alibi_trained": True}, "alibi slopes that are trained"),
    ],
)
def test_what_it_cannot_do_is_refused_with_the_reason(change, named):
    case = Case("cpu", torch.float32, heads=4, kv_heads=2, queries=9, keys=9, head_dim=32, value_dim=32)
    assert FLEX.planned_refusal(AttentionSpec(1.0), case) is None
    assert FLEX.planned_refusal(AttentionSpec(1.0), replace(case, **change)).startswith(named)


def test_sinks_are_taken_where_the_log_sum_exp_is():
    case = Case("cuda", torch.float32, heads=4, kv_heads=2, queries=9, keys=9, head_dim=32, value_dim=32, sinks=True)
    assert "sinks" not in (FLEX.planned_refusal(AttentionSpec(1.0), case) or "")


def test_a_missing_compiler_is_a_reason(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    flex.toolchain_missing.cache_clear()
    try:
        assert "no C++ compiler" in FLEX.refusal(AttentionSpec(1.0), draw_inputs(dtype=torch.float32))
    finally:
        flex.toolchain_missing.cache_clear()
