"""What a kernel is: one way to compute an AttentionSpec, which it honours in full or refuses with a reason."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from components.attention.spec import AttentionInputs, AttentionSpec


class KernelRefused(ValueError):
    """A kernel asked for by name can't honour a spec. `kernel` names it, `reason` says which field and what would."""

    def __init__(self, kernel: str, reason: str) -> None:
        super().__init__(f"attention kernel '{kernel}' refuses: {reason}")
        self.kernel = kernel
        self.reason = reason


@dataclass(frozen=True)
class Case:
    """What a kernel may ask about a call beyond its spec, known before tensors exist.

    Attributes:
        device: a torch device type, such as "cpu" or "cuda".
        dtype: of q, k and v as the kernel will read them: autocast's where it is on.
        heads, kv_heads: query heads, key-value heads.
        batch, queries, keys: B, T, S.
        head_dim, value_dim: D, Dv.
        offset: position of the first query among the keys.
        training: whether gradients will be asked for.
        alibi, sinks, documents: whether inputs carry them.
        alibi_trained: whether the slopes are asked for a gradient.
    """

    device: str
    dtype: torch.dtype
    heads: int
    kv_heads: int
    queries: int
    keys: int
    head_dim: int
    value_dim: int
    offset: int = 0
    batch: int = 1
    training: bool = False
    alibi: bool = False
    sinks: bool = False
    documents: bool = False
    alibi_trained: bool = False

    @classmethod
    def of(cls, inputs: AttentionInputs) -> Case:
        """The case of a call. Reads shapes, never values."""
        q, k, v = inputs.q, inputs.k, inputs.v
        device, dtype = q.device.type, q.dtype
        if device != "meta" and torch.is_autocast_enabled(device):
            dtype = _autocast_dtype(dtype, torch.get_autocast_dtype(device))
        grad, slopes, sinks = torch.is_grad_enabled(), inputs.alibi_slopes, inputs.sinks
        trained = slopes is not None and slopes.requires_grad
        gradients = q.requires_grad or k.requires_grad or v.requires_grad or trained
        return cls(
            device=device,
            dtype=dtype,
            heads=q.shape[1],
            kv_heads=k.shape[1],
            queries=q.shape[2],
            keys=k.shape[2],
            head_dim=q.shape[3],
            value_dim=v.shape[3],
            offset=inputs.offset,
            batch=q.shape[0],
            training=grad and (gradients or (sinks is not None and sinks.requires_grad)),
            alibi=slopes is not None,
            sinks=sinks is not None,
            documents=inputs.documents is not None,
            alibi_trained=grad and trained,
        )

    @property
    def own_positions(self) -> bool:
        """Whether queries and keys are the same positions, as in training: no cache, no room ahead."""
        return self.offset == 0 and self.queries == self.keys


class Kernel(ABC):
    """One way to compute attention. Subclasses say what they refuse and compute the rest.

    A new kernel is a file beside this one with a subclass, and a line in this package's registry.
    """

    name: ClassVar[str]

    def spec_refusal(
        self, spec: AttentionSpec, *, alibi: bool = False, sinks: bool = False, documents: bool = False, device: str
    ) -> str | None:
        """Why this kernel can't honour a spec, known before tensors exist; None if it can.

        Args:
            spec: the semantics; its dropout counts as applied.
            alibi: whether inputs will carry slopes.
            sinks: whether inputs will carry sinks.
            documents: whether inputs will carry document ids.
            device: a torch device type, such as "cpu" or "cuda".
        """
        return None

    def case_refusal(self, spec: AttentionSpec, case: Case) -> str | None:
        """Why this kernel can't compute a spec that it honours in such a case: its dtype, sizes, gradients."""
        return None

    def planned_refusal(self, spec: AttentionSpec, case: Case) -> str | None:
        """Why this kernel will refuse a call, all that can be known before its tensors exist; None if it won't."""
        reason = self.spec_refusal(
            spec, alibi=case.alibi, sinks=case.sinks, documents=case.documents, device=case.device
        )
        return self.case_refusal(spec, case) if reason is None else reason

    def refusal(self, spec: AttentionSpec, inputs: AttentionInputs) -> str | None:
        """Why this kernel can't honour a spec on these inputs; None if it can. Looks at no tensor's values."""
        return self.planned_refusal(spec, Case.of(inputs))

    def attend(self, spec: AttentionSpec, inputs: AttentionInputs) -> Tensor:
        """softmax(mask(cap(scale · q·kᵀ) + ALiBi)) · v, dropout applied: [B, H, T, Dv] in the inputs' dtype.

        Under autocast q, k and v are taken in autocast's dtype, so that every kernel reads the same numbers.

        Raises:
            KernelRefused: rather than compute something other than the spec.
            ValueError: where the inputs don't fit together.
        """
        check(spec, inputs)
        reason = self.refusal(spec, inputs)
        if reason is not None:
            raise KernelRefused(self.name, reason)
        device = inputs.q.device.type
        if not torch.is_autocast_enabled(device):
            return self.compute(spec, inputs)
        inputs = _in_autocast_dtype(inputs, torch.get_autocast_dtype(device))
        with torch.autocast(device, enabled=False):
            return self.compute(spec, inputs)

    @abstractmethod
    def compute(self, spec: AttentionSpec, inputs: AttentionInputs) -> Tensor:
        """The kernel itself, called with checked inputs that it doesn't refuse, outside of autocast."""


@dataclass(frozen=True)
class Reach:
    """The stretch of keys that some query of a call sees, and where it leaves the queries.

    Attributes:
        start, stop: keys start to stop, stop excluded, are seen by at least one query (documents aside).
        offset: position of the first query among those keys.
        causal: whether the causal mask still hides any of them.
        window: the window if it still hides any of them.
    """

    start: int
    stop: int
    offset: int
    causal: bool
    window: int | None


def reach(spec: AttentionSpec, inputs: AttentionInputs) -> Reach:
    """The keys that matter to a call: a decoding step over a long cache with a window needs W keys and no mask."""
    T, S, offset = inputs.q.shape[2], inputs.k.shape[2], inputs.offset
    stop = min(S, offset + T) if spec.causal else S
    start = 0 if spec.window is None else max(0, offset - spec.window + 1)
    causal = spec.causal and T > 1
    window = spec.window if spec.window is not None and spec.window < offset + T - start else None
    return Reach(start, stop, offset - start, causal, window)


def check(spec: AttentionSpec, inputs: AttentionInputs) -> None:
    """Raise ValueError, naming shapes, where the tensors of a call don't fit together. Looks at no tensor's values."""
    q, k, v = inputs.q, inputs.k, inputs.v
    B, H, T, D = q.shape
    K, S = k.shape[1], k.shape[2]
    if k.shape != (B, K, S, D) or v.shape[:3] != (B, K, S):
        raise ValueError(f"q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)} do not fit together")
    if not q.dtype == k.dtype == v.dtype and not torch.is_autocast_enabled(q.device.type):
        raise ValueError(f"q, k and v must share a dtype, got {q.dtype}, {k.dtype} and {v.dtype}")
    positioned = spec.causal or inputs.documents is not None
    if inputs.offset < 0 or (positioned and inputs.offset + T > S):
        raise ValueError(f"{T} queries from offset {inputs.offset} need their own keys among the {S} given")
    for field, tensor, shape in (
        ("alibi_slopes", inputs.alibi_slopes, (H,)),
        ("sinks", inputs.sinks, (H,)),
        ("documents", inputs.documents, (B, S)),
    ):
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{field} must have shape {shape}, got {tuple(tensor.shape)}")


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which scores and sums are held: at least fp32."""
    return torch.promote_types(dtype, torch.float32)


def _autocast_dtype(given: torch.dtype, autocast: torch.dtype) -> torch.dtype:
    """The dtype in which autocast reads a tensor."""
    return given if given == torch.float64 else autocast  # fp64 is asked for: autocast leaves it alone too


def _in_autocast_dtype(inputs: AttentionInputs, dtype: torch.dtype) -> AttentionInputs:
    def cast(x: Tensor) -> Tensor:
        return x.to(_autocast_dtype(x.dtype, dtype))

    return replace(inputs, q=cast(inputs.q), k=cast(inputs.k), v=cast(inputs.v))
