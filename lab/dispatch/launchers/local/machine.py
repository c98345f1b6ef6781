"""The cores and GPUs of this machine that this process may use, and how workers share them."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# Each numerical library has its own variable for the size of its thread pool, which it reads once, when it is loaded.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
SPIN_COUNT = os.environ.get("GOMP_SPINCOUNT", "10000")


@dataclass(frozen=True)
class MachineShare:
    """How runs share the machine.

    Attributes:
        workers: most workers at once.
        threads: of each worker.
        gpus: that the workers use, as CUDA_VISIBLE_DEVICES names them; worker n gets GPU n modulo their number.
    """

    workers: int
    threads: int
    gpus: tuple[str, ...] = ()

    def environment(self, slot: int) -> dict[str, str]:
        """Environment variables for the worker in a slot, 0 … workers - 1."""
        variables = thread_variables(self.threads)
        if self.gpus:
            variables["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        return variables


def divide_machine(
    runs: int, *, max_parallel: int | None = None, threads: int | None = None, gpus: tuple[str, ...] = ()
) -> MachineShare:
    """Divide the machine among `runs` runs.

    Args:
        runs: number of runs.
        max_parallel: most workers at once; by default one for each GPU, or without GPUs one for every `threads` cores.
        threads: of each worker; by default an equal share of the cores, at least one.
        gpus: that the workers may use.
    Raises:
        ValueError: max_parallel or threads is not positive.
    """
    for option, value in (("max_parallel", max_parallel), ("threads", threads)):
        if value is not None and value < 1:
            raise ValueError(f"{option}: expected at least 1, got {value}")
    cores = available_cores()
    workers = max(1, min(runs, max_parallel or len(gpus) or cores // (threads or 1)))
    return MachineShare(workers, threads or max(1, cores // workers), gpus)


def thread_variables(threads: int) -> dict[str, str]:
    """Environment variables that give numerical libraries this many threads, which sleep while they wait.

    Threads that wait in a busy loop slow down other processes on the same core: next to one busy process, two such
    threads ran at a fifth of the speed of one. A short busy loop before sleeping is as fast on an idle machine. A
    user's own OMP_WAIT_POLICY is kept.
    """
    variables = dict.fromkeys(THREAD_VARIABLES, str(threads))
    return variables if "OMP_WAIT_POLICY" in os.environ else {"GOMP_SPINCOUNT": SPIN_COUNT} | variables


def available_cores() -> int:
    """Number of cores that this process may use, by its CPU affinity and its container's quota; at least 1."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quota = _cgroup_quota(Path("/sys/fs/cgroup"))
    return max(1, min(cores, int(quota)) if quota is not None else cores)


def available_gpus() -> tuple[str, ...]:
    """NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them. Doesn't import torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name.strip() for name in visible.split(",") if name.strip() not in ("", "-1", "NoDevFiles"))
    if shutil.which("nvidia-smi") is None:
        return ()
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    count = sum(line.startswith("GPU ") for line in listing.stdout.splitlines()) if listing.returncode == 0 else 0
    return tuple(str(index) for index in range(count))


def cpu() -> str:
    """The CPU's model name."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cgroup_quota(root: Path) -> float | None:
    """The container's CPU quota, in cores; None without a limit."""
    try:
        if (root / "cpu.max").exists():
            quota, period = (root / "cpu.max").read_text().split()
        else:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text()
            period = (root / "cpu/cpu.cfs_period_us").read_text()
        return None if quota.strip() in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError):
        return None
