"""Peak memory and time of the loss over a large vocabulary, forward and backward: all logits at once, and in chunks.

python benchmarks/loss_memory.py
python benchmarks/loss_memory.py --tokens 256 --vocab 4096 --widths 64 --out -

Peaks are bytes beyond the hidden states and the weight, measured by torch's allocator. The plain form doesn't fit on a
small machine. Unless --all-logits is given, its peak is counted on torch's fake tensors, which have no data. It is
first checked against the allocator at a sixteenth of the length. The results are in benchmarks/loss_memory.md.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import click
import page
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from components.loss import Head, chunked, rows_at_once, token_losses
from components.softcap import softcap

BAR, BAR_WIDTH = 1 / 10, 256
"""The ratio below which the peak of the chunks must stay, and the width of the model at which it applies."""


@dataclass(frozen=True)
class Losses:
    """Both forms at one width: bytes of the peak beyond the inputs, and milliseconds per token."""

    width: int
    plain: int
    chunks: int
    gradient: int
    """Bytes of the weight's gradient, which is in both peaks."""
    plain_ms: float
    chunks_ms: float

    @property
    def ratio(self) -> float:
        """The ratio of the peaks, to which the bar applies."""
        return self.chunks / self.plain

    @property
    def reached(self) -> bool | None:
        """Whether the bar is reached; None at a width to which it doesn't apply."""
        return self.ratio < BAR if self.width == BAR_WIDTH else None


@click.command(context_settings={"show_default": True})
@click.option("--tokens", default=4096, help="Tokens whose loss is taken.")
@click.option("--vocab", default=256_000, help="Size of the vocabulary.")
@click.option("--widths", default="256,2304", type=page.Numbers(), help="Widths of the model, separated by commas.")
@click.option("--cap", default=30.0, help="The final soft-cap; 0 for none.")
@click.option("--all-logits", is_flag=True, help="Measure the plain form at full length, too.")
@click.option("--threads", default=2, help="CPU threads.")
@page.clock_option
@page.out_option(__file__)
def main(
    tokens: int, vocab: int, widths: list[int], cap: float, all_logits: bool, threads: int, clock: str, out: str
) -> None:
    """Measure, write the page, and end with exit code 1 if the chunks need 10% of the plain form's memory or more."""
    torch.set_num_threads(threads)
    now, final_cap = page.now(clock), cap or None
    rows = rows_at_once(tokens, vocab, "cpu")
    if rows is None:
        raise click.BadParameter("too few logits to be computed in chunks", param_hint="--tokens")
    plain, chunks = partial(by_all, cap=final_cap), partial(in_chunks, cap=final_cap, rows=rows)
    length = tokens if all_logits else tokens // 16
    results = []
    for width in widths:
        peak, of_plain = measure(length, vocab, width, plain, now)
        if not all_logits:
            check_count(peak, count(length, vocab, width, plain))
            peak = count(tokens, vocab, width, plain)
        ours, seconds = measure(tokens, vocab, width, chunks, now)
        results.append(
            Losses(width, peak, ours, 4 * vocab * width, 1000 * of_plain / length, 1000 * seconds / tokens),
        )
    counts = page.at_defaults("tokens", "vocab", "cap")
    how = "measured" if all_logits else f"counted; its time is that of {length:,} tokens"
    lines = [
        "# Memory of the loss",
        "",
        f"{page.command(__file__)}: the loss of {tokens:,} tokens over {vocab:,} words, cap {cap:g}, fp32, forward and "
        f"backward; chunks of {rows} rows. The peak of the plain form, which makes all logits at once, is {how}.",
        "",
        page.machine(threads, clock),
        "",
        losses_table(results, counts),
        "",
        f"Peaks are bytes beyond the inputs: the hidden states and the weight. The bar applies to the chunks' peak "
        f"over that of the plain form, at width {BAR_WIDTH}. Both include the gradient of the weight, which grows "
        "with the width and dominates the chunks' peak at large widths; the last ratio leaves it out of the "
        "chunks' peak.",
    ]
    page.keep("\n".join(lines), out)
    sys.exit(page.exit_code(row.reached for row in results if counts))


def losses_table(results: Sequence[Losses], counts: bool) -> str:
    """A table with one row per width; `counts`: whether the bar applies to these sizes."""
    head = ["d_model", "plain GB", "chunks GB", "ratio", "bar", ""]
    head += ["ratio without the weight's gradient", "plain ms/token", "chunks ms/token"]
    rows = []
    for row in results:
        reached = row.reached if counts else None
        rows.append(
            [
                row.width,
                f"{row.plain / 1e9:.2f}",
                f"{row.chunks / 1e9:.2f}",
                f"{row.ratio:.1%}",
                "–" if reached is None else f"< {BAR:.0%}",
                page.verdict(reached),
                f"{(row.chunks - row.gradient) / row.plain:.1%}",
                f"{row.plain_ms:.2f}",
                f"{row.chunks_ms:.2f}",
            ]
        )
    return page.table(head, rows)


def by_all(hidden: Tensor, weight: Tensor, targets: Tensor, cap: float | None) -> None:
    """The plain form, forward and backward."""
    token_losses(softcap(F.linear(hidden, weight), cap)[None], targets[None]).mean().backward()  # type: ignore[no-untyped-call]


def in_chunks(hidden: Tensor, weight: Tensor, targets: Tensor, cap: float | None, rows: int) -> None:
    """The chunked form, forward and backward."""
    chunked(hidden, Head(weight, cap=cap), targets, rows)[0].backward()  # type: ignore[no-untyped-call]


class Count(TorchDispatchMode):
    """Counts the bytes of tensors that operations create, while they are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        inputs = {id(x.untyped_storage()) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for x in tree_leaves(out):
            if not isinstance(x, Tensor) or (key := id(x.untyped_storage())) in inputs | self._alive:
                continue
            size = x.untyped_storage().nbytes()
            self._alive.add(key)
            self.now += size
            weakref.finalize(x.untyped_storage(), self._forget, key, size)
        self.most = max(self.most, self.now)
        return out

    def _forget(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


def count(tokens: int, vocab: int, width: int, of: Callable[[Tensor, Tensor, Tensor], None]) -> int:
    """The peak of bytes beyond the inputs, counted without data."""
    with FakeTensorMode():
        hidden = torch.empty(tokens, width, requires_grad=True)
        weight = torch.empty(vocab, width, requires_grad=True)
        targets = torch.zeros(tokens, dtype=torch.int64)
        with Count() as counted:
            of(hidden, weight, targets)
    return counted.most


def check_count(measured: int, counted: int) -> None:
    """Raise an error if the count differs from the allocator's."""
    if abs(measured - counted) > 0.01 * measured:
        raise click.ClickException(f"counted a peak of {counted:,} bytes where the allocator had {measured:,}")


def measure(
    tokens: int, vocab: int, width: int, of: Callable[[Tensor, Tensor, Tensor], None], now: Callable[[], float]
) -> tuple[int, float]:
    """The peak of bytes beyond the inputs, and the seconds of one call, including page faults."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator, requires_grad=True)
    weight = torch.randn(vocab, width, generator=generator).mul_(width**-0.5).requires_grad_()
    targets = torch.randint(0, vocab, (tokens,), generator=generator)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        start = now()
        of(hidden, weight, targets)
        seconds = now() - start
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))), seconds


if __name__ == "__main__":
    main()
