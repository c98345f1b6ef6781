"""benchmarks/attention_kernels.md, from what attention_kernels.py measured: the bars of `native`, then all figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import page

PRODUCT, PRODUCT_SIZE = "product", 2048
"""The name under which the product of two square matrices is timed, and their rows."""
NATIVE = "native"
SHARE_BARS = {"float32": 0.85, "bfloat16": 0.70}
"""The least share of the product's rate that `native` reaches in every row without a window from BAR_CONTEXT on."""
BAR_CONTEXT = 1024
PRODUCTS_OF_TRAINING = 7
"""Products of a score's size in a forward pass (2) and in a backward pass that recomputes the scores (5)."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One spec on one shape.

    Attributes:
        flops: of the products over the visible pairs.
        seconds: kernel → seconds of its fastest pass; and PRODUCT.
        chosen: the kernel that `auto` takes.
        refusals: kernel → why it refuses.
    """

    dtype: str
    head_dim: int
    context: int
    window: int | None
    cap: int | None
    flops: float
    seconds: Mapping[str, float]
    chosen: str
    refusals: Mapping[str, str]

    @property
    def product_rate(self) -> float:
        """FLOPs a second of the product, timed in turn with the kernels."""
        return 2 * PRODUCT_SIZE**3 / self.seconds[PRODUCT]

    def share(self, kernel: str) -> float:
        """A kernel's share of the product's rate."""
        return self.flops / self.seconds[kernel] / self.product_rate

    @property
    def fastest(self) -> str:
        return min((name for name in self.seconds if name != PRODUCT), key=self.seconds.__getitem__)

    @property
    def summary(self) -> str:
        """All of it in a line, to follow the run by."""
        kernels = [name for name in self.seconds if name != PRODUCT]
        return ", ".join(f"{name} {self.seconds[name] * 1000:.1f} ms ({self.share(name):.0%})" for name in kernels)


@dataclass(frozen=True)
class Bar:
    """The bar of one dtype, and whether it is reached: None where it doesn't apply or nothing was measured."""

    what: str
    aim: str
    figure: str
    of: str
    reached: bool | None


def visible_pairs(context: int, window: int | None) -> int:
    """Pairs of a query and a key that it sees, causal: the sum of min(position + 1, window)."""
    full = min(context, window or context)
    return full * (full + 1) // 2 + (context - full) * full


def flops(batch: int, heads: int, context: int, window: int | None, head_dim: int) -> float:
    """Exact FLOPs of the matrix products of a forward and a backward pass, over the visible pairs alone."""
    return 2.0 * PRODUCTS_OF_TRAINING * batch * heads * head_dim * visible_pairs(context, window)


def bars(rows: Sequence[Row], *, counts: bool, bf16: bool) -> list[Bar]:
    """The bar of each dtype, held against the row in which `native` has its smallest share.

    Args:
        counts: whether the bars apply to the heads and the device of this run.
        bf16: whether the processor has bf16 arithmetic.
    """
    held = []
    for dtype, aim in SHARE_BARS.items():
        what = f"{NATIVE}, {dtype}, no window, T ≥ {BAR_CONTEXT:,}"
        of_dtype = [row for row in rows if row.dtype == dtype and row.window is None and row.context >= BAR_CONTEXT]
        measured = [row for row in of_dtype if NATIVE in row.seconds]
        if not measured:
            held.append(Bar(what, f"≥ {aim:.0%}", "–", "not measured", None))
            continue
        least = min(measured, key=lambda row: row.share(NATIVE))
        applies = counts and (dtype != "bfloat16" or bf16)
        where = f"T = {least.context:,}, head_dim {least.head_dim}, cap {least.cap or 'none'}"
        if not applies:
            where += "; the bar doesn't apply here"
        reached = all(row.share(NATIVE) >= aim for row in of_dtype if NATIVE in row.seconds) if applies else None
        held.append(Bar(what, f"≥ {aim:.0%}", f"{least.share(NATIVE):.1%}", where, reached))
    return held


def report(rows: Sequence[Row], *, setting: Sequence[str], counts: bool, bf16: bool) -> str:
    """The page in Markdown.

    Args:
        setting: the lines about how and where this was measured.
    """
    verdicts = [
        [bar.what, bar.aim, bar.figure, page.verdict(bar.reached), bar.of]
        for bar in bars(rows, counts=counts, bf16=bf16)
    ]
    parts = [
        "# Attention kernels, forward and backward",
        *setting,
        f"Shares are of the rate of a product of two {PRODUCT_SIZE:,}² matrices in the same dtype, timed in turn "
        f"with the kernels of a row. FLOPs are those of {PRODUCTS_OF_TRAINING} products over the pairs that the mask "
        "leaves: 2 forward, 5 backward. A windowed row has few of them; rounding up to whole tiles counts there.",
        "## Bars",
        page.table(["", "bar", "least share", "", "where"], verdicts),
        *_absences(rows),
    ]
    for (dtype, head_dim), group in groupby(rows, key=lambda row: (row.dtype, row.head_dim)):
        parts += [f"## {dtype}, head_dim {head_dim}", _table(list(group))]
    parts.append(
        "\\* is what `auto` chooses, bold the fastest. A dash: the kernel refuses, or it would compute too many hidden "
        "scores to be timed."
    )
    return "\n\n".join(parts)


def _table(rows: Sequence[Row]) -> str:
    kernels = _timed(rows)
    head = ["context", "window", "cap", "product GFLOP/s"]
    head += [title for name in kernels for title in (f"{name} ms", "share")]
    return page.table(
        head,
        [
            [
                row.context,
                row.window or "none",
                row.cap or "none",
                f"{row.product_rate / 1e9:,.0f}",
                *(cell for name in kernels for cell in _cells(row, name)),
            ]
            for row in rows
        ],
    )


def _cells(row: Row, name: str) -> tuple[str, str]:
    if name not in row.seconds:
        return "–", "–"
    text = f"{row.seconds[name] * 1000:,.1f}"
    text = f"**{text}**" if name == row.fastest else text
    return f"{text} \\*" if name == row.chosen else text, f"{row.share(name):.0%}"


def _absences(rows: Sequence[Row]) -> list[str]:
    """One line for each kernel that refuses every row, with its reasons."""
    refused = dict.fromkeys(name for row in rows for name in row.refusals if name not in _timed(rows))
    lines = []
    for name in refused:
        reasons = dict.fromkeys(row.refusals[name] for row in rows if name in row.refusals)
        lines.append(f"`{name}` isn't measured: it refuses. {'; '.join(reasons)}.")
    return ["\n".join(lines)] if lines else []


def _timed(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.seconds if name != PRODUCT))
