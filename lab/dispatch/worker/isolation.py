"""Isolates runs in one process: no run depends on the runs before it."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import random
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Restore the process after a run: environment variables, working folder, paths, logging and memory."""
    environment, folder, paths, arguments = dict(os.environ), os.getcwd(), list(sys.path), list(sys.argv)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        with warnings.catch_warnings():
            yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        os.chdir(folder)
        sys.path[:], sys.argv[:] = paths, arguments
        root.handlers[:] = handlers
        root.setLevel(level)
        gc.collect()
        if not gc.get_freeze_count():
            gc.freeze()  # what the libraries made at import: to look through it again takes as long as a tiny run


def reset(seed: int, threads: int | None) -> None:
    """Put the numerical libraries' global state where a fresh process has it, and seed their generators. Loads torch.

    Args:
        seed: of the global generators; what training draws it draws from its own.
        threads: of CPU operations; None for torch's default. Sums are split among them, so it is part of the result's
            last bits.
    """
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if threads is not None:
        torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)
    torch.set_float32_matmul_precision("highest")
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()  # its limit on recompilations counts over a process's life
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    _forget_peak_memory()


def _forget_peak_memory() -> None:
    """Let the peak of resident memory that this process reports begin anew; only Linux can."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")
