"""The fused RMSNorm against its formula in fp64."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from components.fused.norm import rms_norm, rms_norm_and_stream
from components.fused.piece import naive
from components.fused.rms import RMS, naive_rms_norm
from components.norm import RMSNormLayer, ZeroCenteredRMSNormLayer
from tests.fused.pieces import DTYPES, TOLERANCE, assert_close_to_fp64, distance, needs_library, noise

pytestmark = needs_library

NORMS = [RMS(1e-6), RMS(1e-2, zero_centered=True), RMS(1e-5, round_first=True)]
SHAPES = [(1, 1), (3, 5), (2, 300, 16), (1, 129, 37), (2, 3, 4, 65)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rms", NORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_output_and_gradients_are_those_of_the_formula(shape: tuple[int, ...], rms: RMS, dtype: torch.dtype) -> None:
    x, weight = (3 * noise(*shape)).to(dtype), noise(shape[-1], seed=1) + 0.5
    assert_close_to_fp64(
        lambda x, w: rms_norm(x, w, rms, None, dtype), lambda x, w: naive_rms_norm(x, w, rms), [x, weight]
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stream", DTYPES)
def test_the_residual_is_added_before_the_sum_is_rounded(dtype: torch.dtype, stream: torch.dtype) -> None:
    rms, out = RMS(1e-6, zero_centered=True), torch.promote_types(dtype, stream)
    inputs = [noise(2, 40, 24).to(dtype), noise(24, seed=1), (4 * noise(2, 40, 24, seed=2)).to(stream)]
    assert_close_to_fp64(
        lambda x, w, s: rms_norm(x, w, rms, s, out),
        lambda x, w, s: s + naive_rms_norm(x, w, rms),
        inputs,
        torch.bfloat16 if torch.bfloat16 in (dtype, stream) else None,
    )
    if out == torch.float32:  # the norm of bf16 numbers isn't rounded to bf16 on its way
        x, w, s = inputs
        exact = s.double() + naive_rms_norm(x.double(), w.double(), rms)
        assert distance(rms_norm(x, w, rms, s, out), exact) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_stream_is_handed_on_and_its_gradient_is_added(dtype: torch.dtype) -> None:
    rms = RMS(1e-6)

    def both(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        return rms_norm_and_stream(x, w, rms, dtype)

    inputs = [(2 * noise(3, 50, 32)).to(dtype), noise(32, seed=1)]
    assert_close_to_fp64(both, lambda x, w: (naive_rms_norm(x, w, rms), x), inputs)
    x = inputs[0].clone().requires_grad_()
    _, stream = both(x, inputs[1])
    stream.sum().backward()  # nobody reads the norm
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones_like(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_of_any_kind_are_read(dtype: torch.dtype) -> None:
    rms, weight = RMS(1e-6, zero_centered=True), noise(16, seed=1)
    base = noise(4, 6, 5, 32).to(dtype)
    views = [
        base[..., :16].transpose(1, 2),
        base[..., ::2],
        base[::2, 1:, :, 16:],
        base[..., 0][..., None].expand(4, 6, 5, 16),
        base[0, :, :, :16].expand(2, 3, 6, 5, 16).transpose(0, 3),
    ]
    for x in views:
        exact = naive_rms_norm(x.double(), weight.double(), rms)
        assert distance(rms_norm(x, weight, rms, None, dtype), exact) < TOLERANCE[dtype]
        assert_close_to_fp64(
            lambda x, w: rms_norm(x, w, rms, None, dtype).transpose(0, 1),  # so that gradients have strides too
            lambda x, w: naive_rms_norm(x, w, rms).transpose(0, 1),
            [x, weight],
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_infinity_and_zero_rows_come_out_as_in_the_naive_form(dtype: torch.dtype) -> None:
    x = noise(6, 24)
    x[1, 3], x[2, 5], x[3, 0], x[4] = float("nan"), float("inf"), -float("inf"), 0
    x = x.to(dtype)
    for layer in (RMSNormLayer(24, 1e-6), ZeroCenteredRMSNormLayer(24, 1e-6)):
        torch.nn.init.normal_(layer.weight)
        results = []
        for is_naive in (False, True):
            leaf = x.clone().requires_grad_()
            with naive() if is_naive else nullcontext():
                y = layer(leaf)
            (gradient,) = torch.autograd.grad(y.sum(), leaf)
            results.append((y.detach(), gradient))
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02, equal_nan=True)


def test_no_rows_give_no_rows_and_a_gain_without_gradient() -> None:
    x, weight = noise(0, 8).requires_grad_(), noise(8).requires_grad_()
    y = rms_norm(x, weight, RMS(1e-6), None, torch.float32)
    assert y.shape == (0, 8)
    gradients = torch.autograd.grad(y.sum(), (x, weight))
    assert torch.equal(gradients[1], torch.zeros(8))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bits_are_the_same_in_one_and_two_threads(dtype: torch.dtype) -> None:
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            x, weight = noise(5, 211, 48).to(dtype).requires_grad_(), noise(48, seed=1).requires_grad_()
            y, stream = rms_norm_and_stream(x, weight, RMS(1e-6), torch.float32)
            gradients = torch.autograd.grad((y * noise(*y.shape)).sum() + stream.sum(), (x, weight))
            results.append((y, *gradients))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def test_second_derivatives_are_those_of_the_formula() -> None:
    rms, x, weight = RMS(1e-3, zero_centered=True), noise(3, 8), noise(8, seed=1)

    def curvature(norm: object) -> tuple[Tensor, ...]:
        leaves = (x.clone().requires_grad_(), weight.clone().requires_grad_())
        y, stream = norm(*leaves)  # type: ignore[operator]
        first = torch.autograd.grad((y**3 + stream**2).sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum((g**2).sum() for g in first), leaves)  # type: ignore[arg-type]

    ours = curvature(lambda x, w: rms_norm_and_stream(x, w, rms, torch.float32))
    for one, other in zip(ours, curvature(lambda x, w: (naive_rms_norm(x, w, rms), x)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
