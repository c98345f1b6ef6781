"""The peak rate of matrix products of a device: published for GPUs, measured for CPUs.

A rate that isn't known is None, with the reason. It is never taken from a device with a similar name.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path

import torch
import yaml

from components.onednn import onednn_is_faster, product
from lab.data.cache import default_cache, locked, write_atomically

TABLE = Path(__file__).with_suffix(".yaml")
SECONDS = 0.6
"""Approximate duration of a measurement."""
_BYTES = 24 * 2**20
"""Largest size of its three matrices together: enough for the full rate, and less than a run's peak memory."""


@dataclass(frozen=True)
class Peak:
    """A device's rate of matrix products.

    Attributes:
        flops_per_second: of dense products on one device; None if it isn't known.
        basis: the source of the figure, or the reason why there is none.
    """

    flops_per_second: float | None
    basis: str


@dataclass(frozen=True)
class _Published:
    """A device's rates in TFLOP/s by dtype, as published by its vendor, and the source."""

    source: str
    teraflops: Mapping[str, float]


def peak(device: torch.device, dtype: torch.dtype) -> Peak:
    """The peak of a device for matrix products of a dtype."""
    if device.type != "cuda":
        return measured(dtype)
    name = torch.cuda.get_device_name(device)
    on_tensor_cores = dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    return published(name, "tf32" if on_tensor_cores else str(dtype).removeprefix("torch."))


def published(device: str, dtype: str) -> Peak:
    """The published peak of a device, by torch's name for it, in a dtype such as `bfloat16` or `tf32`."""
    entry = _table().get(device)
    if entry is None:
        return Peak(None, f"no peak is known for the device '{device}' (lab/accounting/peaks.yaml)")
    if dtype not in entry.teraflops:
        return Peak(None, f"the device '{device}' has no known peak in {dtype} (lab/accounting/peaks.yaml)")
    rate = entry.teraflops[dtype]
    return Peak(rate * 1e12, f"{entry.source}: {rate:g} TFLOP/s dense in {dtype}")


def measured(dtype: torch.dtype, cache: Path | None = None) -> Peak:
    """The rate of matrix products on this machine's CPU with the current number of threads.

    It is measured once for each machine, version of torch, number of threads and dtype, in less than a second, and kept
    in the cache. Two processes take turns, so that they don't slow each other down.
    """
    name = str(dtype).removeprefix("torch.")
    conditions = (
        platform.node(),
        torch.__version__,
        str(torch.get_num_threads()),
        torch.get_float32_matmul_precision(),
    )
    return _measured(name, conditions, cache or default_cache())


@lru_cache(maxsize=64)
def _measured(dtype: str, conditions: tuple[str, ...], cache: Path) -> Peak:
    machine, version, threads, precision = conditions
    by = ",onednn" if _multiplies_by_onednn(dtype) else ""
    file = cache / "matrix-products" / f"{machine},torch-{version},{threads}-threads,{precision},{dtype}{by}.json"
    if (cached := _read_cached(file)) is not None:
        return cached
    try:
        with locked(file.with_suffix(".lock"), lambda: None):
            if (result := _read_cached(file)) is None:
                result = _measure(dtype)
                write_atomically(file, json.dumps(asdict(result), indent=1) + "\n")
            return result
    except OSError:  # without a writable cache, measure each time
        return _measure(dtype)


def _read_cached(file: Path) -> Peak | None:
    with suppress(OSError, ValueError, TypeError):
        cached = Peak(**json.loads(file.read_text(encoding="utf-8")))
        if isinstance(cached.flops_per_second, float) and cached.flops_per_second > 0:
            return cached
    return None


def _measure(dtype: str) -> Peak:
    """The best rate over matrices of doubling sizes, as large as the time allows.

    The best rate rather than the mean, with many products of the largest size: other processes slow most products down.
    """
    # A generator of its own, so that a run's random numbers don't depend on the measurement.
    generator = torch.Generator().manual_seed(0)
    kind: torch.dtype = getattr(torch, dtype)
    largest = 2 ** int(math.log2(math.sqrt(_BYTES / 3 / kind.itemsize)))
    end = time.perf_counter() + SECONDS
    best, reached, size = 0.0, 0, 128
    with torch.inference_mode():
        while True:
            a, b = (torch.randn(size, size, generator=generator).to(kind) for _ in range(2))
            by_onednn = _multiplies_by_onednn(dtype)
            multiply = partial(product, a, b) if by_onednn else partial(torch.mm, a, b, out=torch.empty_like(a))
            rate = _best_rate(multiply, size, until=0.0)
            # The same number of products at twice the size takes eight times as long.
            last = size == largest or time.perf_counter() + 5 * 2 * (2 * size) ** 3 / rate > end
            if last:
                rate = max(rate, _best_rate(multiply, size, until=end))
            if rate > best:
                best, reached = rate, size
            if last:
                break
            size *= 2
    threads = torch.get_num_threads()
    basis = f"matrix products of {reached} × {reached} in {dtype}, measured on {platform.node()} with {threads} threads"
    return Peak(best, basis if threads > 1 else basis.removesuffix("s"))


def _multiplies_by_onednn(dtype: str) -> bool:
    """Whether projections multiply by oneDNN here: then the peak is its rate, not that of torch's slower product."""
    return dtype == "float32" and onednn_is_faster()


def _best_rate(multiply: Callable[[], object], size: int, *, until: float) -> float:
    """FLOPs per second of the fastest product, of at least four, repeated until a time of `perf_counter`."""
    fastest, tries = math.inf, 0
    while tries < 4 or time.perf_counter() < until:
        start = time.perf_counter()
        multiply()
        fastest = min(fastest, time.perf_counter() - start)
        tries += 1
    return 2 * size**3 / fastest


@lru_cache(maxsize=1)
def _table() -> dict[str, _Published]:
    """The published rates by device name."""
    entries = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return {
        name: _Published(entry["source"], {key: rate for key, rate in entry.items() if key not in ("names", "source")})
        for entry in entries
        for name in entry["names"]
    }
