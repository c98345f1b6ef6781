"""Exact attention by a C++ library that is built on this machine: the CPU's fastest kernel, forward and backward.

It works on tiles as FlashAttention-2 does (2307.08691), with matrix products of its own on AVX-512, AVX2 or 128-bit
vectors; bf16 products are VDPBF16PS where the CPU has it, and fp32 elsewhere. Results are the same bits for any number
of threads. The C++ is in `cpp/`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from components.attention.kernels.kernel import Case, Kernel
from components.attention.kernels.native import call, operators
from components.attention.kernels.native.call import Numbers
from components.attention.spec import AttentionInputs, AttentionSpec

DTYPES = (torch.float32, torch.bfloat16)


class Native(Kernel):
    """Attention in C++, in fp32 and bf16. Scores and sums are in fp32."""

    name = "native"

    def spec_refusal(
        self, spec: AttentionSpec, *, alibi: bool = False, sinks: bool = False, documents: bool = False, device: str
    ) -> str | None:
        if device != "cpu":
            return f"device = {device}: it is compiled for CPUs only; use blockwise or sdpa"
        if spec.dropout:
            return f"dropout = {spec.dropout:g}: the weights are never held to be dropped; use sdpa or reference"
        return None

    def case_refusal(self, spec: AttentionSpec, case: Case) -> str | None:
        """Starts no build: what only a build can tell is told by `refusal`."""
        if case.dtype not in DTYPES:
            given, takes = (", ".join(str(x).removeprefix("torch.") for x in xs) for xs in ((case.dtype,), DTYPES))
            return f"dtype = {given}: it takes {takes}; use blockwise or reference"
        return _without(operators.foreseen())

    def refusal(self, spec: AttentionSpec, inputs: AttentionInputs) -> str | None:
        """Builds the library where the cache doesn't have it and nothing else is refused."""
        return self.planned_refusal(spec, Case.of(inputs)) or _without(operators.unavailable())

    def compute(self, spec: AttentionSpec, inputs: AttentionInputs) -> Tensor:
        q, k, v = (call.contiguous_rows(x) for x in (inputs.q, inputs.k, inputs.v))
        slopes, sinks = (
            None if x is None else x.to(torch.float32).contiguous() for x in (inputs.alibi_slopes, inputs.sinks)
        )
        documents = inputs.documents
        if documents is not None:
            documents = call.contiguous_rows(documents.to(torch.int64))
        numbers = Numbers(spec.scale, spec.softcap, spec.causal, spec.window, inputs.offset)
        if torch.compiler.is_compiling():
            return operators.attention(q, k, v, slopes, sinks, documents, numbers)
        if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, slopes, sinks)):
            out: Tensor = _Attention.apply(q, k, v, slopes, sinks, documents, numbers)  # type: ignore[no-untyped-call]
            return out
        return call.forward(q, k, v, slopes, sinks, documents, numbers, lse=None)


class _Attention(torch.autograd.Function):
    """Saves its inputs, its output and one log-sum-exp a row, nothing more."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        slopes: Tensor | None,
        sinks: Tensor | None,
        documents: Tensor | None,
        numbers: Numbers,
    ) -> Tensor:
        lse = q.new_empty(call.lse_size(q), dtype=torch.float32)
        out = call.forward(q, k, v, slopes, sinks, documents, numbers, lse)
        ctx.save_for_backward(q, k, v, slopes, sinks, documents, out, lse)
        ctx.numbers = numbers
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True: what follows is not recorded
            raise RuntimeError("attention kernel 'native' has no second derivatives; use reference")
        q, k, v, slopes, sinks, documents, out, lse = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:5]
        grads = call.backward(d_out, q, k, v, slopes, sinks, documents, out, lse, ctx.numbers, wanted)
        return (*grads, None, None)


def _without(reason: str | None) -> str | None:
    """A refusal for lack of the library."""
    return None if reason is None else f"its library can't be used here: {reason}; use blockwise or sdpa"
