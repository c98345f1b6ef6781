"""What a compiler's `-march=native` depends on: this processor's instructions and model."""

from __future__ import annotations

import platform
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")

_FIELDS = (
    *("flags", "vendor_id", "cpu family", "model"),  # x86
    *("Features", "CPU implementer", "CPU variant", "CPU part"),  # ARM
    *("isa", "uarch", "cpu", "machine"),  # RISC-V, POWER
)


def features() -> dict[str, str]:
    """The fields of this processor that decide which instructions a compiler may use. Empty where Linux tells none."""
    try:
        with open(CPU_INFO, encoding="utf-8", errors="replace") as file:
            # All processors of an x86 machine have the same instructions. ARM machines mix processors.
            blocks = file.read() if platform.machine() not in ("x86_64", "i686") else _first_block(file.readlines(8192))
    except OSError:
        return {}
    values: dict[str, set[str]] = {}
    for line in blocks.splitlines():
        name, colon, value = line.partition(":")
        if colon and name.strip() in _FIELDS:
            values.setdefault(name.strip(), set()).add(" ".join(sorted(value.split())))
    return {name: " | ".join(sorted(kinds)) for name, kinds in sorted(values.items())}


def instruction_sets() -> list[str]:
    """The vector instructions of this processor, such as avx2 and avx512_bf16, as Linux names them."""
    fields = features()
    names = f"{fields.get('flags', '')} {fields.get('Features', '')}".split()
    vector = ("avx", "fma", "f16c", "amx", "asimd", "sve", "neon", "bf16")
    return [name for name in dict.fromkeys(names) if name.startswith(vector)]


def _first_block(lines: list[str]) -> str:
    end = next((number for number, line in enumerate(lines) if not line.strip()), len(lines))
    return "".join(lines[:end])
