"""Backward passes that give the same bits each time, where torch's fused CUDA kernels would not.

Models are trained under `torch.use_deterministic_algorithms(True, warn_only=True)`. In that mode torch's flash and
memory-efficient backward passes add in the order in which threads arrive, and only warn. Where the mode is strict they
add in a fixed order, so `repeatable` makes it strict for as long as they run.
"""

from __future__ import annotations

import torch
from torch import Tensor

_DEEPEST = 4  # padding of head_dim and reshapes come between an output and the pass that computed it


def repeatable(out: Tensor, *names: str) -> Tensor:
    """`out` itself, its backward pass strict about order where the process asks for deterministic algorithms.

    Args:
        out: what a fused kernel returned.
        names: of autograd nodes, or beginnings of them: the passes that have an ordered way.
    """
    if torch.compiler.is_compiling() or not torch.are_deterministic_algorithms_enabled() or out.grad_fn is None:
        return out
    level: list[torch.autograd.graph.Node] = [out.grad_fn]
    for _ in range(_DEEPEST):
        for node in level:
            if node.name().startswith(names):
                modes: list[int] = []
                node.register_prehook(lambda grads, modes=modes: _strict(modes))
                node.register_hook(lambda ins, outs, modes=modes: _as_before(modes))
                return out
        level = [parent for node in level for parent, _ in node.next_functions if parent is not None]
    return out


def _strict(modes: list[int]) -> None:
    modes.append(torch.get_deterministic_debug_mode())
    torch.set_deterministic_debug_mode("error")


def _as_before(modes: list[int]) -> None:
    torch.set_deterministic_debug_mode(modes.pop())
