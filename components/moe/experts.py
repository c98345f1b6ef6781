"""A mixture of experts: many MLPs, of which a router chooses a few for each token (Shazeer et al. 2017, 1701.06538).

Nothing is dropped and no expert has a capacity, so that what a token gets depends on that token alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.compile_opaque import Opaque
from components.forward_context import ForwardContext
from components.initialization import Constant, Fill, Normal, Projection
from components.mlp import MLP, DenseMLP, Network
from components.registry import Component, OptionError, lookup, names, register, suggestion


@register("moe")
class MixtureOfExperts(MLP):
    """A router chooses `top_k` of `n_experts` MLPs for each token, as in Mixtral and gpt-oss (2401.04088, 2508.10925).

    `expert` names a plain or gated MLP, taken with its own defaults: swiglu, clamped_swiglu, relu and so on. Outputs
    are weighted by the softmax over the chosen experts' logits. Shared experts see every token at weight 1
    (DeepSeekMoE, 2401.06066); together they are one MLP of width n_shared_experts · shared_d_ff, where shared_d_ff is
    d_ff unless given. `bias` gives one to every matrix of every expert, `router_bias` to the router.

    Each layer adds to the training loss, and the sum over layers is what counts and what is logged:
    `moe/load_balance`: load_balance · n_experts · sum over experts of (pairs of a token and this expert / tokens) ·
    (mean probability of this expert before choosing), which is load_balance · top_k under an even load (2101.03961);
    `moe/router_z`: router_z_loss · mean of logsumexp(router logits)² (2202.08906).
    Both are means over the tokens of one forward pass: they see a micro-batch, not the whole batch.
    """

    n_experts: int
    top_k: int
    d_ff: int
    expert: str = "swiglu"
    bias: bool = False
    router_bias: bool = False
    n_shared_experts: int = 0
    shared_d_ff: int | None = None
    load_balance: float = 0.01
    router_z_loss: float = 0.0

    def __post_init__(self) -> None:
        self.need_at_least(1, "n_experts", "d_ff")
        if not 1 <= self.top_k <= self.n_experts:
            raise OptionError("top_k", f"must lie in 1 … n_experts = {self.n_experts}, got {self.top_k}")
        self.need_at_least(0, "n_shared_experts", "load_balance", "router_z_loss")
        if self.shared_d_ff is not None and self.n_shared_experts == 0:
            raise OptionError("shared_d_ff", "is given, but there are no shared experts: n_shared_experts is 0")
        self.need_at_least(1, "shared_d_ff")
        forms = [name for name in names("mlp") if issubclass(lookup("mlp", name), DenseMLP)]
        if self.expert not in forms:
            raise OptionError(
                "expert", f"no plain or gated mlp is called '{self.expert}'{suggestion(self.expert, forms)}"
            )

    def dense(self, d_ff: int) -> DenseMLP:
        """An MLP of the experts' form, of width d_ff."""
        mlp = lookup("mlp", self.expert)(d_ff=d_ff, bias=self.bias)  # type: ignore[call-arg]
        assert isinstance(mlp, DenseMLP)
        return mlp

    def uses(self) -> dict[str, Component]:
        return {"expert": self.dense(self.d_ff)}

    def build(self, d_model: int) -> nn.Module:
        return MoELayer(d_model, self)


class MoELayer(nn.Module):
    """Router [n_experts, d_model], experts, and shared experts or none."""

    def __init__(self, d_model: int, moe: MixtureOfExperts) -> None:
        super().__init__()
        self.top_k = moe.top_k
        self.load_balance, self.router_z_loss = moe.load_balance, moe.router_z_loss
        self.router = Projection(d_model, moe.n_experts, bias=moe.router_bias)
        self.experts = Experts(d_model, moe.n_experts, moe.top_k, moe.dense(moe.d_ff))
        shared_width = moe.n_shared_experts * (moe.shared_d_ff or moe.d_ff)
        self.shared = Network(d_model, moe.dense(shared_width)) if shared_width else None

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        """x [B, T, d_model] → the same shape."""
        tokens = x.flatten(0, 1)
        # In the weights' own precision even under autocast: rounded logits choose other experts (2101.03961, 2.4).
        with torch.autocast(x.device.type, enabled=False):
            logits = self.router(tokens.to(self.router.weight.dtype))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        top, chosen = logits.topk(self.top_k, dim=-1)
        if self.load_balance:
            context.add_loss("moe/load_balance", self.load_balance * load_balance_loss(logits, chosen))
        if self.router_z_loss:
            context.add_loss("moe/router_z", self.router_z_loss * logits.logsumexp(-1).square().mean())
        mixed: Tensor = self.experts(tokens, chosen, top.softmax(-1).to(x.dtype)).view_as(x)
        return mixed if self.shared is None else mixed + self.shared(x, context)


def load_balance_loss(logits: Tensor, chosen: Tensor) -> Tensor:
    """n_experts · Σ f·P over experts: f the experts' share of choices, P their mean probability (2101.03961, eq. 4-6).

    Args:
        logits: [N, n_experts] of the router.
        chosen: [N, top_k] experts; f counts each choice as 1 / N, so that it sums to top_k.
    """
    N, n_experts = logits.shape
    counts = torch.bincount(chosen.flatten(), minlength=n_experts)
    return n_experts / N * (counts * logits.softmax(-1).mean(0)).sum()


class Experts(nn.Module):
    """n_experts MLPs stacked: gate, if gated, and up [E, d_ff, d_model], down [E, d_model, d_ff]; biases [E, …]."""

    def __init__(self, d_model: int, n_experts: int, top_k: int, mlp: DenseMLP) -> None:
        super().__init__()
        self.top_k, self.mlp = top_k, mlp
        self.matrices = (*mlp.inputs, "down")
        for name in self.matrices:
            d_out, d_in = (d_model, mlp.d_ff) if name == "down" else (mlp.d_ff, d_model)
            self.register_parameter(name, nn.Parameter(torch.empty(n_experts, d_out, d_in)))
            bias = nn.Parameter(torch.empty(n_experts, d_out)) if mlp.bias else None
            self.register_parameter(f"{name}_bias", bias)

    def fills(self) -> dict[str, Fill]:
        biases: dict[str, Fill] = {f"{name}_bias": Constant(0.0) for name in self.matrices}
        inputs = {name: Normal("projection", self.get_parameter(name).shape[-1]) for name in self.mlp.inputs}
        return biases | inputs | {"down": Normal("residual_output", self.mlp.d_ff)}

    def flops_per_token(self, context: int) -> float:
        """Those of the experts that a token goes through."""
        return 2.0 * self.top_k * sum(self.get_parameter(name)[0].numel() for name in self.matrices)

    def idle_parameters(self) -> int:
        """Parameters that a token does not meet: those of the experts not chosen for it."""
        of_one = sum(parameter[0].numel() for parameter in self.parameters())
        return (self.get_parameter("down").shape[0] - self.top_k) * of_one

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Each token through its experts, and their outputs' weighted sum.

        Pairs of a token and an expert are sorted by expert, so that each expert is one matrix product over its tokens.
        How many those are is read from the device once: it decides the shapes, and nothing else does.

        Args:
            x: [N, d_model]
            chosen: [N, top_k] experts.
            weights: [N, top_k]
        Returns:
            [N, d_model]
        """
        return _through.call(self, x, chosen, weights)

    def through(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """As `forward`. Not to be compiled: its shapes are other ones at every step."""
        N, k = chosen.shape
        n_experts = self.get_parameter("down").shape[0]
        order = chosen.flatten().argsort(stable=True)
        sizes = torch.bincount(chosen.flatten(), minlength=n_experts).tolist()
        rows = x.index_select(0, order // k)
        projected = [self._grouped(rows, name, sizes) for name in self.mlp.inputs]
        outputs = self._grouped(self.mlp.join(*projected), "down", sizes)
        by_token = outputs.index_select(0, order.argsort()).view(N, k, -1)
        return (by_token * weights.unsqueeze(-1)).sum(1)

    def _grouped(self, rows: Tensor, name: str, sizes: list[int]) -> Tensor:
        """Rows [N·k, d_in], sorted by expert, each times its expert's matrix → [N·k, d_out]."""
        # unbind, since indexing each expert would make a gradient of the whole stack for each.
        matrices = self.get_parameter(name).unbind()
        bias: Tensor | None = getattr(self, f"{name}_bias")
        biases = [None] * len(sizes) if bias is None else bias.unbind()
        groups = zip(torch.split(rows, sizes), matrices, biases, strict=True)
        return torch.cat([F.linear(group, matrix, bias) for group, matrix, bias in groups])


_through = Opaque(Experts.through)
