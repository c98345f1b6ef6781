"""Inputs of the tests of fused pieces, and how far results may be from fp64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from components.fused.piece import LIBRARY

needs_library = pytest.mark.skipif(LIBRARY.unavailable() is not None, reason=f"fused pieces: {LIBRARY.unavailable()}")

DTYPES = [torch.float32, torch.bfloat16]
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2}
"""Of the largest value: a few roundings."""

Form = Callable[..., Tensor | tuple[Tensor, ...]]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def distance(x: Tensor, exact: Tensor) -> float:
    """The largest difference, over the largest value; that counts as 0.1 at least, where all but rounding cancels."""
    assert x.shape == exact.shape
    if not x.numel():
        return 0.0
    return ((x.double() - exact).abs().max() / exact.abs().max().clamp(min=0.1)).item()


def assert_close_to_fp64(fused: Form, naive: Form, inputs: list[Tensor], dtype: torch.dtype | None = None) -> None:
    """Outputs and gradients of the fused form on these inputs are those of the naive form on the same in fp64."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    outputs, references = _as_tuple(fused(*leaves)), _as_tuple(naive(*exact))
    tolerance = TOLERANCE[dtype or inputs[0].dtype]
    weights = [noise(*y.shape, seed=9 + number) for number, y in enumerate(references)]
    for y, reference in zip(outputs, references, strict=True):
        assert distance(y, reference) < tolerance
    total = [(y * w.to(y.dtype)) for y, w in zip(outputs, weights, strict=True)]
    exact_total = [(y * w.to(x.dtype).double()) for y, x, w in zip(references, outputs, weights, strict=True)]
    gradients = torch.autograd.grad(sum(x.double().sum() for x in total), leaves)  # type: ignore[arg-type]
    exact_gradients = torch.autograd.grad(sum(x.sum() for x in exact_total), exact)  # type: ignore[arg-type]
    for x, gradient, reference in zip(leaves, gradients, exact_gradients, strict=True):
        assert gradient.dtype == x.dtype
        assert distance(gradient, reference) < tolerance


def _as_tuple(x: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return x if isinstance(x, tuple) else (x,)
