"""The mixture of experts against a loop over tokens and against the transformers library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GptOssConfig, MixtralConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock, load_balancing_loss_func

from components import registry
from components.forward_context import ForwardContext
from components.initialization import NormalInit, initialize
from components.mlp import DenseMLP
from components.moe.experts import MixtureOfExperts, MoELayer, load_balance_loss
from components.registry import OptionError

D = 12
EXPERTS = [name for name in registry.names("mlp") if issubclass(registry.lookup("mlp", name), DenseMLP)]


def context() -> ForwardContext:
    return ForwardContext({}, {}, None, "auto")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer_of(d_model: int = D, **options: Any) -> MoELayer:
    """A layer in fp64 whose biases too are random, so that all of them matter."""
    moe = MixtureOfExperts(**{"n_experts": 5, "top_k": 2, "d_ff": 7, **options})
    layer = moe.build(d_model).double()
    assert isinstance(layer, MoELayer)
    initialize(layer, 0, NormalInit(std=0.4), 4)
    with torch.no_grad():
        for seed, (name, parameter) in enumerate(layer.named_parameters()):
            if name.endswith("bias"):
                parameter.copy_(noise(*parameter.shape, seed=seed))
    return layer


def token_by_token(layer: MoELayer, moe: MixtureOfExperts, x: Tensor) -> Tensor:
    """What the layer means: one token, one expert at a time, probabilities over all experts renormalised (Mixtral)."""
    form = moe.dense(moe.d_ff)
    rows = []
    for token in x.flatten(0, 1):
        probabilities = layer.router(token).softmax(-1)
        chosen = sorted(range(moe.n_experts), key=probabilities.tolist().__getitem__)[-moe.top_k :]
        row = torch.zeros_like(token)
        for e in chosen:
            own = {name: parameter[e] for name, parameter in layer.experts.named_parameters()}
            projected = [own[name] @ token + own.get(f"{name}_bias", 0) for name in form.inputs]
            out = own["down"] @ form.inner(*projected) + own.get("down_bias", 0)
            row = row + probabilities[e] / probabilities[chosen].sum() * out
        if layer.shared is not None:
            row = row + layer.shared(token, context())
        rows.append(row)
    return torch.stack(rows).view_as(x)


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float(((ours - theirs).abs().max() / theirs.abs().max()).detach())


def assert_same(ours: nn.Module, one: Tensor, other: Tensor, x: Tensor) -> None:
    """Equal values, and equal gradients of every parameter and of x."""
    torch.testing.assert_close(one, other)
    weights = noise(*one.shape, seed=77)
    inputs = [x, *ours.parameters()]
    gradients = [torch.autograd.grad((out * weights).sum(), inputs) for out in (one, other)]
    for name, a, b in zip(["x", *dict(ours.named_parameters())], *gradients, strict=True):
        torch.testing.assert_close(a, b, msg=lambda message, name=name: f"{name}: {message}")


@pytest.mark.parametrize(
    "options",
    [
        *({"expert": expert} for expert in EXPERTS),
        {"bias": True, "router_bias": True},
        {"top_k": 1},
        {"top_k": 5},
        {"n_experts": 1, "top_k": 1},
        {"n_shared_experts": 2, "bias": True},
        {"n_shared_experts": 1, "shared_d_ff": 3, "expert": "relu"},
    ],
    ids=str,
)
def test_experts_over_groups_equal_one_token_at_a_time(options: dict[str, Any]) -> None:
    layer = layer_of(**options)
    moe = MixtureOfExperts(**{"n_experts": 5, "top_k": 2, "d_ff": 7, **options})
    x = noise(3, 11, D, seed=1).requires_grad_()
    assert_same(layer, layer(x, context()), token_by_token(layer, moe, x), x)


def test_an_expert_that_nobody_chooses_gets_no_gradient_and_one_that_all_choose_drops_nobody() -> None:
    moe = MixtureOfExperts(n_experts=5, top_k=1, d_ff=7, router_bias=True, load_balance=0.0)
    layer = layer_of(top_k=1, router_bias=True, load_balance=0.0)
    with torch.no_grad():
        layer.router.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 1e4, 0.0]))
    x = noise(3, 11, D, seed=1).requires_grad_()
    out = layer(x, context())
    torch.testing.assert_close(out, token_by_token(layer, moe, x))
    out.sum().backward()
    assert [bool(g.any()) for g in layer.experts.up.grad] == [False, False, False, True, False]


def test_experts_that_are_all_alike_are_one_mlp_whatever_the_router_says() -> None:
    layer = layer_of(bias=True)
    with torch.no_grad():
        for parameter in layer.experts.parameters():
            parameter.copy_(parameter[:1].expand_as(parameter).clone())
    one = MixtureOfExperts(n_experts=5, top_k=2, d_ff=7).dense(7).replace(bias=True).build(D).double()
    matrices = {f"{name}.weight": layer.experts.get_parameter(name)[0] for name in ("gate", "up", "down")}
    biases = {f"{name}.bias": layer.experts.get_parameter(f"{name}_bias")[0] for name in ("gate", "up", "down")}
    one.load_state_dict(matrices | biases)
    x = noise(2, 9, D, seed=1)
    torch.testing.assert_close(layer(x, context()), one(x, context()))


def test_shared_experts_are_as_many_mlps_beside_the_routed_ones() -> None:
    layer = layer_of(n_shared_experts=3, shared_d_ff=4)
    assert layer.shared is not None
    x = noise(2, 9, D, seed=1)
    routed = layer_of()
    routed.load_state_dict({name: value for name, value in layer.state_dict().items() if "shared" not in name})
    expected = routed(x, context())
    for part in range(3):
        rows = slice(4 * part, 4 * part + 4)
        gate, up = (layer.shared.get_submodule(name).weight[rows] for name in ("gate", "up"))
        inner = nn.functional.silu(x @ gate.T) * (x @ up.T)
        expected = expected + inner @ layer.shared.down.weight[:, rows].T
    torch.testing.assert_close(layer(x, context()), expected)


def from_mixtral(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a Mixtral block by our names: it stacks gate on up."""
    gate, up = state["experts.gate_up_proj"].chunk(2, dim=1)
    matrices = {"experts.gate": gate, "experts.up": up, "experts.down": state["experts.down_proj"]}
    return {"router.weight": state["gate.weight"], **matrices}


def from_gpt_oss(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a gpt-oss block by our names: it transposes, and lets gate and up take turns."""
    gate_up, bias = state["experts.gate_up_proj"].mT, state["experts.gate_up_proj_bias"]
    gate_biases = {"experts.gate_bias": bias[:, 0::2], "experts.up_bias": bias[:, 1::2]}
    down = {"experts.down": state["experts.down_proj"].mT, "experts.down_bias": state["experts.down_proj_bias"]}
    router = {name: state[name] for name in ("router.weight", "router.bias")}
    return {**router, "experts.gate": gate_up[:, 0::2], "experts.up": gate_up[:, 1::2], **gate_biases, **down}


SIZES: dict[str, Any] = {"hidden_size": D, "intermediate_size": 7, "num_local_experts": 5, "num_experts_per_tok": 2}


@pytest.mark.parametrize(
    ("theirs", "by_our_names", "options", "tolerance"),
    [
        # Its router takes the softmax in fp32, whatever its weights are in.
        (lambda: MixtralSparseMoeBlock(MixtralConfig(**SIZES)), from_mixtral, {}, 1e-6),
        (
            lambda: GptOssMLP(GptOssConfig(**SIZES)),
            from_gpt_oss,
            {"expert": "clamped_swiglu", "bias": True, "router_bias": True},
            1e-12,
        ),
    ],
    ids=["mixtral", "gpt_oss"],
)
def test_output_and_every_gradient_equal_the_transformers_implementation(
    theirs: Callable[[], nn.Module],
    by_our_names: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    options: dict[str, Any],
    tolerance: float,
) -> None:
    published, ours = theirs().double(), layer_of(**options)
    state = {name: noise(*value.shape, seed=i) for i, (name, value) in enumerate(published.named_parameters())}
    published.load_state_dict(state)
    ours.load_state_dict(by_our_names(state))
    x = noise(3, 11, D, seed=50)
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    out, expected = ours(one, context()), published(other)
    expected = expected[0] if isinstance(expected, tuple) else expected
    weights = noise(*x.shape, seed=51)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    found = {name: parameter.grad for name, parameter in ours.named_parameters()}
    wanted = by_our_names({name: parameter.grad for name, parameter in published.named_parameters()})
    pairs = {name: (found[name], wanted[name]) for name in found}
    for name, (a, b) in {"output": (out, expected), "x": (one.grad, other.grad), **pairs}.items():
        assert relative_error(a, b) < tolerance, name


def test_softmax_over_the_chosen_is_the_softmax_over_all_renormalised() -> None:
    """Mixtral's order and gpt-oss's are one, so that one router serves both."""
    logits = noise(50, 8) * 3
    top, chosen = logits.topk(3)
    renormalised = logits.softmax(-1).gather(1, chosen)
    torch.testing.assert_close(top.softmax(-1), renormalised / renormalised.sum(-1, keepdim=True))


@pytest.mark.parametrize("top_k", [1, 3])
def test_the_load_balance_loss_equals_the_transformers_implementation(top_k: int) -> None:
    logits = (noise(40, 6).float() * 2).requires_grad_()
    other = logits.detach().clone().requires_grad_()
    ours = load_balance_loss(logits, logits.topk(top_k).indices)
    theirs = load_balancing_loss_func((other,), 6, top_k)
    torch.testing.assert_close(ours, theirs)
    ours.backward()
    theirs.backward()
    torch.testing.assert_close(logits.grad, other.grad)


def test_an_even_load_costs_top_k_and_a_collapsed_one_n_experts() -> None:
    even = torch.eye(6, dtype=torch.float64).repeat(4, 1)
    chosen = torch.stack([torch.arange(24) % 6, (torch.arange(24) + 1) % 6], dim=1)
    assert load_balance_loss(even, chosen).item() == pytest.approx(2)
    collapsed = torch.full((24, 6), -1e3, dtype=torch.float64)
    collapsed[:, 2] = 0
    assert load_balance_loss(collapsed, torch.full((24, 1), 2)).item() == pytest.approx(6)


def test_losses_are_weighted_and_summed_over_layers() -> None:
    shared = context()
    x = noise(2, 9, D, seed=1)
    expected = {"moe/load_balance": 0.0, "moe/router_z": 0.0}
    for seed in (1, 2):
        layer = layer_of(load_balance=0.3, router_z_loss=0.05)
        with torch.no_grad():
            layer.router.weight.copy_(noise(5, D, seed=seed))
        layer(x, shared)
        logits = (x @ layer.router.weight.T).flatten(0, 1).detach()
        expected["moe/load_balance"] += 0.3 * float(load_balance_loss(logits, logits.topk(2).indices))
        expected["moe/router_z"] += 0.05 * float((logits.exp().sum(-1).log() ** 2).mean())
    assert {name: value.item() for name, value in shared.losses.items()} == pytest.approx(expected)


def test_a_loss_without_weight_is_not_there() -> None:
    without, balanced = context(), context()
    layer_of(load_balance=0.0)(noise(1, 4, D), without)
    layer_of()(noise(1, 4, D), balanced)
    assert set(without.losses) == set()
    assert set(balanced.losses) == {"moe/load_balance"}


def test_autocast_leaves_the_choice_of_experts_as_it_is() -> None:
    layer = layer_of(64, n_experts=32, top_k=4, load_balance=0.0).float()
    x = noise(1, 200, 64, seed=1).float()
    seen: list[Tensor] = []
    layer.experts.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1]))
    layer(x, context())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x, context())
    assert torch.equal(*seen)
    rounded = layer.router(x.flatten(0, 1).bfloat16().float()).topk(4).indices
    assert not torch.equal(rounded, seen[0]), "the rounding must matter for the test to"
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"n_experts": 0}, "n_experts"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": 6}, "top_k"),
        ({"d_ff": 0}, "d_ff"),
        ({"expert": "moe"}, "expert"),
        ({"expert": "swglu"}, "expert"),
        ({"n_shared_experts": -1}, "n_shared_experts"),
        ({"shared_d_ff": 8}, "shared_d_ff"),
        ({"n_shared_experts": 1, "shared_d_ff": 0}, "shared_d_ff"),
        ({"load_balance": -0.1}, "load_balance"),
        ({"router_z_loss": -0.1}, "router_z_loss"),
    ],
)
def test_an_impossible_option_is_refused_by_name(options: dict[str, Any], option: str) -> None:
    with pytest.raises(OptionError) as refusal:
        MixtureOfExperts(**{"n_experts": 5, "top_k": 2, "d_ff": 7, **options})
    assert refusal.value.option == option
