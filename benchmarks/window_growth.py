"""Growth of a local layer's time with the context: attention with a window, forward and backward.

python benchmarks/window_growth.py
python benchmarks/window_growth.py --contexts 256,512,1024 --out -

Four times the tokens should take four times as long, as each sees the same number of keys. Without a window, timed for
comparison, they take up to sixteen times as long. The contexts are timed in turn. The results are in
benchmarks/window_growth.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

import click
import page
import torch

from components.attention.kernels import attend, choose
from components.attention.spec import AttentionInputs, AttentionSpec

HEADS, KV_HEADS, HEAD_DIM, SOFTCAP = 4, 2, 64, 50.0
BAR = 4.4
"""The largest growth of the time with a window, from the first context to the last, which is four times as long."""

Seconds = Mapping[tuple[int | None, int], float]
"""(Window, context) → seconds of the fastest pass."""


@click.command(context_settings={"show_default": True})
@click.option("--window", default=256, help="Keys that a query sees.")
@click.option("--contexts", default="4096,8192,16384", type=page.Numbers(), help="Tokens in a sequence.")
@click.option("--repeats", default=7, help="Timed rounds after one to warm up; the fastest of each counts.")
@click.option("--threads", default=2, help="CPU threads.")
@page.clock_option
@page.out_option(__file__)
def main(window: int, contexts: list[int], repeats: int, threads: int, clock: str, out: str) -> None:
    """Measure, write the page, and end with exit code 1 if the time grows by more than the bar."""
    torch.set_num_threads(threads)
    seconds = measure(window, contexts, repeats, page.now(clock))
    reached = is_within_bar(seconds, window, contexts) if page.at_defaults("window", "contexts") else None
    lines = [
        "# Growth of a local layer's time with the context",
        "",
        f"{page.command(__file__)}: milliseconds forward and backward, {HEADS} heads over {KV_HEADS}, head_dim "
        f"{HEAD_DIM}, cap {SOFTCAP:g}, fp32, kernel {_kernel(window, contexts[0])}, the best of {repeats}.",
        "",
        page.machine(threads, clock),
        "",
        growth_table(seconds, window, contexts, reached),
    ]
    page.keep("\n".join(lines), out)
    sys.exit(page.exit_code([reached]))


def measure(window: int, contexts: Sequence[int], repeats: int, now: Callable[[], float]) -> Seconds:
    """Measure with the window and without, the contexts in turn."""
    cases = {(w, length): _pass(w, length) for w in (window, None) for length in contexts}
    seconds = {case: float("inf") for case in cases}
    for round_ in range(repeats + 1):
        for case, run in cases.items():
            if round_ > 2 and case[0] is None:
                continue  # measured for comparison only
            start = now()
            run()
            if round_:
                seconds[case] = min(seconds[case], now() - start)
    return seconds


def growth(seconds: Seconds, window: int | None, contexts: Sequence[int]) -> float:
    """The time at the last context over that at the first."""
    return seconds[window, contexts[-1]] / seconds[window, contexts[0]]


def is_within_bar(seconds: Seconds, window: int, contexts: Sequence[int]) -> bool:
    """Whether the time with a window grows by no more than the bar."""
    return growth(seconds, window, contexts) <= BAR


def growth_table(seconds: Seconds, window: int, contexts: Sequence[int], reached: bool | None) -> str:
    """Milliseconds and growth with the window and without; the bar is the window's."""
    rows = []
    for w in (window, None):
        bar = ["–", "–"] if w is None else [f"≤ {BAR}×", page.verdict(reached)]
        ms = [f"{seconds[w, length] * 1000:,.1f}" for length in contexts]
        rows.append([w or "none", *ms, f"{growth(seconds, w, contexts):.2f}×", *bar])
    return page.table(["window", *(f"{length:,}" for length in contexts), "growth", "bar", ""], rows)


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


if __name__ == "__main__":
    main()
