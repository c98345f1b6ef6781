"""The native kernel beyond its meaning: its tiles and vectors, its bits, what isn't finite, its library."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from components.attention.kernels import KERNELS, attend, explain
from components.attention.kernels.native import call
from components.attention.kernels.native.library import LIBRARY
from components.attention.spec import AttentionInputs, AttentionSpec, visible
from components.native import compiler
from components.native import library as native
from tests.kernels.oracle import DIFFERENTIABLE, draw_inputs, leaves
from tests.kernels.test_kernels_meaning import FIELDS, SCALE, assert_by_the_book, calls

DTYPES = [torch.float32, torch.bfloat16]
BOUND = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
NATIVE = KERNELS["native"]


def in_dtype(inputs, dtype):
    """The inputs with q, k and v in a dtype, the others in fp32."""
    others = {n: x.float() for n in ("alibi_slopes", "sinks") if (x := getattr(inputs, n)) is not None}
    return replace(inputs, **{n: getattr(inputs, n).to(dtype) for n in "qkv"}, **others)


def gradients(spec, inputs, kernel="native", seed=1):
    """The output, and the gradient of every tensor that has one, by name."""
    fresh, by_name = leaves(inputs)
    out = attend(spec, fresh, kernel)
    d_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed)).to(inputs.q.dtype).to(out.dtype)
    return {"out": out.detach()} | dict(
        zip(by_name, torch.autograd.grad(out, list(by_name.values()), d_out), strict=True)
    )


def in_double(inputs):
    return replace(inputs, **{n: x.double() for n in DIFFERENTIABLE if (x := getattr(inputs, n)) is not None})


def assert_exact(spec, inputs, bound):
    """Output and gradients equal the reference's in fp64, by the largest entry of each or what it may cancel from."""
    found = gradients(spec, inputs)
    for name, book in gradients(spec, in_double(inputs), "reference").items():
        # A slope's gradient is a sum over rows of differences times distances, which cancel; others are about normal.
        summands = 4.0 * inputs.k.shape[2] if name == "alibi_slopes" else 3.0
        error = (found[name].double() - book).abs().max() / max(book.abs().max(), summands)
        assert error <= bound, f"{name} is off by {error:.2e} for {spec}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("field", list(FIELDS))
def test_every_field_is_honoured_forward_and_backward(field, dtype):
    of_spec, of_inputs = FIELDS[field]
    assert_by_the_book(
        "native", AttentionSpec(SCALE, **of_spec), in_dtype(draw_inputs(**of_inputs), dtype), BOUND[dtype]
    )


@settings(max_examples=20, deadline=None)
@given(calls())
def test_it_agrees_with_the_book_on_any_call(case):
    spec, inputs = case
    assert_by_the_book("native", spec, in_dtype(inputs, torch.float32), 1e-5)


@st.composite
def large_calls(draw):
    """A call of several blocks and tiles, with rests that no vector fills, in layouts of all kinds."""
    group, kv_heads, batch = draw(st.integers(1, 5)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    causal = draw(st.booleans() | st.just(True))
    windows = st.none() | st.sampled_from([1, 2, 17, 64, 96, 97, 130, 500])
    spec = AttentionSpec(
        draw(st.sampled_from([0.1, 0.3, -0.2])),
        causal=causal,
        window=draw(windows) if causal else None,
        softcap=draw(st.none() | st.sampled_from([0.5, 5.0, 50.0, 90.0])),
    )
    inputs = draw_inputs(
        draw(st.integers(0, 1000)),
        batch=batch,
        heads=kv_heads * group,
        kv_heads=kv_heads,
        queries=draw(st.sampled_from([1, 2, 13, 31, 64, 65, 100, 150, 257])),
        offset=draw(st.sampled_from([0, 0, 1, 7, 100, 301])),
        ahead=draw(st.sampled_from([0, 0, 3, 40])),
        head_dim=draw(st.sampled_from([1, 3, 8, 16, 17, 33, 64, 80])),
        value_dim=draw(st.sampled_from([1, 5, 16, 33, 64])),
        alibi=draw(st.booleans()),
        sinks=draw(st.booleans()),
        dtype=draw(st.sampled_from(DTYPES)),
    )
    keys = inputs.k.shape[2]
    documents = [None, None, torch.arange(keys).expand(batch, keys), torch.arange(keys).expand(batch, keys) // 40]
    documents += [torch.randint(-3, 3, (batch, keys)), torch.randint(0, 3, (batch, keys)) * 2**32 - 7]
    inputs = replace(inputs, documents=draw(st.sampled_from(documents)))
    layout = draw(st.sampled_from(["heads", "projections", "slices"]))
    if layout != "heads":
        inputs = replace(inputs, **{n: getattr(inputs, n).transpose(1, 2).contiguous().transpose(1, 2) for n in "qkv"})
    if layout == "slices":
        pad = torch.nn.functional.pad
        inputs = replace(inputs, **{n: pad(getattr(inputs, n), (1, 2))[..., 1:-2] for n in "qkv"})
    return spec, inputs


@settings(max_examples=40, deadline=None)
@given(large_calls())
def test_blocks_tiles_and_rests_agree_with_the_reference(case):
    spec, inputs = case
    assert_exact(spec, inputs, 2e-5 if inputs.q.dtype == torch.float32 else 4e-2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fields", [{}, {"alibi": True, "sinks": True, "documents": True}])
@pytest.mark.parametrize("window", [None, 150])
def test_bits_are_the_same_for_any_number_of_threads_and_in_each_run(dtype, fields, window):
    inputs = in_dtype(draw_inputs(queries=700, kv_heads=1, head_dim=16, **fields), dtype)
    spec = AttentionSpec(0.3, window=window, softcap=20.0)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = gradients(spec, inputs)
        for count in (1, 2, 3, 7, 2):
            torch.set_num_threads(count)
            found = gradients(spec, inputs)
            assert all(torch.equal(found[name], expected[name]) for name in expected), f"{count} threads"
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("batch", [1, 16])
def test_bits_of_a_step_of_decoding_are_the_same_for_any_number_of_threads(batch):
    inputs = draw_inputs(queries=1, offset=3000, batch=batch, head_dim=64, dtype=torch.float32)
    threads = torch.get_num_threads()
    try:
        outs = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            outs.append(attend(AttentionSpec(0.3), inputs, "native"))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(out, outs[0]) for out in outs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [None, 900])
def test_a_step_of_decoding_gives_what_the_whole_text_gives(dtype, window):
    inputs = in_dtype(draw_inputs(queries=1300, head_dim=16, sinks=True), dtype)
    spec = AttentionSpec(0.4, window=window, softcap=30.0)
    whole = attend(spec, inputs, "native")
    for position in (1, 511, 512, 513, 1299):
        step = replace(inputs, q=inputs.q[:, :, position : position + 1], offset=position)
        torch.testing.assert_close(
            attend(spec, step, "native")[:, :, 0], whole[:, :, position], atol=BOUND[dtype], rtol=BOUND[dtype]
        )


@pytest.mark.slow
@pytest.mark.parametrize("instructions", ["x86-64-v3", "x86-64"])
def test_builds_for_other_processors_compute_the_same(instructions, monkeypatch):
    """AVX2, and 128-bit vectors without fused products, as any other processor would get."""
    flags = tuple(flag.replace("=native", f"={instructions}") for flag in compiler.FLAGS)
    monkeypatch.setattr(compiler, "FLAGS", flags)
    monkeypatch.setattr(native, "_OUTCOMES", {})
    other = LIBRARY.load()
    monkeypatch.setattr(call, "_functions", lambda: other)
    for dtype in DTYPES:
        for of_spec, of_inputs in (
            ({"softcap": 20.0}, {"queries": 130, "head_dim": 40}),
            ({"window": 70}, {"queries": 200, "sinks": True, "documents": True, "value_dim": 21}),
            ({"softcap": 90.0, "causal": False}, {"queries": 99, "kv_heads": 1, "alibi": dtype == torch.float32}),
            ({"window": 300}, {"queries": 1, "offset": 700, "head_dim": 33}),
        ):
            inputs = in_dtype(draw_inputs(**of_inputs), dtype)
            assert_exact(AttentionSpec(0.3, **of_spec), inputs, BOUND[dtype])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("tensor", ["q", "k"])
@pytest.mark.parametrize("softcap", [None, 20.0, 90.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_comes_out_as_in_the_reference(value, tensor, softcap, dtype):
    inputs = in_dtype(draw_inputs(queries=120, head_dim=8), dtype)
    x = getattr(inputs, tensor).clone()
    x[:, 1, 70, 3] = value
    inputs = replace(inputs, **{tensor: x})
    spec = AttentionSpec(0.3, window=40, softcap=softcap)
    found, book = gradients(spec, inputs), gradients(spec, inputs, "reference")
    assert torch.equal(found["out"].isnan(), book["out"].isnan())
    finite = ~book["out"].isnan()
    torch.testing.assert_close(found["out"][finite], book["out"][finite], atol=BOUND[dtype], rtol=BOUND[dtype])
    # Rows that see it; to others the reference adds zero times a number that is none.
    rows = visible(spec, inputs)[:, 70] if tensor == "k" else torch.arange(120) == 70
    assert torch.equal(found["q"][:, :, rows].isfinite(), book["q"][:, :, rows].isfinite())
    assert found["q"][book["q"].isfinite()].isfinite().all()


@pytest.mark.parametrize("queries", [1, 120])
def test_a_value_that_is_not_a_number_reaches_every_query_that_sees_it(queries):
    inputs = draw_inputs(queries=queries, offset=120 - queries, head_dim=8, dtype=torch.float32)
    v = inputs.v.clone()
    v[:, 0, 110] = float("nan")
    spec = AttentionSpec(0.3, window=40)
    out = attend(spec, replace(inputs, v=v), "native")
    sees = visible(spec, inputs)[:, 110]
    assert out[:, :2, sees].isnan().all()
    assert torch.equal(out[:, 2:], attend(spec, inputs, "native")[:, 2:]), "the other head"


def test_saturated_scores_stay_finite_and_exact():
    inputs = draw_inputs(queries=70, dtype=torch.float32)
    inputs = replace(inputs, q=inputs.q * 40, k=inputs.k * 40)
    for softcap in (None, 50.0, 80.0, 1000.0):
        found = gradients(AttentionSpec(1.0, softcap=softcap), inputs)
        book = gradients(AttentionSpec(1.0, softcap=softcap), in_double(inputs), "reference")
        torch.testing.assert_close(found["out"].double(), book["out"], atol=2e-3, rtol=0)
        torch.testing.assert_close(found["v"].double(), book["v"], atol=2e-2, rtol=0)
        assert all(x.isfinite().all() for x in found.values())


def test_gradients_that_nobody_asks_for_change_no_other():
    inputs = draw_inputs(queries=130, head_dim=16, alibi=True, sinks=True, dtype=torch.float32)
    spec = AttentionSpec(0.3, window=100)
    whole = gradients(spec, inputs)
    for name in DIFFERENTIABLE:
        leaf = getattr(inputs, name).detach().clone(memory_format=torch.preserve_format).requires_grad_()
        out = attend(spec, replace(inputs, **{name: leaf}), "native")
        d_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
        assert torch.equal(torch.autograd.grad(out, leaf, d_out)[0], whole[name]), name


def test_the_backward_pass_saves_inputs_output_and_one_number_a_row():
    inputs, _ = leaves(draw_inputs(queries=512, head_dim=8, dtype=torch.float32, sinks=True))
    saved: list[torch.Tensor] = []

    def keep(x):
        saved.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        attend(AttentionSpec(0.3, softcap=50.0), inputs, "native")
    q, kv, rows = inputs.q.numel(), inputs.k.numel(), inputs.q.numel() // 8
    assert sorted(x.numel() for x in saved) == sorted([q, kv, kv, q, rows, 4])


def test_layouts_of_projections_are_read_where_they_are():
    class Copies(TorchDispatchMode):
        names: tuple[str, ...] = ()

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.names += (func.overloadpacket.__name__,)
            return func(*args, **(kwargs or {}))

    fused = torch.randn(2, 70, 8 * 16, requires_grad=True)
    q, k, v = (x.unflatten(-1, (-1, 16)).transpose(1, 2) for x in fused.split([64, 32, 32], dim=-1))
    with Copies() as copies:
        out = attend(AttentionSpec(0.3), AttentionInputs(q, k, v), "native")
        out.transpose(1, 2).flatten(2)
        torch.autograd.grad(out, (q, k, v), torch.ones(2, 70, 4, 16).transpose(1, 2))
    assert not {"clone", "copy_", "_to_copy", "contiguous"} & set(copies.names), copies.names


def test_second_derivatives_are_refused_rather_than_wrong():
    inputs, _ = leaves(draw_inputs(queries=4, dtype=torch.float32))
    out = attend(AttentionSpec(0.3), inputs, "native")
    with pytest.raises(RuntimeError, match="no second derivatives; use reference"):
        torch.autograd.grad(out.sum(), inputs.q, create_graph=True)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["native", "auto"])
def test_it_compiles_whole_forward_and_backward(kernel):
    inputs = draw_inputs(queries=70, dtype=torch.float32, sinks=True, alibi=True, documents=True)
    spec = AttentionSpec(0.3, window=60, softcap=20.0)
    compiled, by_name = leaves(inputs)
    function = torch.compile(lambda x: attend(spec, x, kernel) * 1.0, backend="aot_eager", fullgraph=True)
    d_out = torch.randn(inputs.q.shape, generator=torch.Generator().manual_seed(1))
    grads = torch.autograd.grad(function(compiled), list(by_name.values()), d_out)
    expected = gradients(spec, inputs)
    for name, grad in zip(by_name, grads, strict=True):
        assert torch.equal(grad, expected[name]), name


def test_without_its_library_the_choice_falls_to_the_next_and_says_why(monkeypatch):
    monkeypatch.setattr(native, "_OUTCOMES", {})
    monkeypatch.setenv("CXX", "/nowhere/g++")
    inputs = draw_inputs(queries=600, dtype=torch.float32)
    choice = explain(AttentionSpec(1.0, softcap=50.0), inputs)
    assert choice.kernel == "blockwise"
    assert choice.others["native"].startswith("refuses: its library can't be used here: there is no C++ compiler")
    assert "/nowhere/g++" in choice.others["native"]


def test_planning_builds_nothing(monkeypatch):
    from components.attention.kernels import Case, planned_refusal

    monkeypatch.setattr(native, "_OUTCOMES", {})
    monkeypatch.setattr(native, "_from_folders", None)  # to build would fail
    inputs = draw_inputs(dtype=torch.float32)
    assert planned_refusal("native", AttentionSpec(1.0), Case.of(inputs)) is None
    assert "dropout" in str(planned_refusal("native", AttentionSpec(1.0, dropout=0.1), Case.of(inputs)))
    monkeypatch.setenv(native.OFF_VARIABLE, "1")
    assert "LAB_NO_NATIVE is set" in str(planned_refusal("native", AttentionSpec(1.0), Case.of(inputs)))


@pytest.mark.parametrize(
    ("dtype", "message"), [(torch.float64, "dtype = float64: it takes float32, bfloat16"), (torch.float16, "float16")]
)
def test_dtypes_that_it_does_not_take_are_refused_by_name(dtype, message):
    assert message in str(NATIVE.refusal(AttentionSpec(1.0), draw_inputs(dtype=dtype)))
