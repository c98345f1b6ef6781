"""Measures the time and peak memory of a function on a CPU or a CUDA device."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

_MEMORY = "[memory]"  # name of the profiler's events for allocations, and for releases with negative sizes


def milliseconds(work: Callable[[], object], device: str, repeats: int) -> float:
    """Milliseconds of the fastest repeat. Call `work` once before, so that compilation isn't measured."""
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
    """Peak bytes of the tensors that the work allocates, results included.

    On a CPU this counts torch's allocator, also inside of operators, but not memory that other libraries allocate.
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
    allocated = peak = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == _MEMORY:
            allocated += event.nbytes()
            peak = max(peak, allocated)
    return peak
