"""Checks of this machine: its resources, and every problem with its fix. Slurm has checks of its own.

The checks are independent: one that raises an error hides none of the others.
"""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lab.dispatch.launchers.local.machine import THREAD_VARIABLES, available_cores, available_gpus, cpu
from lab.refusals import JSON, Finding

_MIN_FREE_BYTES = 2**30  # with less, checkpoints soon fill the disk
_MIN_FREE_FILES = 10_000  # what a sweep of a thousand runs creates


def check_machine(root: Path) -> list[Finding]:
    """Findings about this machine, for runs below `root`."""
    checks: list[tuple[str, Callable[[], list[Finding]]]] = [
        ("python", _python),
        ("torch", _torch),
        ("threads", _threads),
        ("bf16", _bf16),
        ("native", _native),
        ("kernels", _kernels),
        ("root", lambda: _root(root)),
    ]
    return run_checks(checks)


def run_checks(checks: Sequence[tuple[str, Callable[[], list[Finding]]]]) -> list[Finding]:
    """The findings of all checks, each given with its area. A check that raises an error is itself a problem."""
    findings: list[Finding] = []
    for area, check in checks:
        try:
            findings += check()
        except Exception as error:
            message = f"can't be checked: {type(error).__name__}: {error}"
            fix = "reinstall the lab's exact versions: see requirements.lock"
            findings.append(Finding(area, message, "problem", fix=fix))
    return findings


def _python() -> list[Finding]:
    version = platform.python_version()
    return [Finding("python", f"{version} at {sys.executable}", facts={"version": version, "path": sys.executable})]


def _torch() -> list[Finding]:
    import torch

    gpus = available_gpus()
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    facts = {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "devices": names,
        "visible_gpus": list(gpus),
    }
    findings = [Finding("torch", str(torch.__version__), facts=facts)]
    if names:
        findings.append(Finding("devices", f"{len(names)} CUDA: {', '.join(dict.fromkeys(names))}", facts=facts))
    elif gpus:
        build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for CPUs only"
        message = f"{len(gpus)} NVIDIA GPUs are here, but torch, which is built {build}, can use none of them"
        fix = "install the torch that fits the driver: https://pytorch.org"
        findings.append(Finding("devices", message, "problem", fix=fix, facts=facts))
    else:
        findings.append(Finding("devices", f"CPU ({cpu()}); no CUDA device", facts=facts))
    return findings


def _threads() -> list[Finding]:
    cores = available_cores()
    variables = {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
    message = f"{cores} core{'s' if cores > 1 else ''} for this process, shared by the runs that train at the same time"
    if variables:
        message += f"; the environment sets {', '.join(f'{name}={value}' for name, value in variables.items())}"
    return [Finding("threads", message, facts={"cores": cores, "environment": variables})]


def _bf16() -> list[Finding]:
    import torch

    if torch.cuda.is_available():
        in_hardware = torch.cuda.is_bf16_supported(including_emulation=False)
        message = "in hardware on the CUDA device" if in_hardware else "emulated on this CUDA device, and slow"
    else:
        flags = _cpu_flags()
        in_hardware = bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
        message = "in hardware on this CPU" if in_hardware else "emulated on this CPU, and slower than fp32"
    return [Finding("bf16", f"{message} (train.precision=bf16-mixed)", facts={"hardware": in_hardware})]


def _kernels() -> list[Finding]:
    """The kernels that are not usable here, with the reasons; then what `auto` takes for each attention spec."""
    import torch

    from lab.bench.typical import answers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    entries = answers(device, dtype)
    findings = []
    unusable = set.intersection(*(set(entry.choice.refusals) for entry in entries))
    for kernel in sorted(unusable):
        reason = entries[0].choice.refusals[kernel]
        findings.append(
            Finding("kernels", f"{kernel}: not usable here ({reason})", facts={"kernel": kernel, "refusal": reason})
        )
    earlier_reasons: set[str] = set()
    for entry in entries:
        choice = entry.choice
        refusals = {kernel: reason for kernel, reason in choice.refusals.items() if kernel not in unusable}
        message = f"{entry.spec}: auto takes {choice.kernel}"
        for kernel, reason in refusals.items():
            message += f"; {kernel} refuses ({'as above' if reason in earlier_reasons else reason})"
        earlier_reasons |= set(refusals.values())
        facts: dict[str, JSON] = {
            "spec": entry.spec,
            "device": device,
            "auto": choice.kernel,
            "refusals": choice.refusals,
        }
        findings.append(Finding("kernels", message, facts=facts | {"others": choice.others}))
    return findings


def _native() -> list[Finding]:
    from lab.dispatch.launchers.local.native_kernels import native_kernels

    return native_kernels()


def _root(root: Path) -> list[Finding]:
    """Whether run folders can be written below the root, or where it would be created, and how much fits there."""
    folder = next(path for path in (root.absolute(), *root.absolute().parents) if path.exists())
    facts: dict[str, JSON] = {"root": str(root.absolute()), "exists": root.exists()}
    if not folder.is_dir():
        fix = "choose another folder: --root, or LAB_ROOT"
        return [Finding("root", f"{folder} is a file", "problem", fix=fix, facts=facts)]
    try:
        test_file = folder / f".doctor.{secrets.token_hex(6)}"
        with open(test_file, "x") as file:
            file.write("x" * 4096)
        test_file.unlink()
    except OSError as error:
        message = f"{folder} can't be written: {error.strerror}"
        fix = "free some space, or choose another folder: --root, or LAB_ROOT"
        return [Finding("root", message, "problem", fix=fix, facts=facts)]
    free, total = (getattr(shutil.disk_usage(folder), name) for name in ("free", "total"))
    free_files = os.statvfs(folder).f_favail
    facts |= {"free_bytes": free, "total_bytes": total, "free_files": free_files}
    message = f"{root.absolute()}: {free / 2**30:,.1f} of {total / 2**30:,.1f} GiB free"
    if free < _MIN_FREE_BYTES:
        fix = "a run keeps two checkpoints: free some space, or choose another --root"
        return [Finding("root", message, "problem", fix=fix, facts=facts)]
    if 0 < free_files < _MIN_FREE_FILES:
        message += f", with room for {free_files:,} more files"
        fix = "a run creates about ten files: choose another --root"
        return [Finding("root", message, "problem", fix=fix, facts=facts)]
    return [Finding("root", message, facts=facts)]


def _cpu_flags() -> set[str]:
    """The CPU's instruction sets, if the system lists them: as `flags` on x86, as `Features` on ARM."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return set(line.partition(":")[2].split())
    return set()
