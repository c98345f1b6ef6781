"""How a local layer's time grows with the context: forward and backward of attention with a window, on this machine.

python benchmarks/window_growth.py --write

Four times the tokens should cost four times as much: each sees the same number of keys. For comparison the same with no
window, where four times the tokens cost up to sixteen times as much. The contexts are timed in turn.
"""

from __future__ import annotations

import datetime
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch

from components.attention.kernels import attend, choose
from components.attention.spec import AttentionInputs, AttentionSpec

HEADS, KV_HEADS, HEAD_DIM, SOFTCAP = 4, 2, 64, 50.0
BAR = 4.4
"""What the time from the first context to the last, four times as long, may grow by with a window."""


@click.command(context_settings={"show_default": True})
@click.option("--window", default=256, help="Keys that a query sees.")
@click.option("--contexts", default="4096,8192,16384", help="Tokens in a sequence.")
@click.option("--repeats", default=7, help="Timed rounds after one to warm up; the fastest of each counts.")
@click.option("--threads", default=2, help="CPU threads.")
@click.option("--clock", type=click.Choice(["wall", "cpu"]), default="wall", help="Time on the wall, or of processors.")
@click.option("--write", is_flag=True, help="Write window_growth.md.")
def main(window: int, contexts: str, repeats: int, threads: int, clock: str, write: bool) -> None:
    """Measure and print the table."""
    torch.set_num_threads(threads)
    lengths = [int(length) for length in contexts.split(",")]
    cases = {(w, length): _pass(w, length) for w in (window, None) for length in lengths}
    now = time.perf_counter if clock == "wall" else time.process_time
    seconds = {case: float("inf") for case in cases}
    for round_ in range(repeats + 1):
        for case, run in cases.items():
            if round_ > 2 and case[0] is None:
                continue  # only there to compare with
            start = now()
            run()
            if round_:
                seconds[case] = min(seconds[case], now() - start)
    lines = [
        "# Growth of a local layer's time with the context",
        "",
        f"`python benchmarks/window_growth.py`: milliseconds forward and backward, {HEADS} heads over {KV_HEADS}, "
        f"head_dim {HEAD_DIM}, cap {SOFTCAP:g}, fp32, kernel {_kernel(window, lengths[0])}; {threads} "
        f"thread{'s' * (threads > 1)}, {clock} time, best of {repeats}, load {os.getloadavg()[0]:.1f} at the end.",
        "",
        f"{datetime.date.today()}, {_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"torch {torch.__version__}.",
        "",
        "| window | " + " | ".join(f"{length:,}" for length in lengths) + " | growth | aim |",
        "|---" * (len(lengths) + 3) + "|",
    ]
    for w in (window, None):
        ms = [seconds[w, length] * 1000 for length in lengths]
        aim = f"≤ {BAR}×" if w is not None and lengths[-1] == 4 * lengths[0] else ""
        cells = [w or "none", *(f"{each:,.1f}" for each in ms), f"{ms[-1] / ms[0]:.2f}×", aim]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    click.echo("\n".join(lines))
    if write:
        Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _inputs(context: int) -> AttentionInputs:
    generator = torch.Generator().manual_seed(0)

    def draw(heads: int) -> torch.Tensor:
        x = torch.randn(1, context, heads, HEAD_DIM, generator=generator)
        return x.transpose(1, 2).requires_grad_()  # the layout in which a projection leaves its heads

    return AttentionInputs(draw(HEADS), draw(KV_HEADS), draw(KV_HEADS))


def _spec(window: int | None) -> AttentionSpec:
    return AttentionSpec(scale=HEAD_DIM**-0.5, window=window, softcap=SOFTCAP)


def _kernel(window: int, context: int) -> str:
    return choose(_spec(window), _inputs(context)).name


def _pass(window: int | None, context: int) -> Callable[[], object]:
    spec, inputs = _spec(window), _inputs(context)
    d_out = torch.randn(1, context, HEADS, HEAD_DIM).transpose(1, 2)
    return lambda: torch.autograd.grad(attend(spec, inputs), (inputs.q, inputs.k, inputs.v), d_out)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
