"""Which kernel computes a call: the one asked for, or the fastest that doesn't refuse; and why none of the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from components.attention.kernels.blockwise.kernel import Blockwise
from components.attention.kernels.flex import Flex
from components.attention.kernels.kernel import Case, Kernel, KernelRefused, check
from components.attention.kernels.native.kernel import Native
from components.attention.kernels.reference import Reference
from components.attention.kernels.sdpa import Sdpa, is_fused
from components.attention.kernels.xformers import Xformers
from components.attention.spec import AttentionInputs, AttentionSpec
from components.registry import UnknownName

AUTO = "auto"
KERNELS: dict[str, Kernel] = {
    kernel.name: kernel for kernel in (Native(), Blockwise(), Sdpa(), Flex(), Xformers(), Reference())
}


class UnknownKernel(UnknownName):
    """No kernel has that name."""


@dataclass(frozen=True)
class KernelChoice:
    """A kernel chosen for a call.

    Attributes:
        kernel: its name.
        asked_for: whether it was asked for by name.
        passed_over: each other kernel → why it refuses the call, or None where it would have computed it.
    """

    kernel: str
    asked_for: bool
    passed_over: Mapping[str, str | None]

    @property
    def refusals(self) -> dict[str, str]:
        """Why other kernels refuse the call, of those that do."""
        return {name: reason for name, reason in self.passed_over.items() if reason is not None}

    @property
    def others(self) -> dict[str, str]:
        """Why not each of the other kernels, in words."""
        unused = "not asked for" if self.asked_for else f"comes after {self.kernel} for such a call"
        return {name: unused if why is None else f"refuses: {why}" for name, why in self.passed_over.items()}


def names() -> list[str]:
    """Every name that a configuration may give: `auto`, then each kernel."""
    return [AUTO, *KERNELS]


def lookup(name: str) -> Kernel:
    """The kernel of that name.

    Raises:
        UnknownKernel: naming the nearest name.
    """
    if name not in KERNELS:
        raise UnknownKernel("attention kernel", name, names())
    return KERNELS[name]


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
    for name in preference(spec, Case.of(inputs)):
        if KERNELS[name].refusal(spec, inputs) is None:
            return KERNELS[name]
    raise AssertionError("the reference kernel refuses nothing")


def explain(spec: AttentionSpec, inputs: AttentionInputs, kernel: str = AUTO) -> KernelChoice:
    """What `choose` chooses, and why none of the others.

    Raises:
        KernelRefused, UnknownKernel, ValueError: as `choose` does.
    """
    spec = as_called(spec, inputs)
    chosen = choose(spec, inputs, kernel).name
    case = Case.of(inputs)
    order = preference(spec, case)
    behind = order[order.index(chosen) :] if kernel == AUTO else KERNELS
    passed_over = {}
    for name in order:
        if name == chosen:
            continue
        # A kernel that comes later anyway is only asked what it can tell without its library: xformers would load.
        reason = KERNELS[name].planned_refusal(spec, case) if name in behind else KERNELS[name].refusal(spec, inputs)
        passed_over[name] = reason
    return KernelChoice(chosen, kernel != AUTO, passed_over)


def as_called(spec: AttentionSpec, inputs: AttentionInputs) -> AttentionSpec:
    """The spec less a window that hides nothing: local and global layers then agree to the bit."""
    if spec.window is not None and spec.window >= inputs.k.shape[2]:
        return replace(spec, window=None)
    return spec


def planned_refusal(kernel: str, spec: AttentionSpec, case: Case) -> str | None:
    """Why a kernel will refuse a call, known before its tensors exist; None if it won't.

    `auto` never refuses: the reference honours everything. Dropout counts as applied, as it will be in training.

    Raises:
        UnknownKernel: no kernel has that name.
    """
    return None if kernel == AUTO else lookup(kernel).planned_refusal(spec, case)


# Up to about this many scores (or expanded key elements, in decoding) the reference's few large calls beat tiles.
_FEW = 128 * 1024
# Fewer queries than this are a step of decoding: not worth a compilation for their number of keys.
_MANY = 128


def preference(spec: AttentionSpec, case: Case) -> tuple[str, ...]:
    """All names from the fastest to the slowest for a call.

    A kernel that may refuse for what it reads in the inputs comes after the reference, which refuses nothing.

    On CPU the order is that of benchmarks/attention_kernels.py: `native`, and where it refuses the fastest of the rest.
    On CUDA it follows what the kernels are made for: fused without a mask before compiled, compiled before tiles in
    Python, tiles before a T×S mask.
    """
    few = case.batch * case.heads * case.keys * max(case.queries, case.head_dim) <= _FEW
    order = ("sdpa", "reference", "blockwise", "flex", "xformers") if few else _of_many(spec, case)
    order = ("native", *order) if case.device == "cpu" else (*order, "native")
    if case.documents or torch.compiler.is_compiling():  # xformers reads document ids, and breaks a graph
        return *(name for name in order if name != "xformers"), "xformers"
    return order


def _of_many(spec: AttentionSpec, case: Case) -> tuple[str, ...]:
    """The order of the kernels that every machine has, for many scores."""
    if case.device != "cuda":
        windowed = spec.window is not None and min(case.queries, case.keys) >= 2 * spec.window
        first = ("blockwise", "sdpa") if windowed else ("sdpa", "blockwise")  # sdpa computes what a window hides, too
        return *first, "reference", "flex", "xformers"
    if case.queries < _MANY:
        return "sdpa", "xformers", "blockwise", "reference", "flex"
    # Traced, sdpa's backward pass can't be made to repeat to the bit.
    unordered = case.training and torch.compiler.is_compiling() and torch.are_deterministic_algorithms_enabled()
    if is_fused(spec, case) and not unordered:
        return "sdpa", "xformers", "flex", "blockwise", "reference"
    if not case.training and case.offset:  # a prompt in pieces: each length of the cache would be compiled
        return "xformers", "blockwise", "sdpa", "reference", "flex"
    return "flex", "xformers", "blockwise", "sdpa", "reference"
