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

    def refusal(self, spec: AttentionSpec, inputs: AttentionInputs) -> str | None:
        """Why this kernel can't honour a spec on these inputs; None if it can. Looks at no tensor's values."""
        return self.spec_refusal(
            spec,
            alibi=inputs.alibi_slopes is not None,
            sinks=inputs.sinks is not None,
            documents=inputs.documents is not None,
            device=inputs.q.device.type,
        )

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


def _in_autocast_dtype(inputs: AttentionInputs, dtype: torch.dtype) -> AttentionInputs:
    def cast(x: Tensor) -> Tensor:
        return x if x.dtype == torch.float64 else x.to(dtype)  # fp64 is asked for: autocast leaves it alone too

    return replace(inputs, q=cast(inputs.q), k=cast(inputs.k), v=cast(inputs.v))
