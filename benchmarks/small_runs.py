"""What a sweep of small runs costs beyond its training: whole processes, from `lab submit` to the verdict.

python benchmarks/small_runs.py                             # 24 runs of 120k tokens, two at a time, here and on SLURM
python benchmarks/small_runs.py --launchers local --beside ../earlier-checkout
python benchmarks/small_runs.py --seeds 1 --tokens 8k --out -

The share that is not training is (whole - training) / whole, in processor seconds. Whole: user and system time of
every process; `lab submit` with its workers and `lab compare` by getrusage, the processes of jobs by their own records.
Training: the phase `training` in the runs' records: forward and backward passes, the optimizer, and Lightning's loop.
Validation, checkpoints and evaluations are not training. The results are in benchmarks/small_runs.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import page
import yaml

from tests.slurm.cluster import Cluster

SCRIPT = Path(__file__).resolve()
SWEEP = "small_runs"
WORKERS = 2
BAR = 0.10
"""The largest share that may not be training."""


@dataclass(frozen=True)
class Launch:
    """How the runs are launched: a name for the page, options of `lab submit`, and whether they are SLURM's."""

    name: str
    options: tuple[str, ...]
    is_slurm: bool = False


PACKED = ("launcher.runs_per_job=auto", f"launcher.cpus_per_task={WORKERS}", f"launcher.side_by_side={WORKERS}")
LAUNCHES = {
    "local": Launch("this machine", ("--on", "local", "--max-parallel", str(WORKERS))),
    "slurm": Launch("SLURM, `runs_per_job: auto`, `side_by_side: 2`", ("--on", "slurm", *PACKED), True),
    "slurm-alone": Launch("SLURM, one run a job", ("--on", "slurm", "launcher.runs_per_job=1"), True),
}


@dataclass(frozen=True)
class Result:
    """Processor seconds of a sweep, and its parts as `lab status --seconds --json` has them; None if it has none."""

    whole: float
    training: float
    parts: dict[str, Any] | None

    @property
    def share(self) -> float:
        return 1 - self.training / self.whole


@click.command(context_settings={"show_default": True})
@click.option("--seeds", default=6, help="Seeds of each of the four arms.")
@click.option("--tokens", default="120k", help="Tokens of each run.")
@click.option("--launchers", default="local,slurm", help=f"Some of {','.join(LAUNCHES)}, separated by commas.")
@click.option("--beside", type=click.Path(exists=True, file_okay=False), help="Also measure the lab of this checkout.")
@page.out_option(__file__)
def main(seeds: int, tokens: str, launchers: str, beside: str | None, out: str) -> None:
    """Measure, write the page, and end with exit code 1 if more than the bar is not training."""
    unknown = set(launchers.split(",")) - set(LAUNCHES)
    if unknown:
        raise click.BadParameter(f"{', '.join(sorted(unknown))}: expected some of {', '.join(LAUNCHES)}")
    chosen = [LAUNCHES[name] for name in launchers.split(",")]
    if shutil.which("slurmctld") is None and any(launch.is_slurm for launch in chosen):
        click.echo("No SLURM here: not measured on it", err=True)
        chosen = [launch for launch in chosen if not launch.is_slurm]
    checkouts = {"this checkout": SCRIPT.parent.parent}
    if beside is not None:
        checkouts = {"the checkout beside it": Path(beside).resolve()} | checkouts
    results: dict[tuple[str, str], Result] = {}
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(Cluster.start()) if any(launch.is_slurm for launch in chosen) else None
        for launch in chosen:
            for name, checkout in checkouts.items():
                with tempfile.TemporaryDirectory(prefix="lab-bench-") as folder:
                    results[launch.name, name] = measure(Path(folder), checkout, launch, cluster, seeds, tokens)
    is_default = page.at_defaults("seeds", "tokens")
    page.keep(written(results, seeds, tokens, is_default), out)
    own = [result for (_, name), result in results.items() if name == "this checkout"]
    sys.exit(page.exit_code([result.share <= BAR if is_default else None for result in own]))


def measure(folder: Path, checkout: Path, launch: Launch, cluster: Cluster | None, seeds: int, tokens: str) -> Result:
    """Run the sweep of a checkout from submission to verdict in a folder of its own."""
    write(folder, seeds, tokens)
    environment = {
        **(cluster.environment() if cluster is not None else os.environ),
        "PYTHONPATH": str(checkout),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "LAB_CACHE": str(folder / "cache"),
    }

    def lab(*arguments: str) -> str:
        command = [sys.executable, "-m", "lab.cli.main", *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise click.ClickException(f"lab {' '.join(arguments)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    lab(
        "train", "gemma2_tiny", *settings("4k"), "seed=1000", "--threads", "1"
    )  # tokenizes the text, which is done once a machine
    with processor_seconds() as spent:
        output = lab("submit", SWEEP, *launch.options, *(["launcher.array_parallelism=2"] if launch.is_slurm else []))
    click.echo(output[-500:], err=True)
    states = wait(folder, 4 * seeds)
    with processor_seconds() as compared:
        click.echo(lab("compare", SWEEP), err=True)
    whole, parts = spent[0] + compared[0], None
    with contextlib.suppress(click.ClickException):  # an earlier lab has no such option
        parts = json.loads(lab("status", SWEEP, "--seconds", "--json"))
    if launch.is_slurm:
        if parts is None:
            raise click.ClickException("this lab doesn't record the seconds of jobs")
        whole += sum(part["cpu_seconds"] for part in parts["parts"] if not part["name"].startswith("submit "))
    return Result(whole, sum(state["cpu_seconds"]["training"] for state in states), parts)


@contextlib.contextmanager
def processor_seconds() -> Iterator[list[float]]:
    """Measure the user and system time of the child processes that end inside; the list has it afterwards."""
    before, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), list[float]()
    yield seconds
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def wait(folder: Path, runs: int) -> list[Mapping[str, Any]]:
    """Wait until all runs have finished, at their first attempt, and return their states."""
    while True:
        paths = folder.glob(f"runs/{SWEEP}/*/seed-*/state.json")
        states = [json.loads(path.read_text()) for path in paths]
        failed = [state for state in states if state["status"] not in ("queued", "running", "finished")]
        if failed:
            raise click.ClickException(f"a run is {failed[0]['status']}: {failed[0]['reason']}")
        if sum(state["status"] == "finished" for state in states) == runs:
            return states
        time.sleep(5)


def settings(tokens: str) -> list[str]:
    """The overrides of the demo's sweep."""
    return [
        f"train.tokens={tokens}", "train.context=128", "train.global_batch=8", "train.accelerator=cpu",
        "validation.tokens=16k", "validation.every=null", "schedule.warmup_tokens=1k",
    ]  # fmt: skip


def write(folder: Path, seeds: int, tokens: str) -> None:
    """The sweep: the demo's arms."""
    (folder / "sweeps").mkdir()
    demo = yaml.safe_load((SCRIPT.parent.parent / "sweeps" / "demo.yaml").read_text())
    demo["seeds"] = seeds
    demo["overrides"]["train"] |= {"tokens": tokens, "accelerator": "cpu"}
    demo["overrides"]["schedule.warmup_tokens"] = "1k"
    (folder / "sweeps" / f"{SWEEP}.yaml").write_text(yaml.safe_dump(demo, sort_keys=False))


def written(results: Mapping[tuple[str, str], Result], seeds: int, tokens: str, is_default: bool) -> str:
    """The page."""
    rows = []
    for (launch, checkout), result in results.items():
        is_barred = is_default and checkout == "this checkout"
        bar = [f"≤ {BAR:.0%}", page.verdict(result.share <= BAR)] if is_barred else ["", ""]
        rows.append([launch, checkout, f"{result.whole:.1f}", f"{result.training:.1f}", f"{result.share:.1%}", *bar])
    lines = [
        f"# {4 * seeds} runs of {tokens} tokens, from submission to verdict",
        "",
        f"{page.command(__file__)}: the demo's four arms with {seeds} seeds, {WORKERS} runs at a time, one thread "
        "each, in processor seconds.",
        "",
        page.machine(clock="cpu"),
        "",
        page.table(["launched on", "lab", "whole", "training", "not training", "bar", ""], rows),
        "",
        "Whole: user and system time of every process; `lab submit` with its workers and `lab compare` by getrusage, "
        "the processes of jobs by their own records. Training: forward and backward passes, the optimizer, and "
        "Lightning's loop. The text was tokenized before.",
    ]
    for (launch, checkout), result in results.items():
        if result.parts is not None:
            parts = [
                [part["name"], f"{part['cpu_seconds']:.1f}", f"{part['cpu_seconds'] / result.whole:.1%}"]
                for part in result.parts["parts"]
                if part["cpu_seconds"] / result.whole >= 0.0005
            ]
            rest = result.whole - sum(part["cpu_seconds"] for part in result.parts["parts"])
            parts.append(["`lab compare`, and what no process recorded", f"{rest:.1f}", f"{rest / result.whole:.1%}"])
            head = [f"{launch}, {checkout}", "processor seconds", "of the whole"]
            lines += ["", page.table(head, parts)]
    lines += ["", "The parts are those of `lab status SWEEP --seconds`; docs/runs.md explains them."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
