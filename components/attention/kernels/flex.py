"""torch's FlexAttention (2412.05496): caps, windows and documents fused on CUDA, from a few lines a mask and a score.

Each kind of call is compiled once, for its length. Which blocks of keys a block of queries needs is worked out from
positions and document ids alone, without a T×S mask, and kept from layer to layer and step to step.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from components.attention.kernels.flex_blocks import block_mask
from components.attention.kernels.kernel import Case, Kernel, Reach, accumulator, reach
from components.attention.kernels.step_cache import StepCache
from components.attention.spec import AttentionInputs, AttentionSpec

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LEAST_HEAD_DIM, MOST_HEAD_DIM = 16, 256  # of torch's Triton templates


class Flex(Kernel):
    """torch's FlexAttention, compiled: the GPU's kernel for caps and windows. On CPU without gradients only."""

    name = "flex"

    def spec_refusal(
        self, spec: AttentionSpec, *, alibi: bool = False, sinks: bool = False, documents: bool = False, device: str
    ) -> str | None:
        if device not in ("cpu", "cuda"):
            return f"device = {device}: it is compiled for cpu and cuda only; use blockwise or reference"
        if spec.dropout:
            return f"dropout = {spec.dropout:g}: torch's FlexAttention drops no weights; use sdpa or reference"
        if sinks and device == "cpu":
            return "sinks: they need each row's log-sum-exp, which it does not give on cpu; use blockwise or reference"
        return None

    def case_refusal(self, spec: AttentionSpec, case: Case) -> str | None:
        if case.device == "cpu" and case.training:
            return "training on cpu: it has no backward pass there; use blockwise or sdpa"
        if case.dtype not in DTYPES:
            return (
                f"dtype = {_short(case.dtype)}: it takes {', '.join(map(_short, DTYPES))}; use blockwise or reference"
            )
        if case.alibi_trained:
            return "alibi slopes that are trained: their gradient adds up in no fixed order; use blockwise or sdpa"
        sizes = (case.head_dim, case.value_dim)
        if case.device == "cuda" and min(sizes) < LEAST_HEAD_DIM:
            return f"head_dim = {min(sizes)}: on cuda it takes {LEAST_HEAD_DIM} or more; use sdpa or blockwise"
        if case.device == "cuda" and max(sizes) > MOST_HEAD_DIM:
            return f"head_dim = {max(sizes)}: on cuda its tiles fit {MOST_HEAD_DIM} or less; use sdpa or blockwise"
        return None if torch.compiler.is_compiling() else toolchain_missing(case.device)  # who compiles has one

    def compute(self, spec: AttentionSpec, inputs: AttentionInputs) -> Tensor:
        q = inputs.q
        seen = reach(spec, inputs)
        k, v = inputs.k[:, :, seen.start : seen.stop], inputs.v[:, :, seen.start : seen.stop]
        exact = accumulator(q.dtype)
        slopes = None if inputs.alibi_slopes is None else inputs.alibi_slopes.to(exact)
        score = scoring(spec.softcap, slopes, seen.offset)
        mask = _blocks(seen, inputs)
        # Traced, it becomes part of the graph that is being made.
        call = _call if torch.compiler.is_compiling() else _compiled(_kind(spec, seen, inputs))
        if inputs.sinks is None:
            out: Tensor = call(q, k, v, score, mask, spec.scale, lse=False)
            return out
        out, lse = call(q, k, v, score, mask, spec.scale, lse=True)
        # A sink joins the softmax and carries no value: weights shrink by exp(lse) / (exp(lse) + exp(sink)).
        share = torch.sigmoid(lse.to(exact) - inputs.sinks.to(exact)[:, None])
        return (out.to(exact) * share[..., None]).to(q.dtype)


def scoring(softcap: float | None, slopes: Tensor | None, offset: int) -> Callable[..., Tensor] | None:
    """What becomes of scaled scores before the mask: the cap, then ALiBi. None where nothing does."""
    if softcap is None and slopes is None:
        return None

    def score_mod(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        if softcap is not None:
            score = softcap * torch.tanh(score / softcap)
        if slopes is not None:
            score = score - slopes[head] * (query + offset - key)
        return score

    return score_mod


_MASKS: StepCache[Any] = StepCache(32)


def _blocks(seen: Reach, inputs: AttentionInputs) -> Any:
    """The block mask of a call, or None where nothing is hidden."""
    documents = inputs.documents
    if not seen.causal and seen.window is None and documents is None:
        return None
    key = (seen, inputs.q.shape[2], inputs.q.device)
    return _MASKS.get(key, documents, lambda: block_mask(seen, inputs.q.shape[2], inputs.q.device, documents))


def _kind(spec: AttentionSpec, seen: Reach, inputs: AttentionInputs) -> tuple[Any, ...]:
    """All that one compilation is for."""
    q, v = inputs.q, inputs.v
    return (
        (spec.scale, spec.softcap, seen),
        (inputs.alibi_slopes is None, inputs.sinks is None, inputs.documents is None),
        (q.shape, inputs.k.shape[1], v.shape[3], q.dtype, q.device, torch.is_grad_enabled()),
    )


@functools.lru_cache(maxsize=64)
def _compiled(kind: tuple[Any, ...]) -> Callable[..., Any]:
    """A compiled call for each kind. One for all would exceed torch's limit on recompiling a function."""
    own = FunctionType(_call.__code__.replace(), _call.__globals__)
    return torch.compile(own, dynamic=False, fullgraph=True)


def _call(q: Tensor, k: Tensor, v: Tensor, score: Any, mask: Any, scale: float, *, lse: bool) -> Any:
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    grouped = q.shape[1] != k.shape[1]
    if not lse:
        return flex_attention(q, k, v, score, mask, scale, grouped)
    out, aux = flex_attention(q, k, v, score, mask, scale, grouped, return_aux=AuxRequest(lse=True))
    return out, aux.lse


@functools.cache
def toolchain_missing(device: str) -> str | None:
    """Why nothing can be compiled here for a kind of device; None if it can. Where there is no such device: None."""
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        return "triton is not installed, by which torch compiles for cuda; use sdpa or blockwise"
    if device == "cpu":
        if sys.platform == "darwin" or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
            return "on cpu it is compiled for AVX2 and AVX-512 only; use blockwise or reference"
        if shutil.which(os.environ.get("CXX", "g++")) is None:
            return "there is no C++ compiler, by which torch compiles for cpu; use blockwise or reference"
    return None


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
