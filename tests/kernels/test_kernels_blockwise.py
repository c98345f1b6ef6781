"""The blockwise kernel beyond its meaning: exact derivatives, precision, layouts, memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from components.attention.kernels import attend
from components.attention.kernels.blockwise import tiles as tiles_module
from components.attention.spec import AttentionInputs, AttentionSpec
from tests.kernels.oracle import attend_by_the_book, draw_inputs, leaves


def gradients(spec, inputs, kernel, d_out):
    fresh, by_name = leaves(inputs)
    out = attend(spec, fresh, kernel)
    return out.detach(), dict(zip(by_name, torch.autograd.grad(out, list(by_name.values()), d_out), strict=True))


@pytest.mark.parametrize("softcap", [None, 2.0, 1000.0])
@pytest.mark.parametrize("extras", [{}, {"alibi": True, "sinks": True}, {"sinks": True, "documents": True}])
def test_gradients_are_the_derivatives(monkeypatch, softcap, extras):
    monkeypatch.setattr(tiles_module, "ROWS", 3)
    monkeypatch.setattr(tiles_module, "TILE_SCORES", 16)
    inputs = draw_inputs(queries=6, heads=2, kv_heads=1, head_dim=2, **extras)
    inputs, by_name = leaves(inputs)
    spec = AttentionSpec(0.7, window=4, softcap=softcap)

    def call(*tensors):
        return attend(spec, replace(inputs, **dict(zip(by_name, tensors, strict=True))), "blockwise")

    assert torch.autograd.gradcheck(call, tuple(by_name.values()))


def test_the_caps_derivative_is_kept_where_it_saturates():
    inputs, by_name = leaves(draw_inputs(queries=3, heads=1, kv_heads=1))
    spec = AttentionSpec(1.0, softcap=1.5)
    expected = torch.autograd.grad(attend_by_the_book(spec, inputs)[0, 0, 2, 0], by_name["q"])[0]
    straight_through = torch.autograd.grad(attend(AttentionSpec(1.0), inputs, "blockwise")[0, 0, 2, 0], by_name["q"])[0]
    actual = torch.autograd.grad(attend(spec, inputs, "blockwise")[0, 0, 2, 0], by_name["q"])[0]
    torch.testing.assert_close(actual, expected)
    assert not torch.allclose(actual, straight_through, rtol=0.1)


# Contexts around the block sizes that stand in the code: one row, a rest, exactly a block, several tiles a block.
@pytest.mark.parametrize("context", [1, 63, 64, 130, 200])
@pytest.mark.parametrize(("window", "softcap"), [(None, 20.0), (None, None), (100, 20.0), (100, None)])
def test_sizes_around_the_blocks_agree_with_the_reference(context, window, softcap):
    inputs = draw_inputs(queries=context, batch=2, sinks=True)
    spec = AttentionSpec(0.4, window=window, softcap=softcap)
    d_out = torch.randn_like(inputs.q)
    out, grads = gradients(spec, inputs, "blockwise", d_out)
    expected, expected_grads = gradients(spec, inputs, "reference", d_out)
    torch.testing.assert_close(out, expected)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[name], msg=lambda text, name=name: f"{name}: {text}")


def test_long_contexts_take_wide_tiles_and_several_of_them():
    inputs = draw_inputs(queries=1300, heads=2, kv_heads=1, dtype=torch.float32)
    spec = AttentionSpec(0.4, softcap=20.0)
    d_out = torch.randn_like(inputs.q)
    out, grads = gradients(spec, inputs, "blockwise", d_out)
    expected, expected_grads = gradients(spec, inputs, "reference", d_out)
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)
    for name, grad in grads.items():
        scale = expected_grads[name].abs().max()
        torch.testing.assert_close(grad / scale, expected_grads[name] / scale, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("softcap", "alibi"), [(50.0, False), (50.0, True), (None, False), (80.0, False)])
def test_saturated_scores_stay_finite_and_exact_in_fp32(softcap, alibi):
    inputs = draw_inputs(queries=70, dtype=torch.float32, alibi=alibi)
    inputs = replace(inputs, q=inputs.q * 40, k=inputs.k * 40)
    spec = AttentionSpec(1.0, softcap=softcap)
    d_out = torch.randn_like(inputs.q)
    out, grads = gradients(spec, inputs, "blockwise", d_out)
    double = AttentionInputs(*(x.double() for x in (inputs.q, inputs.k, inputs.v)), alibi_slopes=inputs.alibi_slopes)
    expected, expected_grads = gradients(spec, double, "reference", d_out.double())
    torch.testing.assert_close(out.double(), expected, atol=2e-3, rtol=0)
    assert all(grad.isfinite().all() for grad in grads.values())
    torch.testing.assert_close(grads["v"].double(), expected_grads["v"], atol=2e-2, rtol=0)


@pytest.mark.parametrize("kernel", ["reference", "blockwise", "sdpa", "native"])
@pytest.mark.parametrize("alibi", [False, True])
def test_bf16_differs_from_exact_by_bf16_rounding_only(kernel, alibi):
    inputs = draw_inputs(queries=90, dtype=torch.bfloat16, head_dim=16)
    slopes = torch.tensor([2.0, 0.5, 0.1, 0.03]) if alibi else None
    inputs = replace(inputs, q=inputs.q / 4, alibi_slopes=slopes)
    spec = AttentionSpec(0.25, window=70)
    d_out = torch.randn_like(inputs.q)
    out, grads = gradients(spec, inputs, kernel, d_out)
    exact = replace(inputs, q=inputs.q.double(), k=inputs.k.double(), v=inputs.v.double())
    expected, expected_grads = gradients(spec, exact, "reference", d_out.double())
    assert out.dtype == torch.bfloat16
    for name in ("out", "q", "k", "v"):
        mine, book = (out, expected) if name == "out" else (grads[name], expected_grads[name])
        error = (mine.double() - book).norm() / book.norm()
        assert error < 0.01, f"{name} is off by {error:.3f}"


@pytest.mark.parametrize("kernel", ["reference", "blockwise", "sdpa", "native"])
def test_autocast_gives_what_casting_first_gives(kernel):
    inputs, by_name = leaves(draw_inputs(queries=20, dtype=torch.float32))
    spec = AttentionSpec(0.3)
    cast = AttentionInputs(inputs.q.bfloat16(), inputs.k.bfloat16(), inputs.v.bfloat16())
    mixed = replace(inputs, v=inputs.v.bfloat16())  # norms leave fp32 queries, projections bf16 values
    expected = attend(spec, cast, kernel)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attend(spec, mixed, kernel)
        out.float().square().sum().backward()
    assert torch.equal(out, expected)
    assert all(leaf.grad is not None and leaf.grad.dtype == torch.float32 for leaf in by_name.values())


def test_projections_layout_is_taken_as_it_comes():
    plain = draw_inputs(queries=70, batch=2)
    strided = replace(plain, **{n: getattr(plain, n).transpose(1, 2).contiguous().transpose(1, 2) for n in "qkv"})
    assert not strided.q.is_contiguous()
    spec = AttentionSpec(0.4, softcap=5.0)
    d_out = torch.randn(2, 70, 4, 8, dtype=torch.float64).transpose(1, 2)
    out, grads = gradients(spec, strided, "blockwise", d_out)
    expected, expected_grads = gradients(spec, plain, "blockwise", d_out.contiguous())
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(grads, expected_grads)


class LargestTensor(TorchDispatchMode):
    """Numel of the largest tensor that any operation returned, its storage counted."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor):
                self.numel = max(self.numel, x.numel(), x.untyped_storage().nbytes() // x.element_size())
        return result


@pytest.mark.parametrize("extras", [{}, {"alibi": True, "sinks": True, "documents": True}])
@pytest.mark.parametrize("window", [None, 256])
def test_no_tensor_is_as_large_as_the_scores_of_one_head(window, extras):
    context = 2048
    inputs, _ = leaves(draw_inputs(queries=context, heads=2, kv_heads=1, dtype=torch.float32, **extras))
    spec = AttentionSpec(0.3, window=window, softcap=50.0)
    with LargestTensor() as largest:
        attend(spec, inputs, "blockwise").sum().backward()
    assert 0 < largest.numel < context**2 / 8
    with LargestTensor() as largest, torch.no_grad():
        attend(AttentionSpec(0.3, window=8), draw_inputs(queries=256, kv_heads=4), "reference")
    assert largest.numel >= 256**2  # the ruler does measure


def test_backward_saves_inputs_output_and_one_number_a_row():
    inputs, _ = leaves(draw_inputs(queries=512, heads=4, kv_heads=2, head_dim=8, dtype=torch.float32, sinks=True))
    saved: list[torch.Tensor] = []

    def keep(x):
        saved.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        attend(AttentionSpec(0.3, softcap=50.0), inputs, "blockwise")
    sizes = sorted(x.numel() for x in saved)
    q, kv, rows = inputs.q.numel(), inputs.k.numel(), inputs.q.numel() // 8
    assert sizes == sorted([q, kv, kv, q, rows, 4])


def test_keys_and_values_are_not_repeated_for_their_query_heads():
    inputs, _ = leaves(draw_inputs(queries=4, offset=20_000, heads=8, kv_heads=1, dtype=torch.float32))
    with LargestTensor() as largest:
        attend(AttentionSpec(0.3, softcap=50.0), inputs, "blockwise").sum().backward()
    assert largest.numel <= max(inputs.k.numel(), tiles_module.TILE_SCORES)


def test_time_follows_the_window_not_the_context():
    class Scores(TorchDispatchMode):
        computed = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if func.overloadpacket in (torch.ops.aten.exp_, torch.ops.aten.exp2_):
                self.computed += result.numel()
            return result

    inputs = draw_inputs(queries=2048, heads=1, kv_heads=1, dtype=torch.float32)
    with Scores() as scores:
        attend(AttentionSpec(0.3, window=128, softcap=50.0), inputs, "blockwise")
    assert 2048 * 128 < scores.computed < 2048 * 128 * 1.7


def test_second_derivatives_are_refused_rather_than_wrong():
    inputs, _ = leaves(draw_inputs(queries=4))
    out = attend(AttentionSpec(0.3), inputs, "blockwise")
    with pytest.raises(RuntimeError, match="no second derivatives; use reference"):
        torch.autograd.grad(out.sum(), inputs.q, create_graph=True)


@pytest.mark.slow
def test_it_compiles_whole_forward_and_backward():
    inputs = draw_inputs(queries=70, dtype=torch.float32)
    spec = AttentionSpec(0.3, window=60, softcap=20.0)
    compiled, by_name = leaves(inputs)
    call = torch.compile(lambda x: attend(spec, x, "blockwise"), backend="aot_eager", fullgraph=True)
    d_out = torch.randn_like(inputs.q)
    grads = torch.autograd.grad(call(compiled), list(by_name.values()), d_out)
    _, expected = gradients(spec, inputs, "reference", d_out)
    torch.testing.assert_close(dict(zip(by_name, grads, strict=True)), expected, atol=1e-4, rtol=1e-4)
