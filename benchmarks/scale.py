"""Seconds and peak memory of the commands on a large sweep: plan, status, compare, submit again.

python benchmarks/scale.py                          # 10,000 runs, in two shapes
python benchmarks/scale.py --runs 1000 --out -      # smaller, and nothing written

Each command is a separate process, timed from its start to its end. The runs are made up: finished, with all files of a
worker. The results are in benchmarks/scale.md.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import page
import yaml

LAB = (sys.executable, "-m", "lab.cli.main")
SCRIPT = Path(__file__).resolve()


@dataclass(frozen=True)
class Limit:
    """The limits of a command at 10,000 runs."""

    seconds: float
    megabytes: float | None = None


@dataclass(frozen=True)
class Measurement:
    """The measurement of one command on one sweep."""

    sweep: str
    command: str
    seconds: float
    megabytes: float
    limit: Limit | None

    @property
    def is_within_limit(self) -> bool | None:
        """Whether it stays within its limit; None without a limit."""
        limit = self.limit
        if limit is None:
            return None
        return self.seconds <= limit.seconds and (limit.megabytes is None or self.megabytes <= limit.megabytes)


@click.command(context_settings={"show_default": True})
@click.option("--runs", default=10_000, help="Runs of each sweep; a multiple of 200, at least 400.")
@page.out_option(__file__)
@click.option("--make", "made", hidden=True, help="Make the finished runs of a sweep. Used by this script itself.")
def main(runs: int, out: str, made: str | None) -> None:
    """Measure, write the page, and end with exit code 1 if a limit is exceeded."""
    if made is not None:
        make_finished(made, Path("runs"))
        return
    if runs % 200 or runs < 400:
        raise click.BadParameter("expected a multiple of 200, at least 400", param_hint="--runs")
    with tempfile.TemporaryDirectory(prefix="lab-scale-") as folder:
        results = [result for name, sweep in sweeps(runs).items() for result in measure(Path(folder), name, sweep)]
    counts = page.at_defaults("runs")
    lines = [
        f"# Commands on {runs:,} runs",
        "",
        f"{page.command(__file__)}: each command is a separate process, timed with its start; memory is its peak "
        "resident set. Limits are for 10,000 runs.",
        "",
        f"`five_seeds`: {runs // 5:,} arms × 5 seeds, 4 choices of groups, 40 architectures. "
        f"`one_seed`: {runs:,} arms, {runs // 10:,} architectures.",
        "",
        page.machine(),
        "",
        limits_table(results, counts),
    ]
    page.keep("\n".join(lines), out)
    sys.exit(page.exit_code(result.is_within_limit for result in results if counts))


def sweeps(runs: int) -> dict[str, dict[str, object]]:
    """Two sweeps of this many runs: one with seeds and four choices of groups, and one with many architectures."""
    rates = [round(0.0001 * (n + 1), 4) for n in range(runs // 200)]
    with_seeds = {
        "model/heads": ["gqa", "mha"],
        "model/span": ["interleaved", "global"],
        "model.mlp.d_ff": list(range(64, 64 + 10 * 32, 32)),
        "optimizer.lr": rates,
    }
    one_seed = {
        "model.mlp.d_ff": list(range(64, 64 + runs // 100 * 8, 8)),
        "model.span.window": list(range(8, 48, 4)),
        "optimizer.lr": [round(0.001 * (n + 1), 3) for n in range(10)],
    }
    common = {"question": "How long does it take?", "experiment": "gemma2_tiny", "metrics": ["val/loss"]}
    return {
        "five_seeds": common | {"seeds": 5, "grid": with_seeds},
        "one_seed": common | {"seeds": 1, "grid": one_seed},
    }


def measure(folder: Path, name: str, sweep: dict[str, object]) -> list[Measurement]:
    """Measure every command on one sweep, in the order in which a user would run them."""
    (folder / "sweeps").mkdir(exist_ok=True)
    (folder / "sweeps" / f"{name}.yaml").write_text(yaml.safe_dump(sweep, sort_keys=False))
    timed = partial(time_command, folder, name)
    results = [timed("lab plan", ["plan", name], Limit(30, 1000))]
    run([sys.executable, str(SCRIPT), "--make", name], folder)
    results += [
        timed("lab plan, all finished", ["plan", name], Limit(30, 1000)),
        timed("lab plan --save", ["plan", name, "--save", f"{name}.json"]),
        timed("lab status", ["status", name], Limit(5)),
        timed("lab compare", ["compare", name], Limit(5)),
        timed("lab submit, nothing to do", ["submit", name], Limit(30)),
        timed("lab submit plan.json, nothing to do", ["submit", f"{name}.json"]),
    ]
    return results


def time_command(
    folder: Path, sweep: str, title: str, arguments: Sequence[str], limit: Limit | None = None
) -> Measurement:
    """Time a command of the lab on the runs in a folder, and print the result."""
    seconds, megabytes = run([*LAB, *arguments, "--root", "runs"], folder)
    click.echo(f"{sweep}: {title}: {seconds:.1f} s, {megabytes:.0f} MB", err=True)
    return Measurement(sweep, title, seconds, megabytes, limit)


def run(command: Sequence[str], folder: Path) -> tuple[float, float]:
    """Seconds and peak resident megabytes of a command.

    Raises:
        click.ClickException: it failed; the message has its output.
    """
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, env=environment())
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            output.seek(0)
            raise click.ClickException(f"{' '.join(command)}: {output.read().decode(errors='replace')[-2000:]}")
    return seconds, usage.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)


def environment() -> dict[str, str]:
    """This process's environment, with the lab importable from any folder."""
    return {**os.environ, "PYTHONPATH": str(SCRIPT.parent.parent)}


def make_finished(name: str, root: Path) -> None:
    """Make the folders of all runs of a sweep as a worker leaves them when they are finished, and the plan."""
    from lab.dispatch.worker.process import Process
    from lab.planning.plan.build import plan_sweep
    from lab.planning.plan.store import save_plan
    from lab.records import State

    plan = plan_sweep(name)
    save_plan(plan, root)
    me, now = Process.this(), time.time()
    claim = {"host": me.host, "pid": me.pid, "mark": me.mark, "taken": now, "released": now}
    for number, planned in enumerate(plan.runs):
        steps, tokens = planned.experiment.train.steps, planned.tokens
        loss = 3.0 + (number * 7919 % 1000) / 5000
        point = {"step": steps, "tokens": tokens, "time": 60.0, "val/loss": loss}
        provenance = {"host": me.host, "device": "cpu", "threads": 1, "python": platform.python_version()}
        state = State(
            status="finished",
            attempts=1,
            heartbeat=now,
            host=me.host,
            pid=me.pid,
            progress={"step": steps, "steps": steps, "tokens": tokens, "loss": loss, "tokens_per_second": 34_500.0},
        )
        summary = {
            "version": 1,
            "status": "finished",
            "reason": None,
            "metrics": {"val/loss": loss, "unigram/loss": 5.5},
            "costs": {"tokens": tokens, "steps": steps, "seconds": 60.0, "tokens_per_second": 34_500.0},
        }
        path = root / planned.folder_name
        (path / ".claims").mkdir(parents=True)
        (path / "config.yaml").write_text(planned.config_yaml)
        (path / "run.json").write_text(json.dumps(planned.record.as_json() | {"provenance": provenance}, indent=1))
        (path / "state.json").write_text(json.dumps({"version": 1, **vars(state)}, indent=1))
        (path / "summary.json").write_text(json.dumps(summary, indent=1))
        (path / "metrics.jsonl").write_text("".join(json.dumps(point | {"step": n}) + "\n" for n in range(10)))
        (path / ".claims" / "1").write_text(json.dumps(claim))


def limits_table(results: Sequence[Measurement], counts: bool) -> str:
    """A table with one row per command.

    Args:
        results: the measurements.
        counts: whether the limits apply to this number of runs.
    """
    rows = []
    for row in results:
        seconds = f"{row.limit.seconds:g}" if row.limit else ""
        megabytes = f"{row.limit.megabytes:g}" if row.limit and row.limit.megabytes else ""
        peak = "" if math.isnan(row.megabytes) else f"{row.megabytes:.0f}"
        figures = [f"{row.seconds:.1f}", seconds, peak, megabytes]
        rows.append([row.sweep, f"`{row.command}`", *figures, page.verdict(row.is_within_limit if counts else None)])
    return page.table(["sweep", "command", "seconds", "limit", "MB", "limit", ""], rows)


if __name__ == "__main__":
    main()
