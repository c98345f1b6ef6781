"""The fused activations of MLPs against their formulas in fp64, alone and with the last product."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from components import mlp
from components.forward_context import ForwardContext
from components.fused.piece import naive
from components.mlp import DenseMLP
from components.registry import lookup, names
from tests.fused.pieces import DTYPES, TOLERANCE, assert_close_to_fp64, distance, needs_library, noise

pytestmark = needs_library

FORMS: dict[str, DenseMLP] = {
    name: form(d_ff=8)  # type: ignore[call-arg]
    for name, form in ((name, lookup("mlp", name)) for name in names("mlp"))
    if issubclass(form, DenseMLP)
} | {"geglu_erf": mlp.GEGLU(d_ff=8, tanh=False), "clamped_tight": mlp.ClampedSwiGLU(d_ff=8, limit=1.5, alpha=0.7)}


def test_every_dense_mlp_has_a_fused_form() -> None:
    assert len(FORMS) >= 13
    assert [name for name, form in FORMS.items() if form.fused is None] == []


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 37), (1, 2, 3000)])
def test_value_and_gradients_are_those_of_the_formula(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    form = FORMS[name]
    inputs = [(3 * noise(*shape, seed=number)).to(dtype) for number in range(len(form.inputs))]
    assert_close_to_fp64(form.join, form.inner, inputs)


@pytest.mark.parametrize("name", ["geglu", "swiglu", "gelu", "gelu_tanh", "silu", "geglu_erf"])
def test_far_out_values_are_as_exact(name: str) -> None:
    form = FORMS[name]
    x = torch.linspace(-40, 40, 4001)
    x = x[(x.abs() > 1e-3)]
    inputs = [x, torch.ones_like(x)][: len(form.inputs)]
    exact = form.inner(*(part.double() for part in inputs))
    error = (form.join(*inputs).double() - exact).abs()
    assert (error / (1e-6 * exact.abs() + 4e-7)).max() < 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORMS)
def test_nan_and_infinity_come_out_as_in_the_naive_form(name: str, dtype: torch.dtype) -> None:
    form, odd = FORMS[name], torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 100.0, -100.0, 1e-30])
    gate, up = (x.flatten() for x in torch.meshgrid(odd, odd, indexing="ij"))
    inputs = [gate.to(dtype), up.to(dtype)][: len(form.inputs)]
    ours, theirs = form.join(*inputs), form.inner(*inputs)
    # Where torch's erf gives NaN at infinity in fp32, fp64 knows better.
    exact = form.inner(*(x.double() for x in inputs)).to(dtype)
    same = [torch.isclose(ours, other, rtol=0.01, atol=1e-6, equal_nan=True) for other in (theirs, exact)]
    assert (same[0] | (same[1] & theirs.isnan())).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_of_any_kind_are_read(dtype: torch.dtype) -> None:
    both = noise(6, 5, 40).to(dtype)
    assert_close_to_fp64(
        lambda x: FORMS["geglu"].join(x[..., :20], x[..., 20:]).transpose(0, 1),
        lambda x: FORMS["geglu"].inner(x[..., :20], x[..., 20:]).transpose(0, 1),
        [both],
    )


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", ["geglu", "swiglu", "relu2"])
def test_a_network_is_its_formula_in_fp64(name: str, bias: bool, autocast: bool) -> None:
    form = lookup("mlp", name)(d_ff=40, bias=bias)  # type: ignore[call-arg]
    network = form.build(24)  # type: ignore[attr-defined]
    for number, parameter in enumerate(network.parameters()):
        parameter.data = noise(*parameter.shape, seed=number) / 3
    exact = form.build(24).double()  # type: ignore[attr-defined]
    exact.load_state_dict({key: value.double() for key, value in network.state_dict().items()})
    context = ForwardContext({}, {}, None, "auto")
    x = noise(3, 401, 24, seed=20)  # more rows than go through at once

    def results(module: torch.nn.Module, x: Tensor) -> list[Tensor]:
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast and x.dtype == torch.float32):
            y = module(leaf, context)
        d_y = noise(*y.shape, seed=21).to(y.dtype)
        return [y.detach(), *torch.autograd.grad(y, (leaf, *module.parameters()), d_y)]

    tolerance = 3e-2 if autocast else TOLERANCE[torch.float32]
    for ours, reference in zip(results(network, x), results(exact, x.double()), strict=True):
        assert distance(ours, reference) < tolerance
    if autocast:  # not farther from the truth than the naive form
        with naive():
            plain = [distance(a, b) for a, b in zip(results(network, x), results(exact, x.double()), strict=True)]
        fused = [distance(a, b) for a, b in zip(results(network, x), results(exact, x.double()), strict=True)]
        assert all(ours < 1.5 * theirs for ours, theirs in zip(fused, plain, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bits_are_the_same_in_one_and_two_threads(dtype: torch.dtype) -> None:
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            gate, up = (noise(70, 300, seed=seed).to(dtype).requires_grad_() for seed in (0, 1))
            y = FORMS["geglu"].join(gate, up)
            results.append((y, *torch.autograd.grad((y * noise(70, 300, seed=2)).sum(), (gate, up))))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


class Halved(mlp.SwiGLU):
    """Someone's own MLP: a formula of its own under an inherited activation."""

    def inner(self, *projected: Tensor) -> Tensor:
        return super().inner(*projected) / 2


def test_a_formula_of_ones_own_is_what_is_computed() -> None:
    gate, up = noise(3, 8), noise(3, 8, seed=1)
    torch.testing.assert_close(Halved(d_ff=8).join(gate, up), mlp.SwiGLU(d_ff=8).inner(gate, up) / 2)


def test_second_derivatives_are_those_of_the_formula() -> None:
    def curvature(form: object) -> tuple[Tensor, ...]:
        leaves = (noise(4, 8).requires_grad_(), noise(4, 8, seed=1).requires_grad_())
        first = torch.autograd.grad((form(*leaves) ** 2).sum(), leaves, create_graph=True)  # type: ignore[operator]
        return torch.autograd.grad(sum((g**2).sum() for g in first), leaves)  # type: ignore[arg-type]

    for one, other in zip(curvature(FORMS["geglu"].join), curvature(FORMS["geglu"].inner), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_large_products_are_those_of_fp64() -> None:
    """So large that projections may use oneDNN for them."""
    network, exact = mlp.SwiGLU(d_ff=512).build(256), mlp.SwiGLU(d_ff=512).build(256).double()
    for number, parameter in enumerate(network.parameters()):
        parameter.data = noise(*parameter.shape, seed=number) / 16
    exact.load_state_dict({key: value.double() for key, value in network.state_dict().items()})
    context, results = ForwardContext({}, {}, None, "auto"), []
    for module, dtype in ((network, torch.float32), (exact, torch.float64)):
        x = noise(600, 256).to(dtype).requires_grad_()
        y = module(x, context)
        d_y = noise(600, 256, seed=1).to(dtype)
        results.append([y, *torch.autograd.grad(y, (x, *module.parameters()), d_y)])
    for ours, reference in zip(*results, strict=True):
        assert distance(ours, reference) < 3e-6
