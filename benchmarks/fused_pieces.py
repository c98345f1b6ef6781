"""Fused pieces of a block beside their naive forms: each by itself, and in a training step of a Gemma-2-like shape.

python benchmarks/fused_pieces.py
python benchmarks/fused_pieces.py --shapes 512x8 --repeats 3 --threads 1 --clock cpu --out -

Everything runs in one process and in turn, and the fastest of each counts. A step is that of train_throughput.py,
uncompiled. The results are in benchmarks/fused_pieces.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext

import click
import page
import torch
from torch import Tensor
from train_lab import SHAPE, Step

from components.decoder import Decoder
from components.fused.piece import PIECES, forms, naive
from components.loss import Head, chunked
from components.mlp import GEGLU, SwiGLU
from components.norm import ZeroCenteredRMSNormLayer
from components.position.positions import RoPE
from lab.training.module import NextToken
from lab.training.optimizers.optimizer import AdamW
from lab.training.optimizers.schedule import Cosine
from lab.training.options import Train

Work = Callable[[], object]

ROWS = 4096
"""Tokens of a piece by itself."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@click.command(context_settings={"show_default": True})
@click.option("--shapes", default="512x8,4096x1", help="Context x batch of the steps.")
@click.option("--repeats", default=5, help="How often each is measured, after one to warm up.")
@click.option("--threads", default=2, help="CPU threads.")
@page.clock_option
@page.out_option(__file__)
def main(shapes: str, repeats: int, threads: int, clock: str, out: str) -> None:
    """Measure all, and keep the page."""
    torch.set_num_threads(threads)
    reasons = {name: form for name, form in forms("cpu", torch.float32, compiled=False).items() if form != "fused"}
    if reasons:
        raise click.ClickException("; ".join(f"{name} is {form}" for name, form in reasons.items()))
    rows = []
    for title, work in pieces().items():
        best = fastest({"naive": in_naive(work), "fused": work}, repeats, clock)
        rows.append([title, *(f"{1000 * best[form]:.2f}" for form in best), f"{best['naive'] / best['fused']:.2f}"])
    steps = []
    for context, batch in sizes(shapes):
        for precision in DTYPES:
            click.echo(f"{context} x {batch}, {precision}", err=True)
            steps.append([f"{context:,} × {batch}", precision, *step_cells(context, batch, precision, repeats, clock)])
    names = sorted(PIECES)
    lines = [
        "# Fused pieces",
        "",
        f"{page.command(__file__)}: the best of {repeats}, forward and backward, uncompiled.",
        "",
        page.machine(threads, clock),
        "",
        "## Each by itself",
        "",
        f"{ROWS:,} tokens of width {SHAPE.d_model}, {SHAPE.heads.n_heads} heads of {SHAPE.heads.key_size}, d_ff 1,024, "
        f"{SHAPE.vocab_size:,} words.",
        "",
        page.table(["piece", "naive ms", "fused ms", "times"], rows),
        "",
        "## In a step",
        "",
        "How many times as fast a step becomes by one piece alone, and by all of them.",
        "",
        page.table(["tokens", "", "naive ms", *names, "all ms", "all"], steps),
    ]
    page.keep("\n".join(lines), out)


def in_naive(work: Work, *names: str) -> Work:
    """The same work with naive forms of these pieces, or of all."""

    def run() -> object:
        with naive(*names):
            return work()

    return run


def fastest(works: Mapping[str, Work], repeats: int, clock: str) -> dict[str, float]:
    """Seconds of each work's best call, of calls in turn."""
    now = page.now(clock)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(repeats + 1):
        for name, work in works.items():
            start = now()
            work()
            if number:
                seconds[name].append(now() - start)
    return {name: min(times) for name, times in seconds.items()}


def step_cells(context: int, batch: int, precision: str, repeats: int, clock: str) -> list[str]:
    """Cells of the step's row: milliseconds, and the ratios to the naive step."""
    step, names = training_step(context, batch, precision), sorted(PIECES)
    works = {"none": in_naive(step), "all": step}
    works |= {name: in_naive(step, *(other for other in names if other != name)) for name in names}
    best = fastest(works, repeats, clock)
    ratios = [f"{best['none'] / best[name]:.3f}" for name in names]
    return [f"{1000 * best['none']:.0f}", *ratios, f"{1000 * best['all']:.0f}", f"{best['none'] / best['all']:.2f}"]


def training_step(context: int, batch: int, precision: str) -> Work:
    """Forward and backward passes of the training module, without an optimizer."""
    mixed = precision == "bf16"
    train = Train(
        tokens=10**9, context=context, global_batch=batch, precision="bf16-mixed" if mixed else "fp32", compile="off"
    )
    module: NextToken = Step(
        Decoder.initialized(SHAPE, seed=0), train=train, optimizer=AdamW(lr=1e-3), schedule=Cosine(), seed=0
    )
    tokens = torch.randint(0, SHAPE.vocab_size, (batch, context + 1), generator=torch.Generator().manual_seed(0))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16) if mixed else nullcontext():
            module._accumulate(tokens[:, :-1], tokens[:, 1:])
        module.zero_grad()

    return step


def pieces() -> dict[str, Work]:
    """Forward and backward passes of each piece by itself, by its title."""
    works: dict[str, Work] = {}
    width, size = SHAPE.d_model, SHAPE.heads.key_size
    for name, dtype in DTYPES.items():
        norm = ZeroCenteredRMSNormLayer(width, 1e-6)
        torch.nn.init.normal_(norm.weight)
        stream = noise(ROWS, width)

        def normed(x: Tensor, norm: ZeroCenteredRMSNormLayer = norm, dtype: torch.dtype = dtype) -> Tensor:
            return norm.of_stream(x, dtype)[0]

        def added(x: Tensor, norm: ZeroCenteredRMSNormLayer = norm, stream: Tensor = stream) -> Tensor:
            return norm.added(x, stream)

        works[f"RMSNorm of the fp32 stream, for products in {name}"] = trained(normed, noise(ROWS, width))
        works[f"RMSNorm of {name}, added to the stream"] = trained(added, noise(ROWS, width, dtype=dtype))
        for title, mlp in (("GEGLU, tanh", GEGLU(d_ff=1024)), ("SwiGLU", SwiGLU(d_ff=1024))):
            gate, up = (noise(ROWS, 1024, dtype=dtype) for _ in range(2))
            works[f"{title}, {name}"] = trained(mlp.join, gate, up)
        for pairing in ("half", "interleaved"):
            turn = RoPE(pairing=pairing).rotation(size, torch.arange(ROWS))  # type: ignore[arg-type]
            x = noise(1, ROWS, SHAPE.heads.n_heads, size, dtype=dtype).transpose(1, 2)
            works[f"RoPE, {pairing}, {name}"] = trained(turn, x)
        works[f"capped loss with its three products, {name}"] = loss(dtype)
    return works


def trained(function: Callable[..., Tensor], *inputs: Tensor) -> Work:
    """The function's forward and backward passes."""
    leaves = [x.requires_grad_() for x in inputs]
    gradient = torch.randn_like(function(*leaves))
    return lambda: torch.autograd.grad(function(*leaves), leaves, gradient)


def loss(dtype: torch.dtype) -> Work:
    """The chunked loss's passes, under autocast for bf16."""
    hidden, weight = (noise(n, SHAPE.d_model).requires_grad_() for n in (ROWS, SHAPE.vocab_size))
    targets = torch.randint(0, SHAPE.vocab_size, (ROWS,))

    def passes() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            objective, _, _ = chunked(hidden, Head(weight, cap=30.0), targets, 1024)
        torch.autograd.grad(objective, (hidden, weight))

    return passes


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape).to(dtype)


def sizes(shapes: str) -> list[tuple[int, int]]:
    """Context and batch of each shape."""
    try:
        return [(int(context), int(batch)) for context, batch in (shape.split("x") for shape in shapes.split(","))]
    except ValueError:
        raise click.BadParameter(f"expected such as 512x8,4096x1, got '{shapes}'", param_hint="--shapes") from None


if __name__ == "__main__":
    main()
