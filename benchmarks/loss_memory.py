"""Peak memory and time of the loss over a large vocabulary, forward and backward: all logits at once against chunks.

python benchmarks/loss_memory.py --tokens 4096 --vocab 256000

Peaks are bytes above the hidden states and the weight, as torch's allocator hands them out. The plain form fills a
small machine: unless --all-logits is given its peak is counted, tensor by tensor, while it runs without data on torch's
fake tensors, and both counts are held against the allocator at a sixteenth of the length first.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any

import click
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from components.loss import Head, chunked, rows_at_once, token_losses
from components.softcap import softcap


@click.command(context_settings={"show_default": True})
@click.option("--tokens", default=4096, help="Tokens whose loss is taken.")
@click.option("--vocab", default=256_000, help="Size of the vocabulary.")
@click.option("--widths", default="256,2304", help="Widths of the model, separated by commas.")
@click.option("--cap", default=30.0, help="The final soft-cap; 0 for none.")
@click.option("--all-logits", is_flag=True, help="Measure the plain form at full length, too.")
@click.option("--threads", default=2, help="CPU threads.")
def main(tokens: int, vocab: int, widths: str, cap: float, all_logits: bool, threads: int) -> None:
    """GB at the peak, and seconds."""
    torch.set_num_threads(threads)
    final_cap = cap or None
    rows = rows_at_once(tokens, vocab, "cpu")
    if rows is None:
        raise click.BadParameter("so few logits are never chunked", param_hint="--tokens")
    table = Table(title=f"loss of {tokens} tokens over {vocab} words, cap {cap:g}, fp32: chunks of {rows} rows")
    names = ("d_model", "plain GB", "chunks GB", "ratio", "… beyond the weight's gradient", "plain ms/token", "chunks")
    for name in names:
        table.add_column(name, justify="right")
    for width in map(int, widths.split(",")):
        plain, chunks = partial(by_all, cap=final_cap), partial(in_chunks, cap=final_cap, rows=rows)
        length = tokens if all_logits else tokens // 16
        peak, of_plain = measure(length, vocab, width, plain)
        if not all_logits:
            check_count(peak, count(length, vocab, width, plain))
            peak = count(tokens, vocab, width, plain)
        ours, seconds = measure(tokens, vocab, width, chunks)
        given = 4 * vocab * width
        table.add_row(
            str(width),
            f"{peak / 1e9:.2f}{'' if all_logits else '*'}",
            f"{ours / 1e9:.2f}",
            f"{ours / peak:.1%}",
            f"{(ours - given) / peak:.1%}",
            f"{1000 * of_plain / length:.2f}",
            f"{1000 * seconds / tokens:.2f}",
        )
    console = Console(width=120)
    console.print(table)
    if not all_logits:
        console.print(f"* counted; its time is that of {tokens // 16} tokens")


def by_all(hidden: Tensor, weight: Tensor, targets: Tensor, cap: float | None) -> None:
    """The plain form, forward and backward."""
    token_losses(softcap(F.linear(hidden, weight), cap)[None], targets[None]).mean().backward()  # type: ignore[no-untyped-call]


def in_chunks(hidden: Tensor, weight: Tensor, targets: Tensor, cap: float | None, rows: int) -> None:
    """The chunked form, forward and backward."""
    chunked(hidden, Head(weight, cap=cap), targets, rows)[0].backward()  # type: ignore[no-untyped-call]


class Count(TorchDispatchMode):
    """Bytes of the tensors that operations make, for as long as each is alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {id(x.untyped_storage()) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for x in tree_leaves(out):
            if not isinstance(x, Tensor) or (key := id(x.untyped_storage())) in given | self._alive:
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
    """Most bytes above the inputs, without data."""
    with FakeTensorMode():
        hidden = torch.empty(tokens, width, requires_grad=True)
        weight = torch.empty(vocab, width, requires_grad=True)
        targets = torch.zeros(tokens, dtype=torch.int64)
        with Count() as counted:
            of(hidden, weight, targets)
    return counted.most


def check_count(measured: int, counted: int) -> None:
    """Stop if the count is not what the allocator handed out."""
    if abs(measured - counted) > 0.01 * measured:
        raise click.ClickException(f"counted a peak of {counted:,} bytes where the allocator had {measured:,}")


def measure(tokens: int, vocab: int, width: int, of: Callable[[Tensor, Tensor, Tensor], None]) -> tuple[int, float]:
    """Most bytes above the inputs, and seconds of one call (the first in the process pages memory in: it counts)."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator, requires_grad=True)
    weight = torch.randn(vocab, width, generator=generator).mul_(width**-0.5).requires_grad_()
    targets = torch.randint(0, vocab, (tokens,), generator=generator)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        start = time.perf_counter()
        of(hidden, weight, targets)
        seconds = time.perf_counter() - start
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))), seconds


if __name__ == "__main__":
    main()
