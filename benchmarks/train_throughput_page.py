"""benchmarks/train_throughput.md, from what train_throughput.py measured: its bars, then all the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import page

PEERS = ("hf", "litgpt", "xtransformers")
SIZES = {512: 8, 1024: 4, 2048: 2, 4096: 1}
"""Sequences at each context, of the sizes that the bars are about."""
SPEED_BARS = {
    "fp32": {512: 1.6, 1024: 2.7, 2048: 5.0, 4096: 8.0},
    "bf16": {512: 2.8, 4096: 16.0},
}
"""How many times the best peer's fp32 speed the lab's is, at least: whichever of compiled and not is faster."""
SHARE_BARS = {"fp32": {512: 0.75, 4096: 0.65}, "bf16": {512: 0.55, 4096: 0.55}}
"""The least share of the rate of a matrix product, in the same precision, that the faster of the lab's reaches."""
MEMORY_BAR, MEMORY_CONTEXT = 5, 4096
"""Hugging Face's peak memory is more than so many times that of the lab's fp32, not compiled, at that context."""
ONEDNN = "oneDNN product fp32"
"""The contender that multiplies as the lab's fp32 projections do, where that is not torch's own product."""
NO_PEERS = (
    "No peers were measured: `make peers` installs them into build/peers, and --peers-python names another environment."
)


@dataclass(frozen=True)
class Measured:
    """What one contender did at one context. `seconds` are of its fastest step, `first` of the one to warm up."""

    batch: int
    tokens_per_second: float
    seconds: float
    first: float
    peak: int
    facts: Mapping[str, Any]


Results = Mapping[int, Mapping[str, Measured]]
"""By context and contender: peers, the lab's precisions with and without `compiled`, and matrix products."""


@dataclass(frozen=True)
class Bar:
    """One of them, and whether it is reached: None where it doesn't apply or nothing was measured."""

    what: str
    aim: str
    figure: str
    of: str
    reached: bool | None


def bars(results: Results, *, flops_per_token: Mapping[int, float], bf16: bool) -> list[Bar]:
    """Every bar beside its figure.

    Args:
        flops_per_token: of the model, by context.
        bf16: whether the processor has bf16 arithmetic. Where it emulates that, the bars on bf16 don't apply.
    """
    speeds = [
        _speed_bar(_at_its_size(results, context), precision, context, aim, precision != "bf16" or bf16)
        for precision, aims in SPEED_BARS.items()
        for context, aim in aims.items()
    ]
    shares = [
        _share_bar(
            _at_its_size(results, context),
            precision,
            context,
            aim,
            flops_per_token.get(context, 0.0),
            precision != "bf16" or bf16,
        )
        for precision, aims in SHARE_BARS.items()
        for context, aim in aims.items()
    ]
    return [*speeds, *shares, _memory_bar(_at_its_size(results, MEMORY_CONTEXT))]


def share(of: Mapping[str, Measured], name: str, flops_per_token: float) -> float:
    """The share of the rate of a matrix product in its precision that a contender reaches."""
    return flops_per_token * of[name].tokens_per_second / product_rate(of, name)


def product_rate(of: Mapping[str, Measured], name: str) -> float:
    """FLOPs a second of matrix products in the precision of a contender, in the same run."""
    product = of[f"product {name.split()[0]}"]
    rate: float = product.facts["flops"] / product.seconds
    return rate


def _speed_bar(of: Mapping[str, Measured], precision: str, context: int, aim: float, applies: bool) -> Bar:
    what, shown = f"{precision}, T = {context:,}", f"≥ {aim:g}×"
    best = _faster(of, precision)
    if best is None or not set(PEERS) <= set(of):
        return Bar(what, shown, "–", "not measured", None)
    peer = max(PEERS, key=lambda name: of[name].tokens_per_second)
    times = of[best].tokens_per_second / of[peer].tokens_per_second
    return Bar(what, shown, f"{times:.2f}×", f"{best} over {peer}{_note(applies)}", times >= aim if applies else None)


def _share_bar(
    of: Mapping[str, Measured], precision: str, context: int, aim: float, flops_per_token: float, applies: bool
) -> Bar:
    what, shown = f"share of products, {precision}, T = {context:,}", f"≥ {aim:.0%}"
    best = _faster(of, precision)
    if best is None or f"product {precision}" not in of:
        return Bar(what, shown, "–", "not measured", None)
    reached = share(of, best, flops_per_token)
    return Bar(what, shown, f"{reached:.1%}", f"{best}{_note(applies)}", reached >= aim if applies else None)


def _memory_bar(of: Mapping[str, Measured]) -> Bar:
    what, shown = f"memory, T = {MEMORY_CONTEXT:,}", f"< 1/{MEMORY_BAR}"
    if "hf" not in of or "fp32" not in of:
        return Bar(what, shown, "–", "not measured", None)
    times = of["hf"].peak / of["fp32"].peak
    return Bar(what, shown, f"1/{times:.2f}", "fp32 over hf", times > MEMORY_BAR)


def _faster(of: Mapping[str, Measured], precision: str) -> str | None:
    own = [name for name in of if name.split()[0] == precision]
    return max(own, key=lambda name: of[name].tokens_per_second, default=None)


def _note(applies: bool) -> str:
    return "" if applies else "; emulated here: the bar doesn't apply"


def report(
    results: Results, *, flops_per_token: Mapping[int, float], setting: Sequence[str], bf16: Sequence[str]
) -> str:
    """The page in Markdown.

    Args:
        flops_per_token: of the model, by context.
        setting: the lines about how and where this was measured.
        bf16: the processor's instructions for bf16.
    """
    some = next(iter(results.values()))
    peers = [name for name in PEERS if name in some]
    ours = [name for name in some if name.split()[0] in SPEED_BARS]
    verdicts = [
        [bar.what, bar.aim, bar.figure, page.verdict(bar.reached), bar.of]
        for bar in bars(results, flops_per_token=flops_per_token, bf16=bool(bf16))
    ]
    parts = [
        "# Training throughput on a CPU",
        *setting,
        bf16_line(bf16),
        *_kernels(results, ours),
        *([] if peers else [NO_PEERS]),
        "## Bars",
        "Speeds beside the best peer's fp32, the share of the rate of matrix products, memory beside Hugging Face's.",
        page.table(["", "bar", "measured", "", "of"], verdicts),
        *_speeds(results, peers, ours),
        *_ratios(results, peers, ours),
        *_utilization(results, ours, flops_per_token),
        *_memory(results, peers, ours),
        *_compilation(results, ours),
    ]
    return "\n\n".join(parts)


def bf16_line(instructions: Sequence[str]) -> str:
    """What the page says about bf16 here."""
    if instructions:
        return f"bf16 in hardware: {', '.join(instructions)}."
    return (
        "This processor has no bf16 arithmetic (neither avx512_bf16 nor amx_bf16) and emulates it: the bars on bf16 "
        "don't apply here."
    )


def _at_its_size(results: Results, context: int) -> Mapping[str, Measured]:
    return {name: entry for name, entry in results.get(context, {}).items() if entry.batch == SIZES[context]}


def _speeds(results: Results, peers: Sequence[str], ours: Sequence[str]) -> list[str]:
    some = next(iter(results.values()))
    shown = {name: f"`{name}`" for name in peers} | {name: f"lab, {name}" for name in ours}
    rows = [[what, *(f"{of[name].tokens_per_second:,.0f}" for of in results.values())] for name, what in shown.items()]
    notes = "\n".join(f"{name}: {some[name].facts['versions']}." for name in peers)
    parts = ["## Tokens a second, forward and backward", page.table(["", *results], rows)]
    return [*parts, notes] if notes else parts


def _ratios(results: Results, peers: Sequence[str], ours: Sequence[str]) -> list[str]:
    if not peers:
        return []
    rows = [[f"lab, {name}", *(_times(of, name, peers) for of in results.values())] for name in ours]
    return ["## Times the best peer's fp32", page.table(["", *results], rows)]


def _times(of: Mapping[str, Measured], name: str, peers: Sequence[str]) -> str:
    return f"{of[name].tokens_per_second / max(of[peer].tokens_per_second for peer in peers):.2f}×"


def _utilization(results: Results, ours: Sequence[str], flops_per_token: Mapping[int, float]) -> list[str]:
    rows = [
        [
            f"lab, {name}",
            *(
                f"{share(of, name, flops_per_token[context]):.0%} of {product_rate(of, name) / 1e9:,.0f}"
                for context, of in results.items()
            ),
        ]
        for name in ours
    ]
    head = "## Share of the rate of matrix products (GFLOP/s, 2,048³, same run)"
    note = "FLOPs of the model itself, without what is computed twice. The rate is that of `torch.mm`."
    return [head, note, page.table(["", *results], rows), *_onednn(results)]


def _onednn(results: Results) -> list[str]:
    """The rate of oneDNN's products, where the lab's fp32 projections multiply by them."""
    rates = {
        context: of[ONEDNN].facts["flops"] / of[ONEDNN].seconds / product_rate(of, "fp32")
        for context, of in results.items()
        if ONEDNN in of
    }
    if not rates:
        return []
    times = ", ".join(f"{rate:.2f} times (T = {context:,})" for context, rate in rates.items())
    return [f"In fp32 the lab's large projections multiply by oneDNN here, whose rate in this run is {times} as high."]


def _kernels(results: Results, ours: Sequence[str]) -> list[str]:
    """Which attention kernels the lab's contenders used, and why no native library if they had none."""
    lines = []
    for name in ours:
        used = {
            context: ", ".join(f"{kind} {kernel}" for kind, kernel in of[name].facts["kernels"].items())
            for context, of in results.items()
        }
        texts = dict.fromkeys(used.values())
        where = {text: ", ".join(f"{context:,}" for context in used if used[context] == text) for text in texts}
        shown = "; ".join(f"{text}{f' (T = {where[text]})' if len(texts) > 1 else ''}" for text in texts)
        lines.append(f"Attention kernels of {name}: {shown}.")
    missing = {
        f"{library}: {reason}"
        for of in results.values()
        for name in ours
        for library, reason in of[name].facts["unavailable"].items()
    }
    lines += [f"Native library not available here: {text}." for text in sorted(missing)]
    return ["\n".join(lines)] if lines else []


def _memory(results: Results, peers: Sequence[str], ours: Sequence[str]) -> list[str]:
    if "hf" not in peers:
        return []
    rows = [[name, *(f"{of[name].peak / 2**20:,.0f}" for of in results.values())] for name in ("hf", *ours)]
    rows += [[f"{name} / hf", *(f"1/{of['hf'].peak / of[name].peak:.1f}" for of in results.values())] for name in ours]
    return ["## Peak memory of the process, MiB", page.table(["", *results], rows)]


def _compilation(results: Results, ours: Sequence[str]) -> list[str]:
    rows = [[name, *(f"{of[name].first:.1f}" for of in results.values())] for name in ours if name.endswith("compiled")]
    if not rows:
        return []
    head = "## Seconds of the first step, compilation in it"
    note = "The first context compiles anew or from torch's cache on disk, as the machine has it."
    return [head, page.table(["", *results], rows), note]
