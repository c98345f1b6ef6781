"""What generation prepares gives what it gave without: for every architecture, and whatever happens to the weights."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.attention.heads import GQA
from components.decoder import Decoder
from components.embedding import UntiedEmbedding
from components.fused.piece import naive
from components.fused.rms import naive_rms_norm
from components.generation import (
    CachedForward,
    FullForward,
    PreparedForward,
    Sampling,
    cached_forward,
    continuations,
    generate_batch,
)
from components.generation.prepared import PREPARE_FROM
from components.initialization import Projection
from components.mlp import GEGLU, Network, SwiGLU
from components.norm import LayerNorm, PreparedRMSNorm, RMSNorm, RMSNormLayer, ZeroCenteredRMSNormLayer
from components.position.positions import ALiBi
from components.registry import OptionError
from components.residual import OutputNorm, PostNorm
from components.stepping import joined, preparation
from components.stepping.preparation import Preparation
from tests.components.architectures import gemma2
from tests.components.test_cache import SHAPES, model_of, prompts

CPU = torch.device("cpu")
MORE: dict[str, dict[str, Any]] = {
    "biases everywhere": {
        "heads": GQA(n_heads=4, n_kv_heads=2, head_dim=8, bias=True, output_bias=True),
        "mlp": SwiGLU(d_ff=20, bias=True),
        "embedding": UntiedEmbedding(head_bias=True, logit_scale=0.5),
    },
    "post norm, layernorm": {"residual": PostNorm(), "norm": LayerNorm()},
    "output norm, rmsnorm, sinks under alibi": {
        "residual": OutputNorm(),
        "norm": RMSNorm(),
        "position": ALiBi(),
        "heads": GQA(n_heads=4, n_kv_heads=2, head_dim=8, sinks=True),
    },
}


def model_with(changes: dict[str, Any], dtype: torch.dtype = torch.float64) -> Decoder:
    model = Decoder.initialized(gemma2(**changes), seed=0)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.to(dtype).eval().requires_grad_(False)


def steps_of(forward: CachedForward | FullForward, texts: list[list[int]], steps: int = 8) -> list[Tensor]:
    """Logits of every step on the same tokens."""
    added = torch.randint(0, 61, (steps, len(texts)), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        return [forward.begin(texts, steps), *(forward.extend(tokens) for tokens in added)]


def assert_same(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    for step, (x, y) in enumerate(zip(ours, theirs, strict=True)):
        assert (x - y).abs().max() <= tolerance * y.abs().max(), step


@pytest.mark.parametrize("name", [*SHAPES, *MORE])
@pytest.mark.parametrize("lengths", [(3,), (1, 9, 4, 12)])
def test_every_prepared_step_is_the_uncached_forward(name: str, lengths: tuple[int, ...]) -> None:
    model = model_with((SHAPES | MORE)[name])
    forward, texts = PreparedForward(model), prompts(*lengths)
    assert_same(steps_of(forward, texts), steps_of(FullForward(model), texts), 1e-9)
    assert forward.prepared_bytes > 0


@pytest.mark.parametrize("name", ["gemma 2", "qk norm", "latent", "linear, local and global", "biases everywhere"])
@pytest.mark.parametrize("lengths", [(3,), (1, 9, 4, 12)])
def test_in_fp32_only_the_order_of_sums_differs(name: str, lengths: tuple[int, ...]) -> None:
    model, texts = model_with((SHAPES | MORE)[name], torch.float32), prompts(*lengths)
    assert_same(steps_of(PreparedForward(model), texts), steps_of(FullForward(model), texts), 2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "sampling", [Sampling(temperature=0.0), Sampling(seed=5), Sampling(seed=5, top_k=9, top_p=0.9)]
)
def test_tokens_are_the_same_with_and_without(sampling: Sampling, dtype: torch.dtype) -> None:
    model, texts = model_of("gemma 2", dtype), prompts(2, 9, 5)
    count = PREPARE_FROM + 5
    assert isinstance(cached_forward(model, count - 1), PreparedForward)
    prepared = generate_batch(model, texts, count, sampling)
    assert prepared == generate_batch(model, texts, count, sampling, cached=False)
    assert [prepared[1]] == generate_batch(model, texts[1:2], count, sampling)
    stop = prepared[0][7]
    ended = generate_batch(model, texts, count, sampling, stop=[stop])
    assert ended[0] == prepared[0][: prepared[0].index(stop) + 1]


def test_few_tokens_do_not_repay_a_preparation() -> None:
    model = model_of("gemma 2")
    assert type(cached_forward(model, PREPARE_FROM - 1)) is CachedForward
    assert type(cached_forward(model, PREPARE_FROM)) is PreparedForward


@pytest.mark.parametrize("zero_centered", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 16])
@pytest.mark.parametrize("fused", [True, False])
def test_a_prepared_norm_is_the_naive_form(zero_centered: bool, dtype: torch.dtype, rows: int, fused: bool) -> None:
    """To the bit by torch's operation; alone and with a stream."""
    layer = (ZeroCenteredRMSNormLayer if zero_centered else RMSNormLayer)(300, 1e-6)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        layer.weight.normal_(generator=generator)
    layer = layer.to(dtype).requires_grad_(False)
    x, stream = (torch.randn(rows, 1, 300, generator=generator).to(dtype) for _ in range(2))
    with contextlib.nullcontext() if fused else naive():
        form = Preparation(rows, 8, CPU).form(layer)
        assert (form is layer) == (dtype == torch.bfloat16 and not zero_centered)
        if isinstance(form, PreparedRMSNorm):
            expected = naive_rms_norm(x, layer.weight, layer.rms)
            strided = x.expand(rows, 2, 300)[:, :1]
            if not fused or dtype == torch.float64:
                assert torch.equal(form(x), expected)
            for ours, theirs in [
                (form(x), expected),
                (form(strided), expected),
                (form.added(x, stream), stream + expected),
                (form.added(strided, stream), stream + expected),
            ]:
                torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 16])
@pytest.mark.parametrize("traced", [True, False])
def test_joined_products_are_the_products(dtype: torch.dtype, bias: bool, rows: int, traced: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    maps = [Projection(24, d_out, bias=bias and d_out != 5) for d_out in (40, 5, 8)]
    with torch.no_grad():
        for linear in maps:
            for parameter in linear.parameters():
                parameter.normal_(generator=generator)
    maps = [linear.to(dtype) for linear in maps]
    x = torch.randn(rows, 1, 24, generator=generator).to(dtype)
    with torch.no_grad():
        expected = torch.cat([linear(x) for linear in maps], dim=-1)
        prepared = Preparation(rows, 8, CPU, traced=traced)
        product = prepared.product(*maps)
        assert product is not None
        tolerance = {torch.float32: 1e-5, torch.float64: 1e-13, torch.bfloat16: 2e-2}[dtype]
        torch.testing.assert_close(product(x), expected, rtol=tolerance, atol=tolerance)
    assert prepared.bytes == 53 * 24 * dtype.itemsize


@pytest.mark.parametrize("kind", ["weight in place", "weight replaced", "data replaced", "norm in place", "table"])
def test_weights_that_change_are_never_stale(kind: str) -> None:
    """Between two tokens, and between two generations."""

    def change(model: Decoder) -> None:
        block = model.blocks[1]
        mlp, norm = block.mlp, block.mlp_norm
        assert isinstance(mlp, Network)
        assert isinstance(norm, ZeroCenteredRMSNormLayer)
        up = mlp.get_submodule("up")
        assert isinstance(up, Projection)
        with torch.no_grad():
            if kind == "weight in place":
                up.weight.mul_(-1.5)
            elif kind == "weight replaced":
                up.weight = nn.Parameter(up.weight * -1.5, requires_grad=False)
            elif kind == "data replaced":
                up.weight.data = up.weight * -1.5
            elif kind == "norm in place":
                norm.weight.add_(1.0)
            else:
                model.embedding.weight.mul_(1.3)

    texts = prompts(4, 7)
    found = []
    for build in (PreparedForward, CachedForward):
        model = model_of("gemma 2")
        forward = build(model)
        before = steps_of(forward, texts, steps=6)
        change(model)
        token = torch.tensor([3, 4])
        forward.cache = forward.cache  # the texts go on
        again = steps_of(forward, texts, steps=6)
        with torch.inference_mode():
            forward.begin(texts, 6)
            forward.extend(token)
        change(model)
        with torch.inference_mode():
            later = [forward.extend(token) for _ in range(3)]
        assert (before[-1] - again[-1]).abs().max() > 1e-3
        found.append([*before, *again, *later])
    assert_same(found[0], found[1], 1e-9)


def test_joined_weights_are_memory_beside_the_cache_and_are_freed_at_the_end() -> None:
    model = model_of("gemma 2", torch.float32)
    forward = PreparedForward(model)
    steps_of(forward, prompts(5), steps=3)
    plain = CachedForward(model)
    steps_of(plain, prompts(5), steps=3)
    assert forward.cache is not None
    assert plain.cache is not None
    assert forward.cache.bytes == plain.cache.bytes
    matrices = [module.weight for module in model.modules() if isinstance(module, Projection)]
    table = model.embedding.weight
    assert forward.prepared_bytes == 4 * (sum(weight.numel() for weight in matrices) + table.numel())
    assert forward._step is not None
    step = weakref.ref(forward._step)
    forward.begin(prompts(5), 3)
    gc.collect()
    assert step() is None, "a new generation frees what the last one prepared"


def test_a_generation_that_ends_frees_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Preparation]] = []
    first = Preparation.__init__

    def recorded(self: Preparation, *arguments: Any, **options: Any) -> None:
        first(self, *arguments, **options)
        made.append(weakref.ref(self))

    monkeypatch.setattr(Preparation, "__init__", recorded)
    steps = continuations(model_of("gemma 2"), prompts(4), PREPARE_FROM + 2, Sampling())
    next(steps)
    next(steps)
    assert [ref() is not None for ref in made] == [True]
    list(steps)
    gc.collect()
    assert [ref() for ref in made] == [None]


def test_no_memory_for_joined_weights_leaves_the_modules_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "MEMORY_SHARE", 0.0)
    model, texts = model_of("gemma 2"), prompts(3, 8)
    forward = PreparedForward(model)
    assert_same(steps_of(forward, texts), steps_of(FullForward(model), texts), 1e-9)
    assert forward.prepared_bytes == 0


@pytest.mark.parametrize("rows", [1, 3])
def test_under_autocast_products_are_those_of_autocast(rows: int) -> None:
    model, texts = model_of("gemma 2", torch.float32), prompts(*[6, 4, 9][:rows])
    with torch.autocast("cpu", torch.bfloat16):
        ours = steps_of(PreparedForward(model), texts)
        theirs = steps_of(CachedForward(model), texts)
    exact = steps_of(CachedForward(model), texts)
    assert ours[-1].dtype == theirs[-1].dtype
    assert_same([x.float() for x in ours], [x.float() for x in theirs], 3e-2)
    assert (ours[-1].float() - exact[-1]).abs().max() > 1e-4, "autocast rounds"


def test_a_change_of_autocast_makes_them_anew() -> None:
    model = model_of("gemma 2", torch.float32)
    texts, token = prompts(6), torch.tensor([3])
    found = []
    for build in (PreparedForward, CachedForward):
        forward = build(model)
        with torch.inference_mode():
            forward.begin(texts, 4)
            forward.extend(token)
            with torch.autocast("cpu", torch.bfloat16):
                forward.extend(token)
            found.append(forward.extend(token))
    assert found[0].dtype == found[1].dtype == torch.float32
    torch.testing.assert_close(found[0], found[1], rtol=2e-2, atol=2e-2)


def test_subclasses_and_watched_modules_compute_themselves() -> None:
    class Doubled(Network):
        def forward(self, x: Tensor, context: Any) -> Tensor:
            return 2 * super().forward(x, context)

    class Shifted(RMSNormLayer):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    model = model_of("gemma 2")
    block = model.blocks[1]
    doubled = Doubled(24, GEGLU(d_ff=40)).double().requires_grad_(False)
    doubled.load_state_dict(block.mlp.state_dict())
    block.mlp = doubled
    shifted = Shifted(24, 1e-6).double().requires_grad_(False)
    nn.init.constant_(shifted.weight, 0.7)
    block.mlp_norm = shifted
    calls: list[nn.Module] = []
    watched = model.blocks[2].mixer
    watched.register_forward_hook(lambda module, *_: calls.append(module))
    texts = prompts(3, 6)
    assert_same(steps_of(PreparedForward(model), texts, steps=4), steps_of(FullForward(model), texts, steps=4), 1e-9)
    assert calls.count(watched) == 5 + 2 * 5


def test_weights_made_in_inference_mode_are_used_as_they_are() -> None:
    with torch.inference_mode():
        model = model_of("gemma 2")
    forward, texts = PreparedForward(model), prompts(3)
    ours = steps_of(forward, texts)
    with torch.inference_mode():
        model.blocks[0].mlp.get_submodule("up").weight.mul_(-1.0)  # type: ignore[operator, union-attr]
    assert forward.prepared_bytes == 0
    assert (steps_of(forward, texts)[-1] - ours[-1]).abs().max() > 1e-4


def test_without_packed_products_the_others_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, texts = model_of("gemma 2", torch.float32), prompts(3, 5, 8)
    packed = steps_of(PreparedForward(model), texts)
    made: list[type] = []
    build: Callable[..., Any] = joined.Transposed.__init__

    def recorded(self: Any, *arguments: Any) -> None:
        made.append(type(self))
        build(self, *arguments)

    monkeypatch.setattr(joined, "_PACK", None)
    monkeypatch.setattr(joined.Transposed, "__init__", recorded)
    assert_same(steps_of(PreparedForward(model), texts), packed, 2e-5)
    assert made


def test_what_has_no_room_is_refused() -> None:
    model = model_of("learned")
    forward = PreparedForward(model)
    with torch.inference_mode():
        forward.begin(prompts(3), 1)
        forward.extend(torch.tensor([1]))
        with pytest.raises(ValueError, match="more than the cache's 4"):
            forward.extend(torch.tensor([1]))
        forward.begin([[1] * 40], 3)
        with pytest.raises(ValueError, match="beyond the learned position table of 40"):
            forward.extend(torch.tensor([1]))


def test_compilation_without_a_cache_is_refused() -> None:
    with pytest.raises(OptionError, match="compile: on has no effect without a cache"):
        continuations(model_of("gemma 2"), [[1]], 4, Sampling(), cached=False, compile="on")
