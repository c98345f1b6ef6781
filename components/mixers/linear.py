"""Gated linear attention: a state of fixed size that forgets, in place of a cache that grows (Yang et al., 2312.06635).

    S_t = diag(α_t) · S_{t-1} + k_tᵀ · v_t        S [head_dim, head_dim], α in (0, 1) for each key channel
    o_t = q_t · S_t

`recurrent` is that, word for word; `chunked` is the same sum in matrix products and is what the layer runs. Every
factor that it exponentiates is a sum of log gates, so at most 1, however long the stretch and however strong the
gates: nothing overflows and nothing is divided back. A gate of zero (log gate -inf) starts a new document.
"""

from __future__ import annotations

import math
from dataclasses import field

import torch
import torch.nn.functional as F
from torch import Tensor

from components.attention.heads import merge_heads, split_heads
from components.attention.slots import AttentionSlots
from components.cache import CacheTensor, LayerCache
from components.forward_context import ForwardContext
from components.initialization import Projection
from components.mixers.base import Mixer, MixerModule
from components.norm import RMSNormLayer
from components.registry import OptionError, register
from components.stepping.joined import Product
from components.stepping.preparation import Form, Preparation, is_observed


@register("linear")
class LinearMixer(Mixer):
    """Gated linear attention: a recurrent state with learned forgetting, no positions and no cache (2312.06635).

    Log gates are log sigmoid(x · W_down · W_up + b) / `gate_temperature`, through a bottleneck of `gate_rank`. Each
    head's output is divided by its root mean square and gated by swish(x · W + b).

    `n_heads` and `head_dim` are those of the block's heads where they aren't given. `chunk`, a power of two, is how
    many tokens are computed at once: it changes the speed, not the result.
    """

    n_heads: int | None = None
    head_dim: int | None = None
    gate_rank: int = 16
    gate_temperature: float = 16.0
    norm_eps: float = 1e-6
    chunk: int = field(default=64, metadata={"affects_result": False})

    def __post_init__(self) -> None:
        self.need_at_least(1, "n_heads", "head_dim", "gate_rank", "chunk")
        self.need_positive("gate_temperature", "norm_eps")
        if self.chunk & (self.chunk - 1):
            raise OptionError("chunk", f"must be a power of two, such as 64, got {self.chunk}")

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(f"heads.{size}" for size in ("n_heads", "head_dim") if getattr(self, size) is None)

    def resolve(self, slots: AttentionSlots, kind: str) -> LinearMixer:
        missing = [path.removeprefix("heads.") for path in self.reads]
        if missing and slots.heads is None:
            raise OptionError(f"mixer.{missing[0]}", "must be given: the model has no heads to take it from")
        return self.replace(**{size: getattr(slots.heads, size) for size in missing})

    def build(self, d_model: int) -> GatedLinearAttention:
        assert self.n_heads is not None
        assert self.head_dim is not None
        return GatedLinearAttention(d_model, self.n_heads, self.head_dim, self)


class GatedLinearAttention(MixerModule):
    """q, k, v and output_gate [H·D, d_model], gate_down [rank, d_model], gate_up [H·D, rank], norm [D], o."""

    def __init__(self, d_model: int, n_heads: int, head_dim: int, options: LinearMixer) -> None:
        super().__init__()
        self.n_heads, self.head_dim = n_heads, head_dim
        self.temperature, self.chunk = options.gate_temperature, options.chunk
        width = n_heads * head_dim
        self.q = Projection(d_model, width)
        self.k = Projection(d_model, width)
        self.v = Projection(d_model, width)
        self.gate_down = Projection(d_model, options.gate_rank)
        self.gate_up = Projection(options.gate_rank, width, bias=True)
        self.output_gate = Projection(d_model, width, bias=True)
        self.norm = RMSNormLayer(head_dim, options.norm_eps)
        self.o = Projection(width, d_model, role="residual_output")

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        """x [B, T, d_model] → [B, T, d_model]."""
        q, k, v = (split_heads(project(x), self.head_dim) for project in (self.q, self.k, self.v))
        gate = split_heads(self.gate_up(self.gate_down(x)), self.head_dim)
        with torch.autocast(x.device.type, enabled=False):
            exact = torch.promote_types(gate.dtype, torch.float32)
            log_gate = F.logsigmoid(gate.to(exact)) / self.temperature
            if context.documents is not None:
                log_gate = log_gate.masked_fill(_starts(context.documents)[:, None, :, None], float("-inf"))
            q, k, v = q.to(exact) / math.sqrt(self.head_dim), k.to(exact), v.to(exact)
            if context.step is None:
                mixed = chunked(q, k, v, log_gate, self.chunk)
            else:
                mixed, state = continued(context.cache["state"], q, k, v, log_gate, self.chunk)
                context.cache = LayerCache({"state": state})
        mixed = merge_heads(self.norm(mixed)).to(x.dtype)
        return self.o(mixed * F.silu(self.output_gate(x)))  # type: ignore[no-any-return]

    def prepared(self, preparation: Preparation) -> PreparedLinearAttention | None:
        inputs = preparation.product(self.q, self.k, self.v, self.output_gate, self.gate_down)
        gate_up, output = preparation.product(self.gate_up), preparation.product(self.o)
        if type(self) is not GatedLinearAttention or is_observed(self) or not (inputs and gate_up and output):
            return None
        sizes = [self.n_heads * self.head_dim] * 4 + [self.gate_down.out_features]
        return PreparedLinearAttention(self, inputs, sizes, gate_up, output, preparation.form(self.norm))

    def cache_tensors(self, capacity: int, dtype: torch.dtype) -> dict[str, CacheTensor]:
        """The state, as large for any text, in fp32 at least."""
        shape = (self.n_heads, self.head_dim, self.head_dim)
        return {"state": CacheTensor(shape, torch.promote_types(dtype, torch.float32))}

    @property
    def reach(self) -> None:
        return None

    def flops_per_token(self, context: int) -> float:
        """Of the recurrent form: k_tᵀ · v_t into the state, and q_t · S_t out of it."""
        return 4.0 * self.n_heads * self.head_dim**2


class PreparedLinearAttention:
    """The form of `GatedLinearAttention`: five projections by one product, and the state updated in place."""

    def __init__(
        self,
        layer: GatedLinearAttention,
        inputs: Product,
        sizes: list[int],
        gate_up: Product,
        output: Product,
        norm: Form,
    ) -> None:
        self._heads, self._size, self._temperature = layer.n_heads, layer.head_dim, layer.temperature
        self._inputs, self._sizes, self._gate_up, self._output, self._norm = inputs, sizes, gate_up, output, norm

    def __call__(self, x: Tensor, context: ForwardContext) -> Tensor:
        """x [B, 1, d_model] → [B, 1, d_model]."""
        q, k, v, output_gate, gate = torch.split(self._inputs(x), self._sizes, dim=-1)
        gate = self._gate_up(gate)
        with torch.autocast(x.device.type, enabled=False):
            exact = torch.promote_types(gate.dtype, torch.float32)
            q, k, v, gate = (part.reshape(len(x), self._heads, 1, self._size).to(exact) for part in (q, k, v, gate))
            state = context.cache["state"]
            state.mul_((F.logsigmoid(gate) / self._temperature).exp().mT).add_(k.mT * v)
            mixed = (q / math.sqrt(self._size)) @ state
        mixed = self._norm(mixed).reshape(len(x), 1, -1).to(x.dtype)
        return self._output(mixed * F.silu(output_gate))


def recurrent(q: Tensor, k: Tensor, v: Tensor, log_gate: Tensor) -> Tensor:
    """The definition, token by token: what `chunked` must equal.

    Args:
        q, k, log_gate: [B, H, T, D]
        v: [B, H, T, Dv]
    Returns:
        [B, H, T, Dv]
    """
    state = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])
    outputs = []
    for t in range(q.shape[2]):
        state = log_gate[:, :, t].exp()[..., None] * state + k[:, :, t, :, None] * v[:, :, t, None, :]
        outputs.append((q[:, :, t, None, :] @ state).squeeze(-2))
    return torch.stack(outputs, dim=2)


def chunked(q: Tensor, k: Tensor, v: Tensor, log_gate: Tensor, chunk: int) -> Tensor:
    """As `recurrent`, in chunks of `chunk` tokens (a power of two): within a chunk, and from one to the next.

    Within a chunk, what the second half of each stretch reads from its first half goes through the middle: the decay
    from a key to the middle, times that from the middle to a query. Halving the stretches down to one token covers
    every pair once.
    """
    state = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])
    return chunked_from(state, q, k, v, log_gate, chunk)[0]


def chunked_from(state: Tensor, q: Tensor, k: Tensor, v: Tensor, log_gate: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """As `chunked`, from a state [B, H, D, Dv] on, and the state after the last token."""
    T = q.shape[2]
    chunk = min(chunk, 1 << (T - 1).bit_length())
    # Zero keys don't change the state, so padding at the end has no effect.
    q, k, v, log_gate = (F.pad(x, (0, 0, 0, -T % chunk)) for x in (q, k, v, log_gate))
    out = (q * k).sum(-1, keepdim=True) * v
    half = 1
    while half < chunk:
        out = out + _across_middles(q, k, v, log_gate, half)
        half *= 2
    read, state = _across_chunks(state, q, k, v, log_gate, chunk)
    return (out + read)[:, :, :T], state


def continued(state: Tensor, q: Tensor, k: Tensor, v: Tensor, log_gate: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """As `chunked_from`, with less work for one token."""
    if q.shape[2] > 1:
        return chunked_from(state, q, k, v, log_gate, chunk)
    state = state * log_gate.exp().mT + k.mT * v
    return q @ state, state


def _across_middles(q: Tensor, k: Tensor, v: Tensor, log_gate: Tensor, half: int) -> Tensor:
    """What second halves of stretches of 2 · half tokens read from the first halves: [B, H, T, Dv]."""
    first, second = slice(0, half), slice(half, None)
    q, k, v, log_gate = (_stretches(x, 2 * half) for x in (q, k, v, log_gate))
    reading = q[..., second, :] * log_gate[..., second, :].cumsum(-2).exp()
    written = k[..., first, :] * _decay_to_end(log_gate[..., first, :])
    read = (reading @ written.mT) @ v[..., first, :]
    return F.pad(read, (0, 0, half, 0)).flatten(2, 3)


def _across_chunks(
    state: Tensor, q: Tensor, k: Tensor, v: Tensor, log_gate: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """What tokens read from the chunks before their own, [B, H, T, Dv], and the state after the last."""
    q, k, v, log_gate = (_stretches(x, chunk) for x in (q, k, v, log_gate))
    decay = log_gate.cumsum(-2)
    written = (k * _decay_to_end(log_gate)).mT @ v  # [B, H, chunks, D, Dv]
    kept = decay[..., -1, :].exp()
    states = []
    for i in range(q.shape[2]):
        states.append(state)
        state = kept[:, :, i, :, None] * state + written[:, :, i]
    return ((q * decay.exp()) @ torch.stack(states, dim=2)).flatten(2, 3), state


def _stretches(x: Tensor, length: int) -> Tensor:
    """[B, H, T, D] → [B, H, T / length, length, D]."""
    B, H, _, D = x.shape
    return x.view(B, H, -1, length, D)


def _decay_to_end(log_gate: Tensor) -> Tensor:
    """Product of the gates after each token of a stretch, up to its last: [..., T, D]."""
    after = F.pad(log_gate[..., 1:, :], (0, 0, 0, 1))
    return after.flip(-2).cumsum(-2).flip(-2).exp()


def _starts(documents: Tensor) -> Tensor:
    """[B, T] ids → where a document begins, True on its first token."""
    return F.pad(documents[:, 1:] != documents[:, :-1], (1, 0))
