"""`lab bench`: benchmarks of this machine."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from lab.cli.options import accelerator_option, json_option
from lab.cli.refusal_output import CommandGroup, NameChoice

if TYPE_CHECKING:
    from lab.bench.atlas import Measurement

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "fp64": "float64"}


@click.group("bench", cls=CommandGroup)
def command() -> None:
    """Benchmark this machine."""


@command.command("kernels")
@click.option("--context", type=click.IntRange(min=2), default=1024, show_default=True, help="Tokens per sequence.")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Sequences per batch.")
@click.option("--heads", type=click.IntRange(min=1), default=8, show_default=True, help="Number of query heads.")
@click.option("--kv-heads", type=click.IntRange(min=1), help="Number of key-value heads.  [default: half of --heads]")
@click.option("--head-dim", type=click.IntRange(min=1), default=64, show_default=True, help="Dimensions per head.")
@click.option("--dtype", "dtypes", type=NameChoice(list(DTYPES)), multiple=True, default=["fp32", "bf16"],
              show_default=True, help="Type of queries, keys and values. May be repeated.")  # fmt: skip
@click.option("--kernel", "kernel_names", multiple=True, metavar="NAME", help="Only this kernel. May be repeated.")
@click.option("--quick", is_flag=True, help="One timed run, nothing compiled; by default 256 tokens and fp32.")
@accelerator_option
@json_option
@click.pass_context
def kernels(
    ctx: click.Context,
    context: int,
    batch: int,
    heads: int,
    kv_heads: int | None,
    head_dim: int,
    dtypes: tuple[str, ...],
    kernel_names: tuple[str, ...],
    quick: bool,
    accelerator: str,
    as_json: bool,
) -> None:
    """Check and time each attention kernel on every spec and dtype, forward and backward.

    The table gives the error against fp64, milliseconds and peak memory, or the reason why the kernel refuses. The
    exit code is 1 if a kernel fails or its error is larger than its dtype allows.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch reads it on import: silences the profiler
    import torch

    from components.attention.kernels import KERNELS, UnknownKernel, lookup
    from lab.bench import atlas, table
    from lab.bench.conformance import Shape
    from lab.refusals import RequestError, Where

    def is_given(option: str) -> bool:
        return ctx.get_parameter_source(option) is not click.core.ParameterSource.DEFAULT

    if quick:
        context = context if is_given("context") else 256
        dtypes = dtypes if is_given("dtypes") else ("fp32",)
    kv_heads = kv_heads or max(1, heads // 2)
    if heads % kv_heads:
        raise RequestError(f"must divide the {heads} query heads, got {kv_heads}", key="--kv-heads", given=kv_heads)
    device = accelerator if accelerator != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        problem = "torch sees no CUDA device here"
        raise RequestError(problem, kind="unavailable", key="--accelerator", given=device, fix="use cpu")
    try:
        names = [lookup(name).name for name in kernel_names] or list(KERNELS)
    except UnknownKernel as error:
        raise RequestError.of_name(error, Where(key="--kernel")) from None
    plan = atlas.AtlasPlan(
        Shape(batch, heads, kv_heads, context, head_dim),
        [DTYPES[name] for name in dtypes],
        names,
        device,
        repeats=1 if quick else 5,
        compile=not quick,
    )
    with _progress(plan.cells()) as report:
        cells = atlas.measure_all(plan, report)
    if as_json:
        click.echo(json.dumps(table.as_dict(plan, cells), indent=1))
    else:
        from lab.terminal import wide_console

        wide_console().print(table.table(plan, cells))
    sys.exit(1 if any(cell.wrong for cell in cells) else 0)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int, Measurement], None]]:
    """A progress bar on standard error; where that isn't a terminal, a line at the start of each spec."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    from lab.terminal import description_column, plain_console

    screen = plain_console(stderr=True)
    if not screen.is_terminal:
        started_specs: set[str] = set()

        def line(done: int, cell: Measurement) -> None:
            if cell.spec not in started_specs:
                started_specs.add(cell.spec)
                click.echo(f"{done} of {total}: {cell.spec}", err=True)

        yield line
        return
    columns = (description_column(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda done, cell: bar.update(task, completed=done, description=f"{cell.spec}, {cell.kernel}")
