"""Which kernel is chosen, what is refused by name, and dropout."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from components.attention import kernels
from components.attention.kernels import (
    KERNELS,
    Case,
    KernelRefused,
    UnknownKernel,
    attend,
    choose,
    explain,
    lookup,
    planned_refusal,
)
from components.attention.kernels.choice import preference
from components.attention.kernels.reproducible import repeatable
from components.attention.kernels.sdpa import is_fused
from components.attention.spec import AttentionSpec
from tests.kernels.oracle import IN_DOUBLE, draw_inputs, leaves


@pytest.mark.parametrize(
    ("kernel", "spec", "extras", "named"),
    [
        ("sdpa", AttentionSpec(1.0, softcap=50.0), {}, "softcap = 50"),
        ("sdpa", AttentionSpec(1.0), {"sinks": True}, "sinks"),
        ("blockwise", AttentionSpec(1.0, dropout=0.1), {}, "dropout = 0.1"),
        ("native", AttentionSpec(1.0, dropout=0.1), {}, "dropout = 0.1"),
        ("flex", AttentionSpec(1.0, dropout=0.1), {}, "dropout = 0.1"),
        ("flex", AttentionSpec(1.0), {"sinks": True}, "sinks"),
        ("xformers", AttentionSpec(1.0), {}, "device = cpu"),
    ],
)
def test_a_kernel_asked_for_by_name_refuses_naming_the_field(kernel, spec, extras, named):
    inputs = draw_inputs(**extras)
    assert named in KERNELS[kernel].spec_refusal(spec, device="cpu", **extras)
    with pytest.raises(KernelRefused, match=named) as refused:
        attend(spec, inputs, kernel, training=True)
    assert refused.value.kernel == kernel
    assert named in refused.value.reason
    with pytest.raises(KernelRefused, match=named):
        choose(spec, inputs, kernel)
    with pytest.raises(KernelRefused, match=named):
        KERNELS[kernel].attend(spec, inputs)


@pytest.mark.parametrize("kernel", list(KERNELS))
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("extras", [{}, {"alibi": True}, {"sinks": True}, {"documents": True}])
def test_planning_and_running_refuse_the_same(kernel, softcap, dropout, extras):
    spec = AttentionSpec(1.0, softcap=softcap, dropout=dropout)
    case = Case("cpu", torch.float64, heads=4, kv_heads=2, queries=9, keys=9, head_dim=8, value_dim=8, **extras)
    assert planned_refusal(kernel, spec, case) == KERNELS[kernel].refusal(spec, draw_inputs(**extras))
    training = replace(case, training=True, dtype=torch.float32, alibi_trained=case.alibi)
    inputs, _ = leaves(draw_inputs(dtype=torch.float32, **extras))
    assert planned_refusal(kernel, spec, training) == KERNELS[kernel].refusal(spec, inputs)


def test_a_misspelt_kernel_is_answered_with_the_nearest_name():
    with pytest.raises(UnknownKernel, match="no attention kernel is called 'blokwise'; did you mean 'blockwise'"):
        attend(AttentionSpec(1.0), draw_inputs(), "blokwise")
    with pytest.raises(UnknownKernel, match="did you mean 'reference'"):
        lookup("referense")


@pytest.mark.parametrize("context", [4, 600])
@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("softcap", [None, 50.0])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("extras", [{}, {"sinks": True, "documents": True, "alibi": True}])
def test_auto_never_chooses_a_kernel_that_refuses(context, window, softcap, dropout, extras):
    spec = AttentionSpec(1.0, window=window, softcap=softcap, dropout=dropout)
    inputs = draw_inputs(queries=context, **extras)
    assert choose(spec, inputs).refusal(spec, inputs) is None
    assert planned_refusal("auto", spec, Case.of(inputs)) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spec", [AttentionSpec(1.0), AttentionSpec(1.0, window=100), AttentionSpec(1.0, softcap=50.0)])
@pytest.mark.parametrize("queries", [1, 4, 600])
def test_auto_takes_the_native_kernel_on_cpu(dtype, spec, queries):
    assert choose(spec, draw_inputs(queries=queries, offset=600 - queries, dtype=dtype)).name == "native"


def test_auto_takes_what_measured_fastest_where_the_native_kernel_refuses():
    long = draw_inputs(queries=600)
    assert choose(AttentionSpec(1.0), long).name == "sdpa"
    assert choose(AttentionSpec(1.0, window=100), long).name == "blockwise"
    assert choose(AttentionSpec(1.0, softcap=50.0), long).name == "blockwise"
    assert choose(AttentionSpec(1.0, softcap=50.0), draw_inputs(queries=4)).name == "reference"
    assert choose(AttentionSpec(1.0, dropout=0.1, window=100), long).name == "sdpa"
    assert choose(AttentionSpec(1.0, dropout=0.1, softcap=50.0), long).name == "reference"


# How a step of Gemma 2 stands on a CUDA device, which choosing needs none of.
GPU = Case(
    "cuda", torch.bfloat16, heads=8, kv_heads=4, queries=4096, keys=4096, head_dim=256, value_dim=256, training=True
)
PLAIN = AttentionSpec(1.0)


@pytest.mark.parametrize(
    ("first", "spec", "change"),
    [
        ("sdpa", PLAIN, {}),
        ("sdpa", replace(PLAIN, window=4096), {}),
        ("sdpa", PLAIN, {"training": False, "queries": 1, "offset": 4095}),
        ("flex", replace(PLAIN, softcap=50.0), {}),
        ("flex", replace(PLAIN, window=1024), {}),
        ("flex", PLAIN, {"documents": True}),
        ("flex", PLAIN, {"sinks": True}),
        ("flex", PLAIN, {"dtype": torch.float32}),  # sdpa's fp32 kernel takes no grouped heads
        ("sdpa", PLAIN, {"dtype": torch.float32, "kv_heads": 8}),
        ("xformers", PLAIN, {"training": False, "queries": 1024, "offset": 3072}),
        ("xformers", replace(PLAIN, window=1024, dropout=0.1), {}),
        ("blockwise", replace(PLAIN, window=1024, softcap=50.0), {"head_dim": 8, "value_dim": 8}),
        ("blockwise", replace(PLAIN, softcap=50.0), {"dtype": torch.float64}),
    ],
)
def test_on_cuda_fused_comes_before_compiled_before_tiles(monkeypatch, first, spec, change):
    monkeypatch.setattr("components.attention.kernels.flex.toolchain_missing", lambda device: None)
    case = replace(GPU, **change)
    order = preference(spec, case)
    assert sorted(order) == sorted(KERNELS)
    assert next(name for name in order if KERNELS[name].planned_refusal(spec, case) is None) == first


def test_auto_leaves_documents_to_kernels_that_need_not_read_them():
    order = preference(PLAIN, replace(GPU, documents=True))
    assert order.index("xformers") > order.index("reference")


@pytest.mark.parametrize("change", [{"alibi": True}, {"documents": True}, {"queries": 100}, {"value_dim": 64}])
def test_whatever_needs_a_mask_is_not_called_fused(change):
    assert is_fused(PLAIN, GPU)
    assert not is_fused(PLAIN, replace(GPU, **change))
    assert not is_fused(replace(PLAIN, window=4095), GPU)
    assert not is_fused(replace(PLAIN, softcap=50.0), GPU)


def test_a_choice_says_of_every_other_kernel_why_not():
    inputs, _ = leaves(draw_inputs(queries=600, dtype=torch.float32))
    choice = explain(AttentionSpec(1.0, softcap=50.0), inputs)
    assert choice.kernel == "native"
    assert set(choice.others) == set(KERNELS) - {"native"}
    assert choice.others["sdpa"].startswith("refuses: softcap = 50")
    assert choice.others["flex"].startswith("refuses: training on cpu")
    assert choice.others["xformers"].startswith("refuses: device = cpu")
    assert choice.others["blockwise"] == "comes after native for such a call"
    named = explain(AttentionSpec(1.0), inputs, "reference")
    assert (named.kernel, named.others["sdpa"]) == ("reference", "not asked for")
    # A window that hides nothing is none, for the choice as for the result.
    assert (
        explain(AttentionSpec(1.0, window=600), inputs).kernel == explain(AttentionSpec(1.0), inputs).kernel == "native"
    )


def test_a_kernel_is_asked_in_the_dtype_that_autocast_gives_it():
    inputs = draw_inputs(dtype=torch.float32)
    assert Case.of(inputs).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Case.of(inputs).dtype == torch.bfloat16
        assert Case.of(draw_inputs()).dtype == torch.float64


def test_a_fused_backward_pass_is_strict_about_order_while_it_runs():
    modes = []

    class Spy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            modes.append(torch.get_deterministic_debug_mode())
            return grad * 2

    def run(*names):
        x = torch.ones(3, requires_grad=True)
        repeatable(Spy.apply(x)[None, :2], *names).sum().backward()
        return modes.pop()

    before = torch.get_deterministic_debug_mode()
    try:
        torch.set_deterministic_debug_mode("warn")
        assert run("SpyBackward") == 2, "error: strict"
        assert torch.get_deterministic_debug_mode() == 1, "as it was"
        assert run("Another") == 1
        torch.set_deterministic_debug_mode("default")
        assert run("SpyBackward") == 0, "nobody asked for the same bits"
    finally:
        torch.set_deterministic_debug_mode(before)


def test_choosing_a_kernel_reads_no_tensor_values():
    inputs = draw_inputs(queries=300, sinks=True, documents=True)
    on_meta = {n: getattr(inputs, n).to("meta") for n in ("q", "k", "v", "sinks", "documents")}
    assert choose(AttentionSpec(1.0, softcap=50.0), replace(inputs, **on_meta)).name == "blockwise"


@pytest.mark.parametrize("kernel", ["reference", "sdpa"])
def test_dropout_drops_weights_and_keeps_their_mean(kernel):
    inputs = draw_inputs(queries=64, heads=2, kv_heads=2)
    eye = torch.eye(64, dtype=torch.float64).expand(1, 2, 64, 64)  # one-hot values: the output is the weights
    inputs = replace(inputs, v=eye)
    kept = attend(AttentionSpec(0.1), inputs, kernel)
    torch.manual_seed(0)
    dropped = attend(AttentionSpec(0.1, dropout=0.25), inputs, kernel, training=True)
    survivors = dropped != 0
    torch.testing.assert_close(dropped[survivors], kept[survivors] / 0.75)
    share = survivors.sum() / (kept != 0).sum()
    assert 0.70 < share < 0.80


@pytest.mark.parametrize("kernel", ["auto", *IN_DOUBLE])
def test_dropout_is_off_outside_of_training(kernel):
    inputs = draw_inputs(queries=300)
    expected = attend(AttentionSpec(0.1), inputs, "reference")
    torch.testing.assert_close(attend(AttentionSpec(0.1, dropout=0.9), inputs, kernel), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offset": 3}, "9 queries from offset 3 need their own keys among the 9"),
        ({"offset": -1}, "offset -1"),
        ({"sinks": torch.zeros(2)}, r"sinks must have shape \(4,\)"),
        ({"documents": torch.zeros(1, 8)}, "documents must have shape"),
        ({"v": torch.zeros(1, 2, 8, 8).double()}, "do not fit together"),
        ({"v": torch.zeros(1, 2, 9, 8)}, "share a dtype"),
    ],
)
def test_tensors_that_do_not_fit_together_are_named(change, message):
    inputs = replace(draw_inputs(), **change)
    for kernel in kernels.names():
        with pytest.raises(ValueError, match=message):
            attend(AttentionSpec(1.0), inputs, kernel)
