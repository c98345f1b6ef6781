"""Slurm's notations for times, memory and generic resources, read as numbers."""

from __future__ import annotations

import re

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})")
_MEMORY = re.compile(r"(\d+)\s*([KMGT]?)B?", re.IGNORECASE)
_EMPTY = ("", "(null)", "N/A")


def minutes(text: str) -> int | None:
    """A time such as `10`, `10:30`, `2:00:00`, `1-12` or `1-02:00:00` in minutes, rounded up; None for other text."""
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
    """`8 GB`, `8g` or `8192` in the form that sbatch takes, such as `8G`; None if it isn't an amount of memory."""
    match = _MEMORY.fullmatch(text.strip())
    return f"{int(match[1])}{match[2].upper() or 'M'}" if match is not None else None


def megabytes(memory: str) -> int:
    """A result of `memory` in MB, rounded up."""
    number, unit = int(memory[:-1]), memory[-1]
    return -(-number // 1024) if unit == "K" else number * {"M": 1, "G": 1024, "T": 1024**2}[unit]


def gres(text: str, *, requested: bool = False) -> dict[str, int]:
    """The count of each resource: `gpu:a100:4(S:0-1),nvme:1` → {"gpu": 4, "gpu:a100": 4, "nvme": 1}.

    Args:
        requested: whether a job requests them. Then `gpu:a100:4` counts as `gpu:a100` only, not as `gpu` too.
    """
    counts: dict[str, int] = {}
    for resource in re.sub(r"\([^)]*\)", "", text).split(","):
        *names, last = resource.removeprefix("gres/").split(":")
        count = int(last) if last.isdecimal() else 1
        names = names if last.isdecimal() else [*names, last]
        if not names or names[0] in _EMPTY:
            continue
        for name in {":".join(names)} if requested else {":".join(names), names[0]}:
            counts[name] = counts.get(name, 0) + count
    return counts
