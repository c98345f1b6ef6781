"""Every kernel on every typical spec, in every dtype, forward and backward: within the dtype's bound, or refused.

The bound is worth something: any field lost or off by one passes it many times over.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from components.attention.kernels import KERNELS, planned_refusal
from components.attention.kernels.kernel import Case
from lab.bench.conformance import Shape, bound, draw, error, exact, incoming, run, trained
from lab.bench.typical import specs

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
WHOLE = Shape(batch=2, heads=4, kv_heads=2, queries=77, head_dim=16)
TYPICAL = specs(WHOLE.queries, WHOLE.head_dim)
by_name = pytest.mark.parametrize("typical", TYPICAL, ids=[each.name for each in TYPICAL])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@by_name
def test_what_is_not_refused_is_within_the_dtypes_bound(typical, dtype, device):
    spec = replace(typical.spec, dropout=0.0)
    inputs = draw(typical.shape(WHOLE), dtype, device, **typical.extra_inputs)
    for d_out in (None, incoming(inputs)):
        expected = exact(spec, inputs, d_out)
        asked = inputs if d_out is None else trained(inputs)
        for name, kernel in KERNELS.items():
            reason = kernel.refusal(spec, asked)
            assert reason == planned_refusal(name, spec, Case.of(asked)) or device == "cuda"
            if reason is None and (name != "flex" or device == "cuda"):  # compiled on a CPU in a test of its own
                off = error(run(kernel, spec, inputs, d_out), expected, dtype)
                assert max(off.values()) <= 1, f"{name}: {off}"
            elif reason is not None:
                named = name in ("sdpa", "flex", "xformers") or (name == "native" and dtype == torch.float64)
                assert named or device == "cuda", f"{name} honours everything but dropout"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@by_name
def test_a_field_lost_or_off_by_one_is_many_bounds_away(typical, dtype):
    spec = replace(typical.spec, dropout=0.0)
    inputs = draw(typical.shape(WHOLE), dtype, "cpu", **typical.extra_inputs)
    mutants = {"scale": (replace(spec, scale=spec.scale * 1.2), inputs)}
    if spec.window is not None:
        for off in (-1, 1):
            mutants[f"window {off:+}"] = replace(spec, window=spec.window + off), inputs
    if not typical.decoding:
        mutants["causal"] = replace(spec, causal=not spec.causal, window=None), inputs
    if spec.softcap is not None:
        mutants["softcap"] = replace(spec, softcap=None), inputs
    for field in ("alibi_slopes", "sinks", "documents"):
        if getattr(inputs, field) is not None:
            mutants[field] = spec, replace(inputs, **{field: None})
    d_out = None if typical.decoding else incoming(inputs)
    honest = exact(spec, inputs, d_out)
    for field, (other, others) in mutants.items():
        lost = {name: x for name, x in exact(other, others, d_out).items() if name in honest}
        assert max(error(lost, honest, dtype).values()) > 3, field


def test_bounds_follow_the_dtype():
    assert bound(torch.float64, "forward") < 1e-14
    assert bound(torch.float32, "backward") < 1e-5
    assert bound(torch.bfloat16, "forward") < 0.05


def test_what_is_not_finite_is_infinitely_wrong():
    one = {"out": torch.ones(2, dtype=torch.float64)}
    assert error({"out": torch.tensor([1.0, float("nan")])}, one, torch.float32) == {"out": float("inf")}
    assert error({"out": torch.tensor([1.0, 1 + 1e-3])}, one, torch.bfloat16)["out"] == pytest.approx(0.032, rel=1e-3)
