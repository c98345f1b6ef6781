"""The kernel as operators of torch, through which torch.compile keeps a graph whole.

Outside of a compiled graph they are not used: an operator's autograd costs three times what a Function costs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from components.attention.kernels.native import call
from components.attention.kernels.native.call import Numbers
from components.attention.kernels.native.library import LIBRARY
from components.compile_opaque import constant_in_graphs

_LIBRARY = "architecture_lab"
_INPUTS = "Tensor q, Tensor k, Tensor v, Tensor? slopes, Tensor? sinks, Tensor? documents"
_NUMBERS = "float scale, float? softcap, bool causal, int? window, int offset"


@constant_in_graphs
def foreseen() -> str | None:
    """Why the kernel's library can't be used here, as far as that is known without a build."""
    return LIBRARY.foreseen()


@constant_in_graphs
def unavailable() -> str | None:
    """Why the kernel's library can't be used here; None if it can. Builds it where the cache doesn't have it."""
    reason = LIBRARY.unavailable()
    if reason is None and torch.compiler.is_compiling():
        _define()
    return reason


@functools.cache
def _define() -> torch.library.Library:
    """Define the operators, once."""
    library: Any = torch.library.Library(_LIBRARY, "FRAGMENT")  # type: ignore[no-untyped-call]
    library.define(f"attention({_INPUTS}, {_NUMBERS}) -> (Tensor, Tensor)")
    library.define(
        f"attention_backward(Tensor d_out, {_INPUTS}, Tensor out, Tensor lse, {_NUMBERS}, bool[] wanted) -> Tensor[]"
    )
    library.impl("attention", _forward, "CPU")
    library.impl("attention_backward", _backward, "CPU")
    torch.library.register_fake(f"{_LIBRARY}::attention", _shapes, lib=library)
    torch.library.register_fake(f"{_LIBRARY}::attention_backward", _gradient_shapes, lib=library)
    torch.library.register_autograd(f"{_LIBRARY}::attention", _gradients, setup_context=_save, lib=library)
    defined: torch.library.Library = library  # which would end with its last reference
    return defined


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor | None,
    sinks: Tensor | None,
    documents: Tensor | None,
    numbers: Numbers,
) -> Tensor:
    """The output [B, H, T, Dv], for a graph that is being traced. Arguments as `call.forward`."""
    parts = (numbers.scale, numbers.softcap, numbers.causal, numbers.window, numbers.offset)
    out: Tensor
    out, _ = torch.ops.architecture_lab.attention(q, k, v, slopes, sinks, documents, *parts)
    return out


def _forward(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, sinks: Tensor | None, documents: Tensor | None, *parts: Any
) -> tuple[Tensor, Tensor]:
    lse = q.new_empty(call.lse_size(q), dtype=torch.float32)
    q, k, v = map(call.contiguous_rows, (q, k, v))  # a compiler may choose another layout for them
    return call.forward(q, k, v, slopes, sinks, documents, Numbers(*parts), lse), lse


def _shapes(q: Tensor, k: Tensor, v: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    B, H, T, _ = q.shape
    return q.new_empty(B, T, H, v.shape[3]).transpose(1, 2), q.new_empty(call.lse_size(q), dtype=torch.float32)


def _backward(d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, *others: Any) -> list[Tensor]:
    slopes, sinks, documents, out, lse, *parts, wanted = others
    q, k, v, out = map(call.contiguous_rows, (q, k, v, out))
    grads = call.backward(
        d_out, q, k, v, slopes, sinks, documents, out, lse.contiguous(), Numbers(*parts), tuple(wanted)
    )
    return [x for x in grads if x is not None]


def _gradient_shapes(d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, *others: Any) -> list[Tensor]:
    slopes, sinks, *_, wanted = others
    like = [x.new_empty(x.shape[0], x.shape[2], x.shape[1], x.shape[3]).transpose(1, 2) for x in (q, k, v)]
    like += [torch.empty_like(x) for x in (slopes, sinks) if x is not None]
    present = (True, True, True, slopes is not None, sinks is not None)
    asked = [want for want, there in zip(wanted, present, strict=True) if there]
    return [x for x, want in zip(like, asked, strict=True) if want]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale, ctx.softcap, ctx.causal, ctx.window, ctx.offset = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, d_out: Tensor | None, _: Tensor | None) -> Sequence[Tensor | None]:
    q, k, v, slopes, sinks, documents, out, lse = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:5])
    if d_out is None:
        return (None,) * 11
    parts = (ctx.scale, ctx.softcap, ctx.causal, ctx.window, ctx.offset)
    grads = iter(
        torch.ops.architecture_lab.attention_backward(
            d_out, q, k, v, slopes, sinks, documents, out, lse, *parts, wanted
        )
    )
    return (*(next(grads) if want else None for want in wanted), *(None,) * 6)
