"""xformers' memory-efficient attention (2112.05682, 2205.14135) on CUDA: windows and packed documents without a mask.

`bias` chooses the xformers bias that means what a spec means; the rest is layout. xformers imports slowly and may be
absent, so it is imported when a call is about to use it.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from components.attention.kernels.kernel import Case, Kernel, KernelRefused, Reach, reach
from components.attention.kernels.reproducible import repeatable
from components.attention.kernels.step_cache import StepCache
from components.attention.spec import AttentionInputs, AttentionSpec
from components.compile_opaque import Opaque

_LANES = {torch.float16: 8, torch.bfloat16: 8, torch.float32: 4}  # of dtypes that it takes: divisor of head_dim


class Xformers(Kernel):
    """xformers' memory-efficient attention, by its flash and cutlass operators. On CUDA only."""

    name = "xformers"

    def spec_refusal(
        self, spec: AttentionSpec, *, alibi: bool = False, sinks: bool = False, documents: bool = False, device: str
    ) -> str | None:
        if device != "cuda":
            return f"device = {device}: xformers computes attention on cuda only; use blockwise or sdpa"
        if spec.softcap is not None:
            return f"softcap = {spec.softcap:g}: xformers has no soft-cap; use flex or blockwise"
        if sinks:
            return "sinks: xformers has none; use flex or blockwise"
        if alibi:
            return "alibi: xformers takes it as a bias on every query and key only; use flex or blockwise"
        return "xformers is not installed; use flex or sdpa" if _absent() else None

    def case_refusal(self, spec: AttentionSpec, case: Case) -> str | None:
        lanes = _LANES.get(case.dtype)
        if lanes is None:
            takes = ", ".join(str(dtype).removeprefix("torch.") for dtype in _LANES)
            return f"dtype = {str(case.dtype).removeprefix('torch.')}: xformers takes {takes}; use sdpa or reference"
        if case.head_dim % lanes or case.value_dim % lanes:
            size = case.head_dim if case.head_dim % lanes else case.value_dim
            return f"head_dim = {size}: not a multiple of {lanes}, which xformers needs here; use flex or sdpa"
        if case.documents and not case.own_positions:
            return "documents with a cache: xformers' packed masks need each query's own key; use flex or blockwise"
        if case.documents and torch.compiler.is_compiling():
            return "documents under torch.compile: xformers needs their lengths as numbers; use flex or blockwise"
        return None

    def refusal(self, spec: AttentionSpec, inputs: AttentionInputs) -> str | None:
        reason = super().refusal(spec, inputs)
        if reason is not None or not inputs.q.is_cuda or torch.compiler.is_compiling():
            return reason
        operators = _operators(spec, Case.of(inputs), reach(spec, inputs), None, inputs.q.device)
        return operators if isinstance(operators, str) else None

    def compute(self, spec: AttentionSpec, inputs: AttentionInputs) -> Tensor:
        return _memory_efficient.call(spec, inputs)


def _by_operators(spec: AttentionSpec, inputs: AttentionInputs) -> Tensor:
    seen, case = reach(spec, inputs), Case.of(inputs)
    lengths = None if inputs.documents is None else document_lengths(inputs.documents)
    choice = _operators(spec, case, seen, lengths, inputs.q.device)
    if isinstance(choice, str):
        raise KernelRefused(Xformers.name, choice)
    hidden, operators = choice
    from xformers.ops import fmha

    q, k, v = laid_out(inputs, seen, packed=_is_packed(hidden), expanded=case.training)
    out = fmha.memory_efficient_attention(q, k, v, hidden, p=spec.dropout, scale=spec.scale, op=operators)
    out = out.reshape(case.batch, case.queries, case.heads, case.value_dim).transpose(1, 2)
    return repeatable(out, "_fMHA")


_memory_efficient = Opaque(_by_operators)


def bias(seen: Reach, queries: int, lengths: Sequence[int] | None, device: torch.device | None = None) -> Any:
    """The xformers bias that hides what a call hides; None where nothing is.

    `reach` has cut the keys so that the last query's own key is the last, and no causal mask hides a single query's:
    what xformers aligns at the bottom right is then aligned as the spec says.

    Args:
        queries: T.
        lengths: of all documents of the batch, one sequence after the other; None for sequences side by side.
        device: of the tensors that a bias for documents holds; None for the CPU.
    """
    from xformers.ops.fmha import attn_bias

    keys = seen.stop - seen.start
    if lengths is not None:
        blocks = attn_bias.BlockDiagonalMask.from_seqlens(list(lengths), device=device or torch.device("cpu"))
        if not seen.causal:
            return blocks
        return blocks.make_causal() if seen.window is None else blocks.make_local_attention(seen.window)
    if seen.window is not None:
        return attn_bias.LowerTriangularFromBottomRightLocalAttentionMask(seen.window)
    if not seen.causal:
        return None
    if queries == keys:
        return attn_bias.LowerTriangularMask()
    return attn_bias.LowerTriangularFromBottomRightMask()


def document_lengths(documents: Tensor) -> list[int]:
    """[B, T] ids → how long each document is, one sequence after the other. Waits for the device, once a step.

    Raises:
        KernelRefused: an id comes back after another one's: such a document is no stretch that could be packed.
    """
    return _LENGTHS.get("lengths", documents, lambda: _document_lengths(documents.cpu()))


_LENGTHS: StepCache[list[int]] = StepCache(2)


def _document_lengths(documents: Tensor) -> list[int]:
    lengths: list[int] = []
    for row in documents:
        ids, counts = torch.unique_consecutive(row, return_counts=True)
        if len(ids) > len(ids.unique()):
            raise KernelRefused("xformers", "documents: an id comes back after another; use flex or blockwise")
        lengths += counts.tolist()
    return lengths


def laid_out(inputs: AttentionInputs, seen: Reach, *, packed: bool, expanded: bool) -> tuple[Tensor, Tensor, Tensor]:
    """q [B, T, H, D], k and v [B, S, H, …] as xformers reads them: the keys of `seen` alone.

    Args:
        packed: the sequences one after the other, [1, B·T, …], as its masks for documents want them.
        expanded: whether grouped key-value heads are repeated for their query heads, as its backward passes want them;
            else heads are [K, H / K], the keys' last of those a view, as its forward passes allow.
    """
    q = inputs.q.transpose(1, 2)
    k, v = (x[:, :, seen.start : seen.stop].transpose(1, 2) for x in (inputs.k, inputs.v))
    q, k, v = (x.flatten(0, 1)[None] if packed else x for x in (q, k, v))
    q, k, v = (_aligned(x) for x in (q, k, v))
    K, group = k.shape[2], q.shape[2] // k.shape[2]
    if group == 1:
        return q, k, v
    if expanded:
        return q, k.repeat_interleave(group, dim=2), v.repeat_interleave(group, dim=2)
    k, v = (x[:, :, :, None].expand(-1, -1, -1, group, -1) for x in (k, v))
    return q.reshape(*q.shape[:2], K, group, q.shape[3]), k, v


def _aligned(x: Tensor) -> Tensor:
    """x with contiguous heads at addresses that vector loads accept."""
    return x if x.stride(-1) == 1 and x.stride(-2) % 8 == 0 else x.contiguous()


def _operators(
    spec: AttentionSpec, case: Case, seen: Reach, lengths: Sequence[int] | None, device: torch.device
) -> tuple[Any, Any] | str:
    """The bias, and the forward and backward operator, for a call: the first that xformers supports here, or why none.

    Without lengths any do: operators ask for the kind of a bias and for shapes.
    """
    try:
        from xformers.ops import fmha
    except Exception as error:  # its compiled parts must fit this torch and this Python
        return f"xformers can't be imported ({type(error).__name__}); use flex or sdpa"
    whole = [case.queries] * case.batch
    biases = [bias(seen, case.queries, (lengths or whole) if case.documents else None, device)]
    if seen.window is not None and not case.documents and case.queries == seen.stop - seen.start:
        # Some operators know a window in packed documents only: each sequence is one.
        biases.append(bias(seen, case.queries, whole, device))
    refusals: dict[str, None] = {}
    for hidden in biases:
        q, k, v = _shapes(case, seen, device, packed=_is_packed(hidden))
        call = fmha.Inputs(q, k, v, hidden, p=spec.dropout, scale=spec.scale)
        for family in (fmha.flash3, fmha.flash, fmha.cutlass):
            reasons = family.FwOp.not_supported_reasons(call)
            if case.training:
                reasons += family.BwOp.not_supported_reasons(call)
            if not reasons:
                return hidden, (family.FwOp, family.BwOp)
            refusals |= dict.fromkeys(f"{family.__name__.rpartition('.')[2]}: {reason}" for reason in reasons[:1])
    return f"none of xformers' operators takes this ({'; '.join(refusals)}); use flex or sdpa"


def _shapes(case: Case, seen: Reach, device: torch.device, *, packed: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Stand-ins for what `laid_out` gives: shapes, dtype and device, without memory."""
    one = torch.empty(1, dtype=case.dtype, device=device)
    grouped = case.heads != case.kv_heads and not case.training
    heads = (case.kv_heads, case.heads // case.kv_heads) if grouped else (case.heads,)
    keys = seen.stop - seen.start

    def made(length: int, size: int) -> Tensor:
        return (
            one.expand(1, case.batch * length, *heads, size) if packed else one.expand(case.batch, length, *heads, size)
        )

    return made(case.queries, case.head_dim), made(keys, case.head_dim), made(keys, case.value_dim)


def _is_packed(hidden: Any) -> bool:
    return hasattr(hidden, "q_seqinfo")


@functools.cache
def _absent() -> bool:
    return importlib.util.find_spec("xformers") is None
