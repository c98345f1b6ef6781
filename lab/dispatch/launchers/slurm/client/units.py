"""Slurm's ways to write times, memory and generic resources, in numbers."""

from __future__ import annotations

import re

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})")
_MEMORY = re.compile(r"(\d+)\s*([KMGT]?)B?", re.IGNORECASE)
_NOTHING = ("", "(null)", "N/A")


def minutes(text: str) -> int | None:
    """`10`, `10:30`, `2:00:00`, `1-12` or `1-02:00:00` in minutes, rounded up as Slurm does; None for anything else."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    parts = [int(part) for part in match["parts"].split(":")]
    if match["days"] is not None:  # days-hours, -hours:minutes or -hours:minutes:seconds
        hours, minute, second = [*parts, 0, 0][:3]
    elif len(parts) == 3:
        hours, minute, second = parts
    else:  # minutes or minutes:seconds
        hours, minute, second = 0, *[*parts, 0][:2]
    seconds = int(match["days"] or 0) * 86400 + hours * 3600 + minute * 60 + second
    return -(-seconds // 60)


def memory(text: str) -> str | None:
    """`8 GB`, `8g` or `8192` as sbatch takes it: a whole number and K, M, G or T; None for anything else."""
    match = _MEMORY.fullmatch(text.strip())
    return f"{int(match[1])}{match[2].upper() or 'M'}" if match is not None else None


def megabytes(memory: str) -> int:
    """What `memory` gave, in MB."""
    number, unit = int(memory[:-1]), memory[-1]
    return -(-number // 1024) if unit == "K" else number * {"M": 1, "G": 1024, "T": 1024**2}[unit]


def gres(text: str, *, requested: bool = False) -> dict[str, int]:
    """`gpu:a100:4(S:0-1),nvme:1` → {"gpu": 4, "gpu:a100": 4, "nvme": 1}.

    Args:
        requested: whether it is what a job asks for. A request for a type is then not one for any type too.
    """
    counts: dict[str, int] = {}
    for resource in re.sub(r"\([^)]*\)", "", text).split(","):
        *names, last = resource.removeprefix("gres/").split(":")
        count = int(last) if last.isdecimal() else 1
        names = names if last.isdecimal() else [*names, last]
        if not names or names[0] in _NOTHING:
            continue
        for name in {":".join(names)} if requested else {":".join(names), names[0]}:
            counts[name] = counts.get(name, 0) + count
    return counts
