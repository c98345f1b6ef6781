"""Training speed and memory compared with other libraries on a CPU: forward, loss and backward of a Gemma-2-like shape.

make peers && python benchmarks/train_throughput.py
python benchmarks/train_throughput.py --shapes 512x8 --repeats 2 --out -

The peers are in a separate environment with the lab's torch. `make peers` creates it; --peers-python names another.
Every contender is a separate process. They take their steps in turn, and the fastest step of each counts. On a machine
that others use too, `--threads 1 --clock cpu` compares processor time. The results are in
benchmarks/train_throughput.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import page
from train_lab import CONTENDERS, PRODUCTS, SHAPE
from train_throughput_page import NO_PEERS, ONEDNN, PEERS, SIZES, Measured, bars, report

from components.onednn import onednn_is_faster
from lab.accounting.costs import costs

HERE = Path(__file__).resolve().parent
PEERS_PYTHON = HERE.parent / "build" / "peers" / "bin" / "python"
"""Where `make peers` installs them."""


class Contender:
    """A process that takes a step on request."""

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
        answer: dict[str, Any] = json.loads(line)
        return answer


@click.command(context_settings={"show_default": True})
@click.option(
    "--peers-python",
    type=click.Path(exists=True, dir_okay=False),
    default=lambda: str(PEERS_PYTHON) if PEERS_PYTHON.exists() else None,
    show_default="build/peers/bin/python, if it's there",
    help="Python of the peers' environment.",
)
@click.option("--peers", default=",".join(PEERS), type=page.Words(PEERS), help="Which of them.")
@click.option("--shapes", default=",".join(f"{t}x{b}" for t, b in SIZES.items()), help="Context x batch.")
@click.option("--repeats", default=5, help="Steps of each contender, after one to warm up.")
@click.option("--minutes", default=3.0, help="After which a context has no more than two steps.")
@click.option("--threads", default=2, help="CPU threads of each.")
@click.option(
    "--without", type=page.Words(CONTENDERS), help="Contenders of the lab to leave out, such as 'bf16,bf16 compiled'."
)
@page.clock_option
@page.out_option(__file__)
def main(
    peers_python: str | None,
    peers: list[str],
    shapes: str,
    repeats: int,
    minutes: float,
    threads: int,
    without: list[str] | None,
    clock: str,
    out: str,
) -> None:
    """Measure all, keep the page, and end with exit code 1 where a bar is missed."""
    sizes = _sizes(shapes)
    names, ours = peers, [name for name in CONTENDERS if name not in (without or ())]
    if peers_python is None:
        names = []
        click.echo(NO_PEERS, err=True)
    precisions = {name.split()[0] for name in ours}
    labs = [*ours, *(name for name in PRODUCTS if name.split()[1] in precisions)]
    labs += [ONEDNN] if "fp32" in precisions and onednn_is_faster() else []
    results = {}
    for context, batch in sizes.items():
        common = ["--context", str(context), "--batch", str(batch), "--threads", str(threads), "--clock", clock]
        commands = {name: [str(peers_python), str(HERE / "train_peers.py"), name, *common] for name in names}
        commands |= {name: [sys.executable, str(HERE / "train_lab.py"), name, *common] for name in labs}
        results[context] = in_turn(commands, repeats, 60 * minutes, context, batch)
    instructions = page.bf16_instructions(page.cpu_info())
    flops_per_token = {context: costs(SHAPE, context).flops_per_token for context in sizes}
    text = report(
        results,
        flops_per_token=flops_per_token,
        setting=[
            f"{page.command(__file__)}: the best of {repeats} steps, or of two or more in {minutes:g} minutes.",
            page.machine(threads, clock),
        ],
        bf16=instructions,
    )
    page.keep(text, out)
    held = bars(results, flops_per_token=flops_per_token, bf16=bool(instructions))
    sys.exit(page.exit_code(bar.reached for bar in held))


def in_turn(
    commands: dict[str, list[str]], repeats: int, seconds: float, context: int, batch: int
) -> dict[str, Measured]:
    """Every contender's best of `repeats` rounds, or of as many as there is time for, two at least."""
    contenders = []
    for name, command in commands.items():
        click.echo(f"{context:,} tokens: {name} starts", err=True)
        contenders.append(Contender(name, command))
    end = time.monotonic() + seconds
    for done in range(repeats):
        if done >= 2 and time.monotonic() > end:
            break
        click.echo(f"{context:,} tokens: round {done + 1} of {repeats}", err=True)
        for contender in contenders:
            contender.step()
    for contender in contenders:
        contender.end()
    return {
        c.name: Measured(batch, batch * context / min(c.seconds), min(c.seconds), c.first, c.peak, c.facts)
        for c in contenders
    }


def _sizes(shapes: str) -> dict[int, int]:
    """Sequences by context."""
    try:
        return {int(context): int(batch) for context, batch in (shape.split("x") for shape in shapes.split(","))}
    except ValueError:
        raise click.BadParameter(f"expected such as 512x8,1024x4, got '{shapes}'", param_hint="--shapes") from None


if __name__ == "__main__":
    main()
