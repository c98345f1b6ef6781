"""Which kernel is chosen, what is refused by name, and dropout."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from components.attention import kernels
from components.attention.kernels import KERNELS, KernelRefused, UnknownKernel, attend, choose, spec_refusal
from components.attention.spec import AttentionSpec
from tests.kernels.oracle import draw_inputs


@pytest.mark.parametrize(
    ("kernel", "spec", "extras", "named"),
    [
        ("sdpa", AttentionSpec(1.0, softcap=50.0), {}, "softcap = 50"),
        ("sdpa", AttentionSpec(1.0), {"sinks": True}, "sinks"),
        ("blockwise", AttentionSpec(1.0, dropout=0.1), {}, "dropout = 0.1"),
    ],
)
def test_a_kernel_asked_for_by_name_refuses_naming_the_field(kernel, spec, extras, named):
    inputs = draw_inputs(**extras)
    assert named in spec_refusal(kernel, spec, **extras)
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
    assert spec_refusal(kernel, spec, **extras) == KERNELS[kernel].refusal(spec, draw_inputs(**extras))


def test_a_misspelt_kernel_is_answered_with_the_nearest_name():
    with pytest.raises(UnknownKernel, match="no attention kernel is called 'blokwise'; did you mean 'blockwise'"):
        attend(AttentionSpec(1.0), draw_inputs(), "blokwise")
    with pytest.raises(UnknownKernel, match="did you mean 'reference'"):
        spec_refusal("referense", AttentionSpec(1.0))


@pytest.mark.parametrize("context", [4, 600])
@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("softcap", [None, 50.0])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("extras", [{}, {"sinks": True, "documents": True, "alibi": True}])
def test_auto_never_chooses_a_kernel_that_refuses(context, window, softcap, dropout, extras):
    spec = AttentionSpec(1.0, window=window, softcap=softcap, dropout=dropout)
    inputs = draw_inputs(queries=context, **extras)
    assert choose(spec, inputs).refusal(spec, inputs) is None
    assert spec_refusal("auto", spec) is None


def test_auto_takes_what_measured_fastest():
    long = draw_inputs(queries=600)
    assert choose(AttentionSpec(1.0), long).name == "sdpa"
    assert choose(AttentionSpec(1.0, window=100), long).name == "blockwise"
    assert choose(AttentionSpec(1.0, softcap=50.0), long).name == "blockwise"
    assert choose(AttentionSpec(1.0, softcap=50.0), draw_inputs(queries=4)).name == "reference"
    assert choose(AttentionSpec(1.0, dropout=0.1, window=100), long).name == "sdpa"
    assert choose(AttentionSpec(1.0, dropout=0.1, softcap=50.0), long).name == "reference"


def test_the_choice_reads_no_tensor():
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


@pytest.mark.parametrize("kernel", ["auto", *KERNELS])
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
