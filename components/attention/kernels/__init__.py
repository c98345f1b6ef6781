"""The kernels there are, and the choice between them: the fastest that honours a spec in full.

To add one, write a Kernel in a file of its own beside these and name it in KERNELS and in `_preference`.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from components.attention.kernels.blockwise import Blockwise
from components.attention.kernels.kernel import Kernel, KernelRefused, check
from components.attention.kernels.reference import Reference
from components.attention.kernels.sdpa import Sdpa
from components.attention.spec import AttentionInputs, AttentionSpec
from components.registry import suggestion

__all__ = [
    "AUTO",
    "KERNELS",
    "Kernel",
    "KernelRefused",
    "UnknownKernel",
    "attend",
    "choose",
    "lookup",
    "names",
    "spec_refusal",
]

AUTO = "auto"
KERNELS: dict[str, Kernel] = {kernel.name: kernel for kernel in (Blockwise(), Sdpa(), Reference())}


class UnknownKernel(LookupError):
    """No kernel has that name. The message names the nearest and lists all."""


def names() -> list[str]:
    """Every name that a configuration may give: `auto`, then each kernel."""
    return [AUTO, *KERNELS]


def lookup(name: str) -> Kernel:
    """The kernel of that name.

    Raises:
        UnknownKernel: naming the nearest name.
    """
    if name not in KERNELS:
        raise UnknownKernel(f"no attention kernel is called '{name}'{suggestion(name, names())}")
    return KERNELS[name]


def attend(spec: AttentionSpec, inputs: AttentionInputs, kernel: str = AUTO, training: bool = False) -> Tensor:
    """Attention as the spec declares it: [B, H, T, Dv] in the inputs' dtype.

    Args:
        spec: what to compute.
        inputs: its tensors.
        kernel: a kernel's name, or `auto` for the fastest that honours the spec.
        training: whether dropout applies; outside of training the spec is taken without it.

    Raises:
        KernelRefused: the kernel named can't honour the spec.
        UnknownKernel: no kernel has that name.
        ValueError: the inputs don't fit together.
    """
    if spec.dropout and not training:
        spec = replace(spec, dropout=0.0)
    # Local and global layers then agree to the bit while the window hides nothing.
    if spec.window is not None and spec.window >= inputs.k.shape[2]:
        spec = replace(spec, window=None)
    return choose(spec, inputs, kernel).attend(spec, inputs)


def choose(spec: AttentionSpec, inputs: AttentionInputs, kernel: str = AUTO) -> Kernel:
    """The kernel that computes a call: the one named, or the fastest that doesn't refuse. Reads shapes, never values.

    Raises:
        KernelRefused: the kernel named can't honour the spec.
        UnknownKernel: no kernel has that name.
        ValueError: the inputs don't fit together.
    """
    check(spec, inputs)
    if kernel != AUTO:
        named = lookup(kernel)
        reason = named.refusal(spec, inputs)
        if reason is not None:
            raise KernelRefused(kernel, reason)
        return named
    for name in _preference(spec, inputs):
        if KERNELS[name].refusal(spec, inputs) is None:
            return KERNELS[name]
    raise AssertionError("the reference kernel refuses nothing")


def spec_refusal(
    kernel: str,
    spec: AttentionSpec,
    *,
    alibi: bool = False,
    sinks: bool = False,
    documents: bool = False,
    device: str = "cpu",
) -> str | None:
    """Why a kernel will refuse a spec on a kind of device, known before tensors exist; None if it won't.

    `auto` never refuses: the reference honours everything. Dropout counts as applied, as it will be in training.

    Raises:
        UnknownKernel: no kernel has that name.
    """
    if kernel == AUTO:
        return None
    return lookup(kernel).spec_refusal(spec, alibi=alibi, sinks=sinks, documents=documents, device=device)


# Up to about this many scores (or expanded key elements, in decoding) the reference's few large calls beat tiles.
_FEW = 128 * 1024


def _preference(spec: AttentionSpec, inputs: AttentionInputs) -> tuple[str, ...]:
    """Names from the fastest to the slowest for a call's shapes, as benchmarks/attention_kernels.py measures on CPU."""
    B, H, T, D = inputs.q.shape
    S = inputs.k.shape[2]
    if B * H * S * max(T, D) <= _FEW:
        return "sdpa", "reference", "blockwise"
    if spec.window is not None and min(T, S) >= 2 * spec.window:  # sdpa computes what the window hides, too
        return "blockwise", "sdpa", "reference"
    return "sdpa", "blockwise", "reference"
