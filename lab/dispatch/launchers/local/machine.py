"""What this machine offers: cores and GPUs that this process may use, and how workers share them."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# Each numerical library sizes its pool of threads by its own variable, read once when it is loaded.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
SPIN_COUNT = os.environ.get("GOMP_SPINCOUNT", "10000")


@dataclass(frozen=True)
class Share:
    """How runs share the machine: workers at once, threads for each, and the GPUs that they take in turn."""

    workers: int
    threads: int
    gpus: tuple[str, ...] = ()

    def environment(self, slot: int) -> dict[str, str]:
        """Variables for the worker in this slot, 0 … workers - 1."""
        variables = thread_variables(self.threads)
        if self.gpus:
            variables["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        return variables


def share(
    runs: int, *, max_parallel: int | None = None, threads: int | None = None, gpus: tuple[str, ...] = ()
) -> Share:
    """Divide the machine among `runs` runs.

    Without `max_parallel` each of the `gpus` has one run, or where there are none each core (or `threads` cores);
    without `threads` each worker has an equal share of the cores, and one at least.

    Raises:
        ValueError: max_parallel or threads is not positive.
    """
    for option, value in (("max_parallel", max_parallel), ("threads", threads)):
        if value is not None and value < 1:
            raise ValueError(f"{option}: expected at least 1, got {value}")
    cores = available_cores()
    workers = max(1, min(runs, max_parallel or len(gpus) or cores // (threads or 1)))
    return Share(workers, threads or max(1, cores // workers), gpus)


def thread_variables(threads: int) -> dict[str, str]:
    """Environment that gives numerical libraries this many threads, which wait for each other politely.

    Threads that spin while another process has their core cost both of them: beside one busy process, two threads ran
    at a fifth of one's speed. A short spin and then sleep is as fast on an idle machine. A user's own setting stands.
    """
    variables = dict.fromkeys(THREAD_VARIABLES, str(threads))
    return variables if "OMP_WAIT_POLICY" in os.environ else {"GOMP_SPINCOUNT": SPIN_COUNT} | variables


def available_cores() -> int:
    """Cores that this process may use: its affinity, less what a container's quota takes; at least 1."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quota = _cgroup_quota(Path("/sys/fs/cgroup"))
    return max(1, min(cores, int(quota)) if quota is not None else cores)


def available_gpus() -> tuple[str, ...]:
    """NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them. Doesn't load torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name.strip() for name in visible.split(",") if name.strip() not in ("", "-1", "NoDevFiles"))
    if shutil.which("nvidia-smi") is None:
        return ()
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    count = sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0
    return tuple(str(index) for index in range(count))


def cpu() -> str:
    """The CPU's name."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cgroup_quota(root: Path) -> float | None:
    """Cores' worth of time that the container may use; None without a limit."""
    try:
        if (root / "cpu.max").exists():
            quota, period = (root / "cpu.max").read_text().split()
        else:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text()
            period = (root / "cpu/cpu.cfs_period_us").read_text()
        return None if quota.strip() in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError):
        return None
