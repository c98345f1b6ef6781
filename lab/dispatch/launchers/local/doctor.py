"""What this machine offers and what stands in the way, each problem with its fix. Slurm has a doctor of its own.

Every part is looked at on its own, so that one that fails hides none of the others.
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

_ROOM = 2**30  # bytes below which a disk is soon full of checkpoints
_FEW_FILES = 10_000  # files that a sweep of a thousand runs makes


def machine(root: Path) -> list[Finding]:
    """What this machine offers to runs below `root`."""
    parts: list[tuple[str, Callable[[], list[Finding]]]] = [
        ("python", _python),
        ("torch", _torch),
        ("threads", _threads),
        ("bf16", _bf16),
        ("kernels", _kernels),
        ("root", lambda: _root(root)),
    ]
    return looked(parts)


def looked(parts: Sequence[tuple[str, Callable[[], list[Finding]]]]) -> list[Finding]:
    """What each part finds; one that can't even be looked at is a problem."""
    found: list[Finding] = []
    for area, look in parts:
        try:
            found += look()
        except Exception as error:
            said = f"can't be looked at: {type(error).__name__}: {error}"
            fix = "install the lab's exact versions anew: see requirements.lock"
            found.append(Finding(area, said, "problem", fix=fix))
    return found


def _python() -> list[Finding]:
    version = platform.python_version()
    return [Finding("python", f"{version} at {sys.executable}", facts={"version": version, "path": sys.executable})]


def _torch() -> list[Finding]:
    import torch

    visible = available_gpus()
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    facts = {"version": torch.__version__, "cuda": torch.version.cuda, "devices": names, "visible_gpus": list(visible)}
    found = [Finding("torch", str(torch.__version__), facts=facts)]
    if names:
        found.append(Finding("devices", f"{len(names)} CUDA: {', '.join(dict.fromkeys(names))}", facts=facts))
    elif visible:
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for CPUs only"
        said = f"{len(visible)} NVIDIA GPUs are here, and torch, which is built {built}, can use none of them"
        fix = "install the torch that fits the driver: https://pytorch.org"
        found.append(Finding("devices", said, "problem", fix=fix, facts=facts))
    else:
        found.append(Finding("devices", f"CPU ({cpu()}); no CUDA device", facts=facts))
    return found


def _threads() -> list[Finding]:
    cores = available_cores()
    given = {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
    said = f"{cores} core{'s' if cores > 1 else ''} for this process, shared among the runs at once"
    if given:
        said += f"; the environment says {', '.join(f'{name}={value}' for name, value in given.items())}"
    return [Finding("threads", said, facts={"cores": cores, "environment": given})]


def _bf16() -> list[Finding]:
    import torch

    if torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        said = "in hardware on the CUDA device" if fast else "emulated on this CUDA device, and slow"
    else:
        flags = _cpu_flags()
        fast = bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
        said = "in the CPU's instructions" if fast else "emulated on this CPU: it computes, slower than fp32"
    return [Finding("bf16", f"{said} (train.precision=bf16-mixed)", facts={"hardware": fast})]


def _kernels() -> list[Finding]:
    """Kernels that answer nothing here, each with its reason; then which answers each spec, and who else refuses it."""
    import torch

    from lab.bench.typical import answers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    chosen = answers(device, dtype)
    found = []
    nowhere = set.intersection(*(set(entry.choice.refusals) for entry in chosen))
    for kernel in sorted(nowhere):
        reason = chosen[0].choice.refusals[kernel]
        found.append(Finding("kernels", f"{kernel}: none here ({reason})", facts={"kernel": kernel, "refusal": reason}))
    above: set[str] = set()
    for entry in chosen:
        choice = entry.choice
        refusing = {kernel: reason for kernel, reason in choice.refusals.items() if kernel not in nowhere}
        message = f"{entry.spec}: auto takes {choice.kernel}"
        for kernel, reason in refusing.items():
            message += f"; {kernel} refuses ({'as above' if reason in above else reason})"
        above |= set(refusing.values())
        facts: dict[str, JSON] = {
            "spec": entry.spec,
            "device": device,
            "auto": choice.kernel,
            "refusals": choice.refusals,
        }
        found.append(Finding("kernels", message, facts=facts | {"others": choice.others}))
    return found


def _root(root: Path) -> list[Finding]:
    """Whether runs can be written below the root, or where it would be made, and how much fits there."""
    here = next(path for path in (root.absolute(), *root.absolute().parents) if path.exists())
    facts: dict[str, JSON] = {"root": str(root.absolute()), "exists": root.exists()}
    if not here.is_dir():
        fix = "choose another folder: --root, or LAB_ROOT"
        return [Finding("root", f"{here} is a file", "problem", fix=fix, facts=facts)]
    try:
        trial = here / f".doctor.{secrets.token_hex(6)}"
        with open(trial, "x") as file:
            file.write("x" * 4096)
        trial.unlink()
    except OSError as error:
        said = f"{here} can't be written: {error.strerror}"
        fix = "free some room, or choose another folder: --root, or LAB_ROOT"
        return [Finding("root", said, "problem", fix=fix, facts=facts)]
    free, total = (getattr(shutil.disk_usage(here), name) for name in ("free", "total"))
    files = os.statvfs(here).f_favail
    facts |= {"free_bytes": free, "total_bytes": total, "free_files": files}
    said = f"{root.absolute()}: {free / 2**30:,.1f} of {total / 2**30:,.1f} GiB free"
    if free < _ROOM:
        fix = "a run keeps two checkpoints: free some room, or choose another --root"
        return [Finding("root", said, "problem", fix=fix, facts=facts)]
    if 0 < files < _FEW_FILES:
        said += f", and {files:,} files more may be made"
        fix = "a run makes about ten files: choose another --root"
        return [Finding("root", said, "problem", fix=fix, facts=facts)]
    return [Finding("root", said, facts=facts)]


def _cpu_flags() -> set[str]:
    """The instructions that the CPU has, where the system says; `flags` on x86, `Features` on ARM."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return set(line.partition(":")[2].split())
    return set()
