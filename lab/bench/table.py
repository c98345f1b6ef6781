"""The conformance atlas as a table, with refusals as notes below it, and as JSON."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict

import torch
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from lab.bench.atlas import EXACT_CONTEXT, AtlasPlan, Measurement

VERSION = 1


def as_dict(plan: AtlasPlan, cells: Sequence[Measurement]) -> dict[str, object]:
    """The atlas for `--json`: sizes, the machine, and the cells, `error` in units of the dtype's bound."""
    return {
        "version": VERSION,
        "machine": machine(plan.device),
        "shape": asdict(plan.whole),
        "exact_context": min(EXACT_CONTEXT, plan.whole.queries),
        "cells": [asdict(cell) | {"wrong": cell.wrong} for cell in cells],
    }


def machine(device: str) -> dict[str, str | int]:
    """Device, host, threads and torch's version."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "host": platform.node(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def table(plan: AtlasPlan, cells: Sequence[Measurement]) -> Group:
    """A table with a row for each spec, dtype and direction and a column for each kernel, and its legend."""
    shape, here = plan.whole, machine(plan.device)
    grid = Table(
        box=box.SIMPLE_HEAD,
        title=f"B={shape.batch} H={shape.heads} K={shape.kv_heads} T={shape.queries:,} D={shape.head_dim}, "
        f"{here['device']}, {here['threads']} threads, torch {here['torch']}",
    )
    for column in ("spec", "dtype", ""):
        grid.add_column(column, no_wrap=True)
    for kernel in plan.kernels:
        grid.add_column(kernel, justify="right", no_wrap=True)
    notes: dict[str, int] = {}
    rows: dict[tuple[str, str, str], list[Text]] = {}
    for cell in cells:
        rows.setdefault((cell.spec, cell.dtype, cell.direction), []).append(_text(cell, notes))
    previous = None
    for (spec, dtype, direction), texts in rows.items():
        grid.add_row(spec if spec != previous else "", dtype, direction, *texts)
        previous = spec
    legend = [
        "error divided by its dtype's bound (at most 1) · milliseconds · MiB without the inputs; * the choice of auto",
        f"training is forward and backward; errors are measured on {min(EXACT_CONTEXT, shape.queries):,} tokens",
        *(f"[{number}] {reason}" for reason, number in notes.items()),
    ]
    return Group(grid, Text("\n".join(legend)))


def _text(cell: Measurement, notes: dict[str, int]) -> Text:
    reason = cell.refusal or cell.failure
    if reason is not None:
        number = notes.setdefault(reason, len(notes) + 1)
        return Text(f"[{number}]", "red" if cell.failure else "dim")
    assert cell.milliseconds is not None
    assert cell.peak_bytes is not None
    error = "random" if cell.error is None else f"{cell.error:.2f}"
    text = f"{error} · {cell.milliseconds:.1f} · {cell.peak_bytes / 2**20:.1f}{'*' if cell.chosen else ' '}"
    return Text(text, "red" if cell.wrong else "bold" if cell.chosen else "")
