"""benchmarks/train_throughput.md, from what train_throughput.py measured: its bars, then all the figures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import page

PEERS = ("hf", "litgpt", "xtransformers")
SIZES = {512: 8, 1024: 4, 2048: 2, 4096: 1}
"""Sequences at each context, of the sizes that the bars are about."""
SPEED_BARS = {
    "fp32": {512: 1.3, 1024: 2.1, 2048: 4.0, 4096: 7.0},
    "bf16": {512: 2.7, 4096: 12.0},
}
"""How many times the best peer's fp32 speed the lab's is, at least: whichever of compiled and not is faster."""
MEMORY_BAR, MEMORY_CONTEXT = 5, 4096
"""Hugging Face's peak memory is more than so many times that of the lab's fp32, not compiled, at that context."""
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


def bars(results: Results, *, bf16: bool) -> list[Bar]:
    """Every bar beside its figure.

    Args:
        bf16: whether the processor has bf16 arithmetic. Where it emulates that, the bars on bf16 don't apply.
    """
    measured_bars = []
    for precision, aims in SPEED_BARS.items():
        for context, aim in aims.items():
            of = _at_its_size(results, context)
            own = [name for name in of if name.split()[0] == precision]
            what, shown = f"{precision}, T = {context:,}", f"≥ {aim:g}×"
            if not own or not set(PEERS) <= set(of):
                measured_bars.append(Bar(what, shown, "–", "not measured", None))
                continue
            best, peer = (max(names, key=lambda name: of[name].tokens_per_second) for names in (own, PEERS))
            times = of[best].tokens_per_second / of[peer].tokens_per_second
            applies = precision != "bf16" or bf16
            note = "" if applies else "; emulated here: the bar doesn't apply"
            reached = times >= aim if applies else None
            measured_bars.append(Bar(what, shown, f"{times:.2f}×", f"{best} over {peer}{note}", reached))
    of = _at_its_size(results, MEMORY_CONTEXT)
    what, shown = f"memory, T = {MEMORY_CONTEXT:,}", f"< 1/{MEMORY_BAR}"
    if "hf" not in of or "fp32" not in of:
        return [*measured_bars, Bar(what, shown, "–", "not measured", None)]
    times = of["hf"].peak / of["fp32"].peak
    return [*measured_bars, Bar(what, shown, f"1/{times:.2f}", "fp32 over hf", times > MEMORY_BAR)]


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
        [bar.what, bar.aim, bar.figure, page.verdict(bar.reached), bar.of] for bar in bars(results, bf16=bool(bf16))
    ]
    parts = [
        "# Training throughput on a CPU",
        *setting,
        bf16_line(bf16),
        *([] if peers else [NO_PEERS]),
        "## Bars",
        "Speeds beside the best peer's fp32, memory beside Hugging Face's.",
        page.table(["", "bar", "measured", "", "of"], verdicts),
        *_speeds(results, peers, ours),
        *_ratios(results, peers, ours),
        *_utilization(results, ours, flops_per_token),
        *_memory(results, peers, ours),
        *_compilation(results, ours),
    ]
    return "\n\n".join(parts)


def bf16_instructions(cpu_info: str) -> list[str]:
    """Those for bf16 arithmetic that Linux lists."""
    return sorted(set(re.findall(r"\b(?:avx512_bf16|amx_bf16)\b", cpu_info)))


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
    rows = []
    for name in ours:
        cells = []
        for context, of in results.items():
            product = of[f"product {name.split()[0]}"]
            rate = product.facts["flops"] / product.seconds
            used = flops_per_token[context] * of[name].tokens_per_second
            cells.append(f"{used / rate:.0%} of {rate / 1e9:,.0f}")
        rows.append([f"lab, {name}", *cells])
    head = "## Share of the rate of a matrix product (GFLOP/s, 2,048³, same run)"
    note = "FLOPs of the model itself, without what is computed twice."
    return [head, note, page.table(["", *results], rows)]


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
