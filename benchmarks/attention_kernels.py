"""Attention kernels beside each other and beside matrix products: forward and backward, over contexts, windows, caps.

python benchmarks/attention_kernels.py
python benchmarks/attention_kernels.py --contexts 512,4096 --head-dims 64 --dtypes float32 --out -
python benchmarks/attention_kernels.py --threads 1 --clock cpu --out -     # on a machine that others use too

In each row, the kernels and a product of two square matrices are timed in turn. The results are kept in
benchmarks/attention_kernels.md. `lab bench kernels` has more specs, errors and memory.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from itertools import product

import click
import page
import torch
from attention_kernels_page import PRODUCT, PRODUCT_SIZE, Row, bars, flops, report

from components.attention.kernels import KERNELS, Kernel, choose
from components.attention.spec import AttentionInputs, AttentionSpec

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MOST_SCORES = 1 << 26
"""Scores of all heads up to which a kernel is timed that computes them all, whatever the window hides."""


@click.command(context_settings={"show_default": True})
@click.option("--contexts", default="512,1024,2048,4096,16384", type=page.Numbers(), help="Tokens in a sequence.")
@click.option("--windows", default="none,256", type=page.Numbers(none=True), help="Keys that a query sees.")
@click.option("--caps", default="none,50", type=page.Numbers(none=True), help="Soft-caps on the scores.")
@click.option("--head-dims", default="64,128,256", type=page.Numbers(), help="Dimensions of a head.")
@click.option("--dtypes", default=",".join(DTYPES), type=page.Words(DTYPES), help="Of queries, keys and values.")
@click.option("--batch", default=1, help="Sequences.")
@click.option("--heads", default=4, help="Query heads.")
@click.option("--kv-heads", default=2, help="Key-value heads.")
@click.option("--threads", default=2, help="CPU threads.")
@click.option("--repeats", default=7, help="Timed rounds of a row, after one to warm up; the fastest counts.")
@click.option("--seconds", default=3.0, help="After which a row has no further round.")
@page.clock_option
@click.option("--device", default="cpu", help="Where to run: cpu or cuda.")
@page.out_option(__file__)
def main(
    contexts: list[int],
    windows: list[int | None],
    caps: list[int | None],
    head_dims: list[int],
    dtypes: list[str],
    batch: int,
    heads: int,
    kv_heads: int,
    threads: int,
    repeats: int,
    seconds: float,
    clock: str,
    device: str,
    out: str,
) -> None:
    """Time every kernel, write the page, and end with exit code 1 where a bar is missed."""
    torch.set_num_threads(threads)
    rows = []
    for dtype, head_dim, context, window, cap in product(dtypes, head_dims, contexts, windows, caps):
        spec = AttentionSpec(scale=head_dim**-0.5, window=window, softcap=cap)
        inputs = _inputs(batch, heads, kv_heads, context, head_dim, DTYPES[dtype], device)
        refusals = {name: kernel.refusal(spec, inputs) for name, kernel in KERNELS.items()}
        passes = {
            name: _pass(kernel, spec, inputs)
            for name, kernel in KERNELS.items()
            if refusals[name] is None and (_skips(name, window) or batch * heads * context**2 <= MOST_SCORES)
        }
        timed = in_turn(passes | {PRODUCT: _product(DTYPES[dtype], device)}, repeats, seconds, page.now(clock))
        row = Row(
            dtype=dtype,
            head_dim=head_dim,
            context=context,
            window=window,
            cap=cap,
            flops=flops(batch, heads, context, window, head_dim),
            seconds=timed,
            chosen=choose(spec, inputs).name,
            refusals={name: reason for name, reason in refusals.items() if reason is not None},
        )
        rows.append(row)
        click.echo(f"{dtype}, head_dim {head_dim}, T {context}, window {window}, cap {cap}: {row.summary}", err=True)
    bf16 = bool(page.bf16_instructions(page.cpu_info()))
    counts = device == "cpu" and page.at_defaults("batch", "heads", "kv_heads")
    where = f" on {torch.cuda.get_device_name()}" if device == "cuda" else ""
    text = report(
        rows,
        setting=[
            f"{page.command(__file__)}: milliseconds{where} of forward and backward, the best of {repeats} rounds "
            f"after one, or of those that began within {seconds:g} s. {batch} × {heads} heads over {kv_heads}.",
            page.machine(threads, clock),
        ],
        counts=counts,
        bf16=bf16,
    )
    page.keep(text, out)
    sys.exit(page.exit_code(bar.reached for bar in bars(rows, counts=counts, bf16=bf16)))


def _skips(kernel: str, window: int | None) -> bool:
    """Whether a kernel spares what is hidden: the reference never does, SDPA only what comes after a query."""
    return kernel != "reference" and not (kernel == "sdpa" and window is not None)


def in_turn(
    passes: Mapping[str, Callable[[], object]], repeats: int, seconds: float, now: Callable[[], float]
) -> dict[str, float]:
    """The fastest of `repeats` rounds in which each has its turn, after a round to warm up.

    After `seconds` there is no further round, but there is always one that counts.
    """
    times: dict[str, list[float]] = {name: [] for name in passes}
    end = time.monotonic() + seconds
    for round_ in range(repeats + 1):
        if round_ > 1 and time.monotonic() > end:
            break
        for name, run in passes.items():
            start = now()
            run()
            times[name].append(now() - start)
    return {name: min(of[1:]) for name, of in times.items()}


def _inputs(
    batch: int, heads: int, kv_heads: int, context: int, head_dim: int, dtype: torch.dtype, device: str
) -> AttentionInputs:
    generator = torch.Generator(device).manual_seed(0)

    def draw(n: int) -> torch.Tensor:
        x = torch.randn(batch, context, n, head_dim, generator=generator, device=device).to(dtype)
        return x.transpose(1, 2).requires_grad_()  # the layout in which a projection leaves its heads

    return AttentionInputs(draw(heads), draw(kv_heads), draw(kv_heads))


def _pass(kernel: Kernel, spec: AttentionSpec, inputs: AttentionInputs) -> Callable[[], object]:
    leaves = (inputs.q, inputs.k, inputs.v)
    d_out = torch.randn_like(inputs.q)

    def run() -> None:
        torch.autograd.grad(kernel.attend(spec, inputs), leaves, d_out)
        _finish(inputs.q)

    return run


def _product(dtype: torch.dtype, device: str) -> Callable[[], object]:
    left, right = (torch.randn(PRODUCT_SIZE, PRODUCT_SIZE, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)

    def run() -> None:
        torch.mm(left, right, out=out)
        _finish(out)

    return run


def _finish(x: torch.Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
