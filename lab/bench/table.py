"""The conformance atlas as a table, refusals as notes below it, and for a program."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from lab.bench.atlas import EXACT_CONTEXT, Cell, Survey

VERSION = 1


def plain(survey: Survey, cells: Sequence[Cell]) -> dict[str, Any]:
    """The atlas for `--json`: sizes, the machine, and every cell with `error` in units of its dtype's bound."""
    return {
        "version": VERSION,
        "machine": machine(survey.device),
        "shape": asdict(survey.whole),
        "exact_context": min(EXACT_CONTEXT, survey.whole.queries),
        "cells": [asdict(cell) | {"wrong": cell.wrong} for cell in cells],
    }


def machine(device: str) -> dict[str, Any]:
    """Device, host, threads and torch's version."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "host": platform.node(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def table(survey: Survey, cells: Sequence[Cell]) -> Group:
    """A row for each spec, dtype and direction, a column for each kernel, and below it what the marks mean."""
    shape, here = survey.whole, machine(survey.device)
    grid = Table(
        box=box.SIMPLE_HEAD,
        title=f"B={shape.batch} H={shape.heads} K={shape.kv_heads} T={shape.queries:,} D={shape.head_dim}, "
        f"{here['device']}, {here['threads']} threads, torch {here['torch']}",
    )
    for column in ("spec", "dtype", ""):
        grid.add_column(column, no_wrap=True)
    for kernel in survey.kernels:
        grid.add_column(kernel, justify="right", no_wrap=True)
    notes: dict[str, int] = {}
    rows: dict[tuple[str, str, str], list[Text]] = {}
    for cell in cells:
        rows.setdefault((cell.spec, cell.dtype, cell.direction), []).append(_shown(cell, notes))
    last = None
    for (spec, dtype, direction), shown in rows.items():
        grid.add_row(spec if spec != last else "", dtype, direction, *shown)
        last = spec
    told = [
        "error over its dtype's bound (1 is the most) · milliseconds · MiB held beyond the inputs; * what auto takes",
        f"training is forward and backward; errors are of {min(EXACT_CONTEXT, shape.queries):,} tokens",
        *(f"[{number}] {reason}" for reason, number in notes.items()),
    ]
    return Group(grid, Text("\n".join(told)))


def _shown(cell: Cell, notes: dict[str, int]) -> Text:
    reason = cell.refusal or cell.failure
    if reason is not None:
        number = notes.setdefault(reason, len(notes) + 1)
        return Text(f"[{number}]", "red" if cell.failure else "dim")
    assert cell.milliseconds is not None
    assert cell.peak_bytes is not None
    off = "random" if cell.error is None else f"{cell.error:.2f}"
    text = f"{off} · {cell.milliseconds:.1f} · {cell.peak_bytes / 2**20:.1f}{'*' if cell.chosen else ' '}"
    return Text(text, "red" if cell.wrong else "bold" if cell.chosen else "")
