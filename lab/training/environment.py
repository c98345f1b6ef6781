"""The environment of a run in its process: device, determinism, and Lightning's messages."""

from __future__ import annotations

import logging
import os
import re
import resource
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from components.native.library import outcomes
from components.native.unavailable import NativeUnavailable
from components.registry import OptionError
from lab.records import NativeFacts, ProvenanceFacts
from lab.training.options import Accelerator
from lab.training.parallel.world import World


def device_of(accelerator: Accelerator, world: World | None = None) -> torch.device:
    """The device to train on. Each of several processes has its own.

    Raises:
        OptionError: there is no CUDA device, or there are fewer devices than processes on this node.
    """
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise OptionError("train.accelerator", "no CUDA device is available here; `auto` or `cpu` would train")
    if accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if world is None or not world.several:
        return torch.device("cuda")
    n_devices = torch.cuda.device_count()
    if n_devices == 1:  # a launcher may show each process only its own device
        return torch.device("cuda", 0)
    if world.local_rank >= n_devices:
        raise OptionError(
            "train.accelerator",
            f"{n_devices} CUDA devices are here, and process {world.local_rank + 1} of this node needs one of its own: "
            "start fewer processes a node, or ask for more devices",
        )
    return torch.device("cuda", world.local_rank)


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes so far: allocated on a CUDA device, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        # Not ru_maxrss, which starts at the size of the parent process.
        return int(re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024
    except (OSError, IndexError):
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return resident if sys.platform == "darwin" else resident * 1024


def facts(device: torch.device) -> ProvenanceFacts:
    """The facts about this machine in a run's provenance."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }


def native_libraries() -> dict[str, NativeFacts]:
    """The native libraries that this process has asked for: their builds, or why they aren't available."""
    libraries: dict[str, NativeFacts] = {}
    for name, outcome in outcomes().items():
        if isinstance(outcome, NativeUnavailable):
            libraries[name] = {"cause": outcome.cause.value, "detail": outcome.detail}
        else:
            record = outcome.built.record
            libraries[name] = {"key": record.key, "compiler": record.compiler_version}
    return libraries


@contextmanager
def deterministic() -> Iterator[None]:
    """Use deterministic algorithms within the context. An operation without one warns once."""
    mode = torch.get_deterministic_debug_mode()
    options: Any = torch.utils.deterministic
    fills_memory = options.fill_uninitialized_memory
    # cuBLAS reads this when it starts, and is deterministic only with it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling new memory, which finds reads of uninitialized values, takes a pass over every tensor.
    options.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        options.fill_uninitialized_memory = fills_memory


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Hide Lightning's banners, tips and warnings within the context, but not its errors."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
