"""Fused rotary positions against the naive form in fp64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from components.position.positions import RoPE, Rotation
from tests.fused.pieces import DTYPES, TOLERANCE, assert_close_to_fp64, distance, needs_library, noise

pytestmark = needs_library


def rotation(size: int, positions: int, **options: object) -> Rotation:
    return RoPE(**options).rotation(size, torch.arange(positions))  # type: ignore[arg-type]


def in_fp64(turn: Rotation) -> Rotation:
    return replace(turn, cos=turn.cos.double(), sin=turn.sin.double())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pairing", ["half", "interleaved"])
@pytest.mark.parametrize(("size", "fraction"), [(64, 1.0), (64, 0.25), (10, 1.0), (6, 0.34), (48, 0.75), (256, 1.0)])
@pytest.mark.parametrize("positions", [1, 70])
def test_rotations_and_their_gradients(
    positions: int, size: int, fraction: float, pairing: str, dtype: torch.dtype
) -> None:
    turn = rotation(size, positions, fraction=fraction, pairing=pairing)
    x = noise(2, positions, 3, size).to(dtype)  # as a projection gives it
    assert_close_to_fp64(lambda x: turn(x.transpose(1, 2)), lambda x: in_fp64(turn)(x.transpose(1, 2)), [x])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_part_of_wider_heads_is_turned_where_it_is(dtype: torch.dtype) -> None:
    turn = rotation(16, 9)
    wide = noise(2, 9, 4, 50).to(dtype)
    for x in (wide.transpose(1, 2)[..., 30:46], wide.transpose(1, 2)[..., 1:33:2], wide[:, :, :1, :16].transpose(1, 2)):
        assert distance(turn(x), in_fp64(turn)(x.double())) < TOLERANCE[dtype]


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
def test_bf16_is_rounded_once(pairing: str) -> None:
    turn, x = rotation(64, 50, pairing=pairing), noise(1, 2, 50, 64).bfloat16()
    exact = in_fp64(turn)(x.double())
    assert torch.equal(turn(x), exact.bfloat16()) or (turn(x).double() - exact).abs().max() < 0.0079 * exact.abs().max()
    assert (turn(x).double() - exact).abs().mean() < 0.7 * (turn.naive(x).double() - exact).abs().mean()


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
def test_nan_and_infinity_stay_in_their_pair(pairing: str) -> None:
    turn, x = rotation(8, 4, pairing=pairing), noise(1, 1, 4, 8)
    x[0, 0, 1, 2], x[0, 0, 2, 7] = float("nan"), float("inf")
    torch.testing.assert_close(turn(x), turn.naive(x), equal_nan=True)


def test_the_gradient_is_laid_out_as_the_projection() -> None:
    turn, x = rotation(16, 20), noise(2, 20, 3, 16).requires_grad_()
    view = x.transpose(1, 2)
    (gradient,) = torch.autograd.grad(turn(view).sum(), view)
    assert gradient.stride() == view.stride()


def test_the_bits_are_the_same_in_one_and_two_threads() -> None:
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            x = noise(3, 4, 100, 32).requires_grad_()
            y = rotation(32, 100)(x)
            results.append((y, *torch.autograd.grad(y, x, noise(3, 4, 100, 32, seed=1))))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def test_second_derivatives_are_those_of_the_formula() -> None:
    turn = rotation(8, 5)

    def curvature(rotate: object) -> Tensor:
        x = noise(1, 2, 5, 8).requires_grad_()
        (first,) = torch.autograd.grad((rotate(x) ** 4).sum(), x, create_graph=True)  # type: ignore[operator]
        return torch.autograd.grad((first**2).sum(), x)[0]

    torch.testing.assert_close(curvature(turn), curvature(turn.naive), rtol=1e-4, atol=1e-4)
