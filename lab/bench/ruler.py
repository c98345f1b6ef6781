"""Milliseconds and most bytes of a piece of work, on a CPU or a CUDA device."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

_MEMORY = "[memory]"  # what torch's profiler calls an allocation or, below zero, a release


def milliseconds(work: Callable[[], object], device: str, repeats: int) -> float:
    """The fastest of some repeats. Whatever has to be compiled or loaded must have happened before."""
    finish: Callable[[], object] = torch.cuda.synchronize if device == "cuda" else lambda: None
    seconds = []
    for _ in range(repeats):
        finish()
        start = time.perf_counter()
        work()
        finish()
        seconds.append(time.perf_counter() - start)
    return min(seconds) * 1000


def peak_bytes(work: Callable[[], object], device: str) -> int:
    """Most bytes that the work held in tensors at once, results included, beyond what was there before it.

    On a CPU all that goes through torch's allocator, also inside its operators; not what a library allocates itself.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    assert profiled.profiler is not None
    held = most = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == _MEMORY:
            held += event.nbytes()
            most = max(most, held)
    return most
