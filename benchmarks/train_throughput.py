"""Training speed and memory beside other libraries, on one Gemma-2-like shape, on a CPU: forward, loss and backward.

python benchmarks/train_throughput.py --peers-python /path/to/venv/bin/python --write

The peers live in an environment of their own: `pip install transformers litgpt x-transformers`, with the lab's torch.
Every contender is a process of its own, and they take their steps in turn; the fastest step of each counts. On a
machine that others use too, `--threads 1 --clock cpu` compares processor time. --write keeps the tables in
train_throughput.md.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from train_lab import CONTENDERS, PRODUCTS, SHAPE

from lab.accounting.costs import costs

HERE = Path(__file__).parent
PEERS = ("hf", "litgpt", "xtransformers")
BARS = {
    "fp32": {512: 1.3, 1024: 2.1, 2048: 4.0, 4096: 7.0},
    "bf16": {512: 2.7, 4096: 12.0},
}
"""How many times the best peer's fp32 speed is aimed at, at least: whichever of compiled and not is faster."""
MEMORY_BAR = 1 / 5


class Contender:
    """A process that takes a step when it is told to."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        answer = self._answer()
        self.first: float = answer["first"]
        self.facts: dict[str, Any] = answer["facts"]
        self.seconds: list[float] = []
        self.peak: int = answer["peak"]

    def step(self) -> None:
        """Take one, and note how long it took."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = self._answer()
        self.seconds.append(answer["seconds"])
        self.peak = answer["peak"]

    def end(self) -> None:
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise click.ClickException(f"{self.name} ended: {self._process.communicate()[1].strip()[-500:]}")
        found: dict[str, Any] = json.loads(line)
        return found


@dataclass(frozen=True)
class Measured:
    """What one contender did at one context. `seconds` are of its fastest step."""

    tokens_per_second: float
    seconds: float
    first: float
    peak: int
    facts: dict[str, Any]


Results = dict[int, dict[str, Measured]]


@click.command(context_settings={"show_default": True})
@click.option("--peers-python", type=click.Path(exists=True, dir_okay=False), help="Python of the peers' environment.")
@click.option("--peers", default=",".join(PEERS), help="Which of them.")
@click.option("--shapes", default="512x8,1024x4,2048x2,4096x1", help="Context x batch.")
@click.option("--repeats", default=5, help="Steps of each contender, after one to warm up.")
@click.option("--threads", default=2, help="CPU threads of each.")
@click.option("--clock", type=click.Choice(["wall", "cpu"]), default="wall", help="Time on the wall, or of processors.")
@click.option("--without", default="", help="Contenders of the lab to leave out, such as 'bf16,bf16 compiled'.")
@click.option("--write", is_flag=True, help="Write train_throughput.md.")
def main(
    peers_python: str | None, peers: str, shapes: str, repeats: int, threads: int, clock: str, without: str, write: bool
) -> None:
    """Measure all, print the tables."""
    names = peers.split(",") if peers_python else []
    ours = [name for name in CONTENDERS if name not in without.split(",")]
    results: Results = {}
    for shape in shapes.split(","):
        context, batch = map(int, shape.split("x"))
        common = ["--context", str(context), "--batch", str(batch), "--threads", str(threads), "--clock", clock]
        commands = {name: [str(peers_python), str(HERE / "train_peers.py"), name, *common] for name in names}
        commands |= {
            name: [sys.executable, str(HERE / "train_lab.py"), name, *common]
            for name in (*ours, *(p for p in PRODUCTS if p.split()[1] in {name.split()[0] for name in ours}))
        }
        results[context] = in_turn(commands, repeats, context * batch)
    text = report(results, names, ours, threads=threads, clock=clock, repeats=repeats)
    click.echo(text)
    if write:
        (HERE / "train_throughput.md").write_text(text + "\n", encoding="utf-8")


def in_turn(commands: dict[str, list[str]], repeats: int, tokens: int) -> dict[str, Measured]:
    """Every contender's best of `repeats` rounds."""
    contenders = [Contender(name, command) for name, command in commands.items()]
    for _ in range(repeats):
        for contender in contenders:
            contender.step()
    for contender in contenders:
        contender.end()
    return {c.name: Measured(tokens / min(c.seconds), min(c.seconds), c.first, c.peak, c.facts) for c in contenders}


def report(
    results: Results, peers: Sequence[str], ours: Sequence[str], *, threads: int, clock: str, repeats: int
) -> str:
    """The tables in Markdown."""
    load = os.getloadavg()[0]
    parts = [
        "# Training throughput on a CPU",
        "",
        f"`python benchmarks/train_throughput.py {' '.join(_shown(sys.argv[1:]))}`",
        "",
        f"{datetime.date.today()}, {_processor()}, {os.cpu_count()} cores, {threads} thread{'s' * (threads > 1)}, "
        f"{clock} time, best of {repeats}, load {load:.1f} at the end. "
        f"Python {platform.python_version()}, torch {torch.__version__}.",
        _bf16_here(),
        "",
        *_speeds(results, peers, ours),
        *_ratios(results, peers, ours),
        *_utilization(results, ours),
        *_memory(results, peers, ours),
        *_compilation(results, ours),
    ]
    return "\n".join(parts)


def _speeds(results: Results, peers: Sequence[str], ours: Sequence[str]) -> list[str]:
    rows = [[f"`{name}`", *(f"{of[name].tokens_per_second:,.0f}" for of in results.values())] for name in peers]
    rows += [[f"lab, {name}", *(f"{of[name].tokens_per_second:,.0f}" for of in results.values())] for name in ours]
    some = next(iter(results.values()))
    note = [f"{name}: {some[name].facts['versions']}." for name in peers]
    if not peers:
        note = ["No peers were measured: no --peers-python was given."]
    return ["## Tokens a second, forward and backward", "", *_table(["", *map(str, results)], rows), "", *note, ""]


def _ratios(results: Results, peers: Sequence[str], ours: Sequence[str]) -> list[str]:
    if not peers:
        return []
    rows = []
    for precision, bars in BARS.items():
        mine = [name for name in ours if name.split()[0] == precision]
        for name in mine:
            rows.append([f"lab, {name}", *(_times(of, name, peers) for of in results.values())])
        if mine:
            rows.append([f"aim, {precision}", *(f"{bars[c]:g}×" if c in bars else "" for c in results)])
    return ["## Times the best peer's fp32", "", *_table(["", *map(str, results)], rows), ""]


def _times(of: dict[str, Measured], name: str, peers: Sequence[str]) -> str:
    return f"{of[name].tokens_per_second / max(of[peer].tokens_per_second for peer in peers):.2f}×"


def _utilization(results: Results, ours: Sequence[str]) -> list[str]:
    rows = []
    for name in ours:
        cells = []
        for context, of in results.items():
            product = of[f"product {name.split()[0]}"]
            rate = product.facts["flops"] / product.seconds
            used = costs(SHAPE, context).flops_per_token * of[name].tokens_per_second
            cells.append(f"{used / rate:.0%} of {rate / 1e9:,.0f}")
        rows.append([f"lab, {name}", *cells])
    head = "## Share of the rate of a matrix product (GFLOP/s, 2,048³, same run)"
    note = "FLOPs of the model itself, without what is computed twice."
    return [head, "", note, "", *_table(["", *map(str, results)], rows), ""]


def _memory(results: Results, peers: Sequence[str], ours: Sequence[str]) -> list[str]:
    if "hf" not in peers:
        return []
    names = ["hf", *ours]
    rows = [[name, *(f"{of[name].peak / 2**20:,.0f}" for of in results.values())] for name in names]
    rows += [[f"{name} / hf", *(f"1/{of['hf'].peak / of[name].peak:.1f}" for of in results.values())] for name in ours]
    head = f"## Peak memory of the process, MiB (aim at 4,096: under 1/{1 / MEMORY_BAR:.0f} of Hugging Face's)"
    return [head, "", *_table(["", *map(str, results)], rows), ""]


def _compilation(results: Results, ours: Sequence[str]) -> list[str]:
    rows = [[name, *(f"{of[name].first:.1f}" for of in results.values())] for name in ours if name.endswith("compiled")]
    if not rows:
        return []
    head = "## Seconds of the first step, compilation in it"
    note = "The first context compiles anew or from torch's cache on disk, as the machine has it."
    return [head, "", *_table(["", *map(str, results)], rows), "", note]


def _shown(arguments: list[str]) -> list[str]:
    return ["VENV/bin/python" if argument.endswith("/bin/python") else argument for argument in arguments]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def _processor() -> str:
    found = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[0] if found else platform.processor()


def _bf16_here() -> str:
    flags = set(re.findall(r"\b(?:avx512_bf16|amx_bf16)\b", Path("/proc/cpuinfo").read_text()))
    if flags:
        return f"bf16 in hardware: {', '.join(sorted(flags))}."
    return "This processor has no bf16 arithmetic (neither avx512_bf16 nor amx_bf16): its bf16 figures show emulation."


if __name__ == "__main__":
    main()
