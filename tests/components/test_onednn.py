"""components.onednn: oneDNN's products are those of fp64, forward and backward, and only where they suit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from components import onednn
from components.initialization import Projection

CALLS = "lab_onednn::rows_by_weight"


@pytest.fixture(autouse=True)
def _small_products_count(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(onednn, "MIN_MULTIPLICATIONS", 1)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def calls(work: object) -> list[str]:
    """The names of the operators that `work` calls."""
    from torch.utils._python_dispatch import TorchDispatchMode

    names: list[str] = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):  # type: ignore[no-untyped-def]
            names.append(function.name())
            return function(*arguments, **(options or {}))

    with Record():
        work()  # type: ignore[operator]
    return names


@pytest.mark.parametrize("shape", [(1, 1), (7,), (2, 3), (64,), (2, 33)])
@pytest.mark.parametrize("sizes", [(1, 1), (16, 16), (33, 65), (65, 33)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_products_and_gradients_are_those_of_fp64(
    shape: tuple[int, ...], sizes: tuple[int, int], has_bias: bool
) -> None:
    d_in, d_out = sizes
    x, weight = drawn(*shape, d_in).requires_grad_(), drawn(d_out, d_in, seed=1).requires_grad_()
    bias = drawn(d_out, seed=2).requires_grad_() if has_bias else None
    leaves = [x, weight] if bias is None else [x, weight, bias]
    d_y = drawn(*shape, d_out, seed=3)

    def value_and_gradients(*tensors: Tensor) -> list[Tensor]:
        y = onednn.project(*tensors)
        return [y, *torch.autograd.grad(y, tensors, d_y.to(y.dtype))]

    assert CALLS in calls(lambda: onednn.project(x, weight, bias))
    ours = value_and_gradients(*leaves)
    exact = value_and_gradients(*(leaf.detach().double().requires_grad_() for leaf in leaves))
    for own, other in zip(ours, exact, strict=True):
        assert own.dtype == torch.float32
        assert own.shape == other.shape
        torch.testing.assert_close(own.double(), other, atol=2e-5, rtol=1e-5)


def test_an_input_and_a_weight_of_any_strides_are_taken_as_they_are() -> None:
    x, weight = drawn(8, 5, 12).transpose(0, 1)[..., ::2], drawn(6, 9, seed=1).mT
    torch.testing.assert_close(onednn.project(x, weight), x @ weight.mT)


def test_second_derivatives_are_those_of_the_plain_form() -> None:
    def second(project: object) -> list[Tensor]:
        x, weight = drawn(9, 4).requires_grad_(), drawn(5, 4, seed=1).requires_grad_()
        y = project(x, weight).sin().sum()  # type: ignore[operator]
        first = torch.autograd.grad(y, (x, weight), create_graph=True)
        return list(torch.autograd.grad(sum(gradient.square().sum() for gradient in first), (x, weight)))

    for own, other in zip(second(onednn.project), second(torch.nn.functional.linear), strict=True):
        torch.testing.assert_close(own, other, atol=1e-4, rtol=1e-4)


def test_a_gradient_that_nobody_needs_is_not_computed() -> None:
    x, weight = drawn(9, 4), drawn(5, 4, seed=1).requires_grad_()
    y = onednn.project(x, weight)
    assert calls(lambda: y.sum().backward()).count(CALLS) == 0
    assert x.grad is None


def test_other_precisions_and_small_products_are_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = drawn(9, 4), drawn(5, 4, seed=1)
    assert CALLS in calls(lambda: onednn.project(x, weight))
    with torch.autocast("cpu", torch.bfloat16):
        assert CALLS not in calls(lambda: onednn.project(x, weight))
        assert onednn.project(x, weight).dtype == torch.bfloat16
    for dtype in (torch.float64, torch.bfloat16):
        assert CALLS not in calls(lambda dtype=dtype: onednn.project(x.to(dtype), weight.to(dtype)))
    monkeypatch.setattr(onednn, "MIN_MULTIPLICATIONS", 9 * 4 * 5 + 1)
    assert CALLS not in calls(lambda: onednn.project(x, weight))


def test_the_processor_decides_and_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_faster(**fields: str) -> bool:
        monkeypatch.setattr(onednn, "features", lambda: fields)
        onednn.onednn_is_faster.cache_clear()
        return onednn.onednn_is_faster()

    try:
        assert is_faster(vendor_id="AuthenticAMD", flags="avx2 avx512f") == torch.backends.mkl.is_available()
        assert not is_faster(vendor_id="AuthenticAMD", flags="avx2")
        assert not is_faster(vendor_id="GenuineIntel", flags="avx2 avx512f")
        assert not is_faster()
    finally:
        onednn.onednn_is_faster.cache_clear()


def test_a_projection_multiplies_by_either_and_says_the_same() -> None:
    projection = Projection(12, 7, bias=True)
    torch.nn.init.normal_(projection.weight)
    torch.nn.init.normal_(projection.bias)
    x = drawn(3, 5, 12)
    results = []
    for projection.by_onednn in (False, True):
        assert (CALLS in calls(lambda: projection(x))) == projection.by_onednn
        results.append(projection(x))
    torch.testing.assert_close(*results)


@pytest.mark.slow
def test_a_compiled_projection_calls_it_forward_and_backward() -> None:
    projection = Projection(16, 8)
    torch.nn.init.normal_(projection.weight)
    projection.by_onednn = True
    x = drawn(64, 16).requires_grad_()
    compiled = torch.compile(projection.forward, dynamic=False, fullgraph=True)
    for own, other in zip(
        torch.autograd.grad(compiled(x).sin().sum(), (x, projection.weight)),
        torch.autograd.grad((x @ projection.weight.mT).sin().sum(), (x, projection.weight)),
        strict=True,
    ):
        torch.testing.assert_close(own, other, atol=1e-4, rtol=1e-4)
