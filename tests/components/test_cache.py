"""A cached step is the whole text's last position, whatever the layers keep, past windows and in uneven batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from components.attention.heads import GQA, MHA, MQA
from components.attention.key_values import KeyValues
from components.attention.mla import MLA
from components.attention.qk_norm import QKFullRMSNorm, QKRMSNorm
from components.attention.span import GlobalSpan, InterleavedSpan, LocalSpan
from components.decoder import Decoder
from components.generation import CachedForward, FullForward
from components.mixers.linear import LinearMixer
from components.moe.experts import MixtureOfExperts
from components.position.embedding import LearnedPosition, SinusoidalPosition
from components.position.positions import ALiBi, NoPosition, RoPE
from components.position.rope_scaling import LinearRoPE
from components.residual import Parallel
from components.softcap import NoSoftcap
from lab.accounting.cache import cache_bytes, cache_bytes_by_kind
from lab.accounting.costs import costs
from tests.components.architectures import gemma2

LATENT = MLA(n_heads=4, head_dim=6, rope_dim=4, value_dim=5, kv_rank=7, q_rank=9)
KINDS = {"global": {"position": RoPE(theta=1e6)}, "local": {"heads": MHA(n_heads=4, head_dim=8)}}
SHAPES: dict[str, dict[str, Any]] = {
    "gemma 2": {},
    "no cap, all local": {"softcap": NoSoftcap(), "span": LocalSpan(window=5)},
    "all global, one key-value head": {"span": GlobalSpan(), "heads": MQA(n_heads=4, head_dim=8)},
    "a window of one": {"span": InterleavedSpan(window=1)},
    "kinds apart": {"kinds": KINDS},
    "sinks": {"heads": GQA(n_heads=4, n_kv_heads=2, head_dim=8, sinks=True)},
    "value residual": {"heads": GQA(n_heads=4, n_kv_heads=2, head_dim=8, value_residual=True)},
    "alibi": {"position": ALiBi()},
    "nope": {"position": NoPosition()},
    "learned": {"position": LearnedPosition(context=40)},
    "sinusoidal": {"position": SinusoidalPosition()},
    "a quarter rotated, in pairs": {"position": RoPE(fraction=0.25, pairing="interleaved")},
    "scaled rope, parallel": {"position": LinearRoPE(factor=4.0), "residual": Parallel()},
    "qk norm": {"qk_norm": QKRMSNorm()},
    "qk norm over the width": {"qk_norm": QKFullRMSNorm()},
    "latent": {"heads": LATENT},
    "latent, straight queries": {"heads": dataclasses.replace(LATENT, q_rank=None), "span": GlobalSpan()},
    "linear, local and global": {
        "pattern": ("local", "linear", "global"),
        "kinds": {"linear": {"mixer": LinearMixer(chunk=4)}},
    },
    "experts": {"mlp": MixtureOfExperts(n_experts=4, top_k=2, d_ff=12)},
}


def model_of(name: str, dtype: torch.dtype = torch.float64) -> Decoder:
    model = Decoder.initialized(gemma2(**SHAPES[name]), seed=0)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():  # nothing at a value that would hide a mistake
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.to(dtype).eval().requires_grad_(False)


def prompts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(sum(lengths))
    return [torch.randint(0, 61, (length,), generator=generator).tolist() for length in lengths]


def both(model: Decoder, texts: list[list[int]], steps: int) -> tuple[list[Tensor], list[Tensor]]:
    """Logits of every step on the same tokens, cached and not."""
    generator = torch.Generator().manual_seed(3)
    added = torch.randint(0, 61, (steps, len(texts)), generator=generator)
    found = []
    for forward in (CachedForward(model), FullForward(model)):
        found.append([forward.begin(texts, steps), *(forward.extend(tokens) for tokens in added)])
    return found[0], found[1]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("lengths", [(3,), (11, 11), (1, 9, 4, 12), (2, 7)])
def test_every_step_is_the_uncached_forward(name: str, lengths: tuple[int, ...]) -> None:
    cached, full = both(model_of(name), prompts(*lengths), steps=14)
    for step, (ours, theirs) in enumerate(zip(cached, full, strict=True)):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9, msg=lambda text, step=step: f"{step}: {text}")


@pytest.mark.parametrize("name", SHAPES)
def test_in_fp32_only_the_order_of_sums_differs(name: str) -> None:
    """Within 2e-5 of the largest logit: a hundred or so units in the last place, through four layers."""
    cached, full = both(model_of(name, torch.float32), prompts(9, 4), steps=14)
    for ours, theirs in zip(cached, full, strict=True):
        assert (ours - theirs).abs().max() <= 2e-5 * theirs.abs().max()


@pytest.mark.parametrize("name", ["gemma 2", "alibi", "latent", "linear, local and global", "sinks"])
@pytest.mark.parametrize("starts", [(0, 0), (0, 3)])
def test_several_tokens_at_once_join_a_cache_as_one_by_one(name: str, starts: tuple[int, ...]) -> None:
    model = model_of(name)
    tokens = torch.tensor(prompts(19, 19))
    expected = model.new_cache(19, starts)
    one_by_one, at_once = [], []
    for part in (tokens[:, :4], *(tokens[:, t : t + 1] for t in range(4, 19))):
        hidden, expected = model.continued(part, expected)
        one_by_one.append(hidden)
    cache = model.new_cache(19, starts)
    for part in tokens.split([4, 3, 1, 7, 4], dim=1):
        hidden, cache = model.continued(part, cache)
        at_once.append(hidden)
    torch.testing.assert_close(torch.cat(at_once, 1)[:, 3:], torch.cat(one_by_one, 1)[:, 3:], rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(cache.layers, expected.layers, strict=True):
        for x, y in zip(ours.tensors.values(), theirs.tensors.values(), strict=True):
            torch.testing.assert_close(x, y)


def test_a_row_is_the_same_whatever_stands_beside_it() -> None:
    model = model_of("gemma 2")
    alone, _ = both(model, prompts(9)[:1], steps=0)
    beside = CachedForward(model).begin([prompts(9)[0], [1, 2]], 0)
    torch.testing.assert_close(beside[0], alone[0][0])


def test_padding_is_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("gemma 2")
    expected, _ = both(model, prompts(9, 3), steps=5)
    begin: Callable[..., Any] = torch.tensor

    def other_padding(rows: Any, **options: Any) -> Tensor:
        made: Tensor = begin(rows, **options)
        if made.dim() == 2:
            made[1, :6] = 17
        return made

    monkeypatch.setattr("components.generation.forward.torch.tensor", other_padding)
    forward, added = CachedForward(model), torch.Generator().manual_seed(3)
    tokens = torch.randint(0, 61, (5, 2), generator=added)
    found = [forward.begin(prompts(9, 3), 5), *(forward.extend(each) for each in tokens)]
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("batch", "context"), [(1, 3), (3, 17)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cache_is_as_large_as_accounting_says(name: str, batch: int, context: int, dtype: torch.dtype) -> None:
    model = model_of(name, dtype)
    cache = model.new_cache(context, [0] * batch)
    assert cache.bytes == cache_bytes(model.architecture, batch, context, dtype)
    by_kind = cache_bytes_by_kind(model.architecture, batch, context, dtype)
    found: dict[str, int] = {}
    for layer, kept in zip(model.architecture.layers, cache.layers, strict=True):
        found[layer.kind] = found.get(layer.kind, 0) + sum(x.numel() * x.element_size() for x in kept.tensors.values())
    assert by_kind == found
    # No buffer is a view of a larger one.
    assert cache.bytes == sum(x.untyped_storage().nbytes() for kept in cache.layers for x in kept.tensors.values())
    if "linear" not in name and dtype == torch.bfloat16:
        assert cache.bytes / batch / context == costs(model.architecture, context).kv_bytes_per_token


def test_gqa_keeps_its_key_value_heads_and_a_window_its_tokens() -> None:
    cache = Decoder(gemma2()).new_cache(100, [0])
    local, everything = cache.layers[0], cache.layers[1]
    assert isinstance(local, KeyValues)
    assert isinstance(everything, KeyValues)
    assert local.keys.shape == (1, 2, 5, 8)
    assert everything.values.shape == (1, 2, 100, 8)
    # Two layers of each kind, two heads of eight numbers for keys and as many for values, of four bytes.
    assert cache.bytes == 2 * (2 * 2 * 8) * (5 + 100) * 4


def test_what_there_is_no_room_for_is_refused() -> None:
    model = model_of("gemma 2")
    cache = model.new_cache(4, [0, 2])
    with pytest.raises(ValueError, match="end before a row's first one"):
        model.continued(torch.zeros(2, 2, dtype=torch.int64), cache)
    _, cache = model.continued(torch.zeros(2, 3, dtype=torch.int64), cache)
    with pytest.raises(ValueError, match=r"3 \+ 2 tokens are more than the cache's 4"):
        model.continued(torch.zeros(2, 2, dtype=torch.int64), cache)
    learned = model_of("learned")
    with pytest.raises(ValueError, match="beyond the learned position table of 40"):
        learned.continued(torch.zeros(1, 41, dtype=torch.int64), learned.new_cache(50, [0]))


def test_a_layer_that_does_not_say_what_it_keeps_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(GQA, "build", lambda *_: torch.nn.Identity())
        with pytest.raises(TypeError, match=r"heads=gqa: build must return a components.attention.heads.Projections"):
            Decoder(gemma2())
    monkeypatch.setattr(LinearMixer, "build", lambda *_: torch.nn.Identity())
    with pytest.raises(TypeError, match=r"mixer=linear: build must return a components.mixers.base.MixerModule"):
        Decoder(gemma2(mixer=LinearMixer()))


def test_decoding_twice_gives_the_same_bits() -> None:
    model = model_of("gemma 2", torch.float32)
    first, _ = both(model, prompts(9, 4), steps=8)
    second, _ = both(model, prompts(9, 4), steps=8)
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))
