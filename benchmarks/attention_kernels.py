"""Milliseconds forward and backward of every attention kernel that runs here, over contexts, windows and caps.

python benchmarks/attention_kernels.py
python benchmarks/attention_kernels.py --contexts 512,4096 --windows none,256 --caps none,50 --out -

The results are kept in benchmarks/attention_kernels.md. `lab bench kernels` has more specs, errors and memory.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import click
import page
import torch

from components.attention.kernels import KERNELS, Kernel, choose
from components.attention.spec import AttentionInputs, AttentionSpec


@click.command(context_settings={"show_default": True})
@click.option("--contexts", default="512,1024,2048,4096", type=page.Numbers(), help="Tokens in a sequence.")
@click.option("--windows", default="none,256", type=page.Numbers(none=True), help="Keys that a query sees.")
@click.option("--caps", default="none,50", type=page.Numbers(none=True), help="Soft-caps on the scores.")
@click.option("--batch", default=1, help="Sequences.")
@click.option("--heads", default=4, help="Query heads.")
@click.option("--kv-heads", default=2, help="Key-value heads.")
@click.option("--head-dim", default=64, help="Dimensions of a head.")
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", help="Of queries, keys, values."
)
@click.option("--threads", default=2, help="CPU threads.")
@click.option("--repeats", default=5, help="Timed runs a cell, after one to warm up; the fastest is shown.")
@page.clock_option
@click.option("--device", default="cpu", help="Where to run: cpu or cuda.")
@page.out_option(__file__)
def main(
    contexts: list[int],
    windows: list[int | None],
    caps: list[int | None],
    batch: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    dtype: str,
    threads: int,
    repeats: int,
    clock: str,
    device: str,
    out: str,
) -> None:
    """Time every attention kernel: milliseconds forward + backward, the fastest in bold, auto's choice marked."""
    torch.set_num_threads(threads)
    where = f" on {torch.cuda.get_device_name()}" if device == "cuda" else ""
    rows = []
    for context, window, cap in product(contexts, windows, caps):
        spec = AttentionSpec(scale=head_dim**-0.5, window=window, softcap=cap)
        inputs = _inputs(batch, heads, kv_heads, context, head_dim, getattr(torch, dtype), device)
        ms = {
            name: None if kernel.refusal(spec, inputs) else _milliseconds(kernel, spec, inputs, repeats, clock)
            for name, kernel in KERNELS.items()
        }
        chosen = choose(spec, inputs).name
        rows.append([context, window or "none", cap or "none", *(_cell(name, ms, chosen) for name in ms)])
        click.echo(" ".join(map(str, rows[-1])), err=True)
    lines = [
        "# Attention kernels, forward and backward",
        "",
        f"{page.command(__file__)}: milliseconds{where}, the best of {repeats} after one. {batch} × {heads} heads over "
        f"{kv_heads} of {head_dim}, {dtype}.",
        "",
        page.machine(threads, clock),
        "",
        page.table(["context", "window", "cap", *KERNELS], rows),
        "",
        "\\* is what `auto` chooses, bold the fastest, a dash where the kernel refuses.",
    ]
    page.keep("\n".join(lines), out)


def _inputs(
    batch: int, heads: int, kv_heads: int, context: int, head_dim: int, dtype: torch.dtype, device: str
) -> AttentionInputs:
    generator = torch.Generator(device).manual_seed(0)

    def draw(n: int) -> torch.Tensor:
        x = torch.randn(batch, context, n, head_dim, generator=generator, device=device).to(dtype)
        return x.transpose(1, 2).requires_grad_()  # the layout in which a projection leaves its heads

    return AttentionInputs(draw(heads), draw(kv_heads), draw(kv_heads))


def _milliseconds(kernel: Kernel, spec: AttentionSpec, inputs: AttentionInputs, repeats: int, clock: str) -> float:
    leaves = (inputs.q, inputs.k, inputs.v)
    d_out = torch.randn_like(inputs.q)
    finish: Callable[[], None] = torch.cuda.synchronize if inputs.q.is_cuda else lambda: None
    now = page.now(clock)
    seconds = []
    for _ in range(repeats + 1):
        finish()
        start = now()
        torch.autograd.grad(kernel.attend(spec, inputs), leaves, d_out)
        finish()
        seconds.append(now() - start)
    return min(seconds[1:]) * 1000


def _cell(name: str, ms: dict[str, float | None], chosen: str) -> str:
    own_ms = ms[name]
    if own_ms is None:
        return "–"
    text = f"**{own_ms:.1f}**" if own_ms == min(x for x in ms.values() if x is not None) else f"{own_ms:.1f}"
    return f"{text} \\*" if name == chosen else text


if __name__ == "__main__":
    main()
