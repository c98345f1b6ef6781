"""What any decoder must hold, whatever it is made of."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
import torch

from components import registry
from components.architecture import Architecture
from components.attention.heads import GQA, MHA, MQA
from components.attention.span import GlobalSpan, InterleavedSpan, LocalSpan
from components.decoder import Decoder
from components.mlp import GELU
from components.registry import Component, OptionError
from tests.components.architectures import gemma2

REQUIRED = {
    "n_heads": 4,
    "n_kv_heads": 2,
    "head_dim": 8,
    "rope_dim": 4,
    "value_dim": 6,
    "kv_rank": 10,
    "window": 5,
    "d_ff": 40,
    "n_experts": 4,
    "top_k": 2,
    "context": 32,
    "factor": 4.0,
    "original_context": 16,
}
SLOTS = ("mixer", "heads", "qk_norm", "span", "position", "softcap", "norm", "residual", "mlp", "embedding")


def component(kind: str, name: str) -> Component:
    cls = registry.lookup(kind, name)
    return cls(**{option.name: REQUIRED[option.name] for option in registry.options(cls) if option.required})


def swapped(slot: str, name: str) -> Architecture:
    return gemma2(**{slot: component(slot, name)})


def tokens(batch: int = 2, length: int = 16) -> torch.Tensor:
    return torch.randint(0, 61, (batch, length), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("slot", "name"), [(slot, name) for slot in SLOTS for name in registry.names(slot)])
def test_no_token_sees_the_future(slot: str, name: str) -> None:
    model = Decoder.initialized(swapped(slot, name), seed=0).double()
    first = tokens(1)
    second = first.clone()
    second[0, 9] = (second[0, 9] + 1) % 61
    with torch.no_grad():
        difference = (model(first) - model(second)).abs().amax(-1)[0]
    # An expert's tokens are computed together, so that another token's choice moves the last bit of theirs.
    assert difference[:9].max() <= (1e-13 if name == "moe" else 0)
    assert difference[9] > 0


@pytest.mark.parametrize(
    ("slot", "before", "after"),
    [(slot, *pair) for slot in SLOTS for pair in pairwise(registry.names(slot))],
)
def test_swapping_a_component_leaves_every_other_weight_bit_identical(slot: str, before: str, after: str) -> None:
    one = dict(Decoder.initialized(swapped(slot, before), seed=7).named_parameters())
    two = dict(Decoder.initialized(swapped(slot, after), seed=7).named_parameters())
    shared = [name for name in one if name in two and one[name].shape == two[name].shape]
    of_slot = {"mixer": ".mixer.", "heads": ".heads.", "mlp": ".mlp.", "norm": "norm"}.get(slot, "?")
    assert len([name for name in shared if of_slot not in name]) >= 9
    for name in shared:
        if of_slot not in name:
            assert torch.equal(one[name], two[name]), name


def test_another_seed_changes_every_drawn_weight() -> None:
    one, two = (Decoder.initialized(gemma2(), seed=seed) for seed in (0, 1))
    for (name, a), (_, b) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        assert torch.equal(a, b) == ("norm" in name), name


def test_weights_have_the_spread_that_the_init_declares() -> None:
    weight = Decoder.initialized(gemma2(d_model=256, mlp=GELU(d_ff=512)), seed=0).layers[0].mlp.up.weight
    assert float(weight.detach().std()) == pytest.approx(0.3, rel=0.02)
    assert abs(float(weight.detach().mean())) < 0.005


def test_all_spans_are_one_while_the_context_fits_the_window() -> None:
    x = tokens(length=5)
    spans = (GlobalSpan(), LocalSpan(window=5), InterleavedSpan(window=5))
    with torch.no_grad():
        logits = [Decoder.initialized(gemma2(span=span), seed=0)(x) for span in spans]
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])
    longer = tokens(length=6)
    with torch.no_grad():
        local, global_ = (Decoder.initialized(gemma2(span=span), seed=0)(longer) for span in spans[:2][::-1])
    assert not torch.equal(local[:, 5], global_[:, 5])


@pytest.mark.parametrize(("n_layers", "window"), list(product((1, 2, 3), (2, 5))))
def test_local_layers_reach_exactly_n_layers_times_window_minus_one(n_layers: int, window: int) -> None:
    model = Decoder.initialized(gemma2(n_layers=n_layers, span=LocalSpan(window=window)), seed=0).double()
    x = tokens(1, 20)
    embedded = model.embedding(x).detach().requires_grad_()
    model.embedding.forward = lambda _: embedded  # type: ignore[method-assign]
    last = model.hidden(x)[0, -1].sum()
    (gradient,) = torch.autograd.grad(last, embedded)
    reached = (gradient[0].abs().amax(-1) > 0).nonzero().flatten().tolist()
    reach = n_layers * (window - 1) + 1
    assert reached == list(range(20 - reach, 20))


def test_grouped_heads_equal_full_heads_with_repeated_key_value_weights() -> None:
    grouped = Decoder.initialized(gemma2(), seed=0)
    full = Decoder(gemma2(heads=MHA(n_heads=4, head_dim=8, query_pre_attn_scalar=6)))
    state = grouped.state_dict()
    for name in state:
        if name.endswith(("heads.k.weight", "heads.v.weight")):
            state[name] = state[name].unflatten(0, (2, 8)).repeat_interleave(2, dim=0).flatten(0, 1)
    full.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(full(tokens()), grouped(tokens()), rtol=1e-5, atol=1e-5)


def test_documents_do_not_see_each_other() -> None:
    model = Decoder.initialized(gemma2(position=component("position", "nope")), seed=0)
    x = tokens(1, 12)
    documents = torch.tensor([[0] * 5 + [1] * 7])
    with torch.no_grad():
        packed = model(x, documents)
        torch.testing.assert_close(packed[:, 5:], model(x[:, 5:]), rtol=1e-5, atol=1e-5)


def test_a_pattern_repeats_and_may_end_cut_short() -> None:
    model = gemma2(n_layers=7, pattern=("local", "local", "global"))
    assert [layer.mixer.window for layer in model.layers] == [5, 5, None, 5, 5, None, 5]


def test_a_layer_kind_overrides_the_base_block() -> None:
    model = gemma2(kinds={"global": {"heads": MHA(n_heads=2, head_dim=8)}})
    assert [layer.mixer.heads.kv_heads for layer in model.layers] == [2, 2, 2, 2]
    assert [layer.mixer.heads.n_heads for layer in model.layers] == [4, 2, 4, 2]


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"pattern": ("local", "globl")}, "pattern"),
        ({"pattern": ()}, "pattern"),
        ({"n_layers": 1}, "pattern"),
        ({"kinds": {"globl": {}}}, "kinds.globl"),
        ({"kinds": {"global": {"softcaps": GlobalSpan()}}}, "kinds.global.softcaps"),
        ({"kinds": {"global": {"span": InterleavedSpan(window=3)}}}, "kinds.global.span"),
        ({"d_model": 0}, "d_model"),
    ],
)
def test_an_impossible_architecture_is_refused_by_name(changes: dict[str, object], option: str) -> None:
    with pytest.raises(OptionError) as refusal:
        gemma2(**changes)
    assert refusal.value.option == option


@pytest.mark.parametrize(
    ("build", "option"),
    [
        (lambda: LocalSpan(window=0), "window"),
        (lambda: GQA(n_heads=4, n_kv_heads=3, head_dim=8), "n_kv_heads"),
        (lambda: GQA(n_heads=4, n_kv_heads=8, head_dim=8), "n_kv_heads"),
        (lambda: MHA(n_heads=0, head_dim=8), "n_heads"),
        (lambda: GELU(d_ff=0), "d_ff"),
    ],
)
def test_an_impossible_option_is_refused_by_name(build: object, option: str) -> None:
    with pytest.raises(OptionError) as refusal:
        build()  # type: ignore[operator]
    assert refusal.value.option == option


def test_a_context_beyond_the_learned_positions_is_refused() -> None:
    model = Decoder.initialized(gemma2(position=component("position", "learned")), seed=0)
    with pytest.raises(ValueError, match="learned position table of 32"):
        model(tokens(length=33))


def test_outputs_are_the_logits_of_forward_and_no_loss_that_nothing_asked_for() -> None:
    model = Decoder.initialized(gemma2(), seed=0)
    with torch.no_grad():
        out = model.outputs(tokens())
        assert torch.equal(out.logits, model(tokens()))
    assert out.losses == {}


@pytest.mark.parametrize("heads", [MHA, MQA, GQA])
@pytest.mark.parametrize(
    ("options", "biased"),
    [({}, ""), ({"bias": True}, "qkv"), ({"output_bias": True}, "o"), ({"bias": True, "output_bias": True}, "qkvo")],
)
def test_biases_stand_where_they_are_asked_for(heads: type[MHA], options: dict[str, bool], biased: str) -> None:
    more = {"n_kv_heads": 2} if heads is GQA else {}
    model = Decoder.initialized(gemma2(heads=heads(n_heads=4, head_dim=8, **more, **options)), seed=0)
    names = [name for name, _ in model.layers[0].mixer.heads.named_parameters() if name.endswith("bias")]
    assert names == [f"{letter}.bias" for letter in biased]
