"""The cost of a run on SLURM beyond its training: tiny runs, many in a job, on a real cluster on this machine.

python benchmarks/slurm.py                          # 300 runs, 50 a job
python benchmarks/slurm.py --runs 20 --per-job 10 --out -

The cluster is the tests' own: slurmctld, slurmdbd and slurmd, on loopback. As many jobs run at the same time as the
machine has cores. The results are in benchmarks/slurm.md.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import page
import yaml

from tests.slurm.cluster import Cluster

SCRIPT = Path(__file__).resolve()
BAR = 0.5
"""Seconds that a run may take beyond its training."""


@click.command(context_settings={"show_default": True})
@click.option("--runs", default=300, help="Runs of the sweep.")
@click.option("--per-job", default=50, help="Runs in a job.")
@page.out_option(__file__)
def main(runs: int, per_job: int, out: str) -> None:
    """Measure, write the page, and end with exit code 1 if a run takes longer than the bar."""
    with tempfile.TemporaryDirectory(prefix="lab-bench-") as folder, Cluster.start() as cluster:
        results = measure(Path(folder), cluster, runs, per_job)
    reached = results["overhead"] <= BAR if page.at_defaults("runs", "per_job") else None
    lines = [
        f"# {runs} runs on SLURM, {per_job} a job",
        "",
        f"{page.command(__file__)}: {results['version']} on this machine, {results['jobs']} jobs, "
        f"{results['parallel']} at a time, each with one thread. All runs finished at their first attempt.",
        "",
        page.machine(),
        "",
        costs_table(results, reached),
        "",
        "The rest is the job's and the worker's start and the import of torch, shared by the runs of a job, and each "
        "run's own model, data, validation, checkpoint, TensorBoard file and summary.",
    ]
    page.keep("\n".join(lines), out)
    sys.exit(page.exit_code([reached]))


def measure(folder: Path, cluster: Cluster, runs: int, per_job: int) -> dict[str, Any]:
    """Submit the sweep, wait for it, and read the times from the runs and from Slurm's accounting."""
    write(folder, runs)
    environment = {
        **cluster.environment(),
        "PYTHONPATH": str(SCRIPT.parent.parent),
        "XDG_CONFIG_HOME": str(folder / "config"),
    }
    parallel = os.cpu_count() or 1

    def lab(*arguments: str) -> tuple[str, float]:
        began = time.perf_counter()
        command = [sys.executable, "-m", "lab.cli.main", *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise click.ClickException(f"lab {' '.join(arguments)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout, time.perf_counter() - began

    lab("train", "bench")  # tokenizes the text, which is done once a machine
    options = [f"launcher.runs_per_job={per_job}", f"launcher.array_parallelism={parallel}"]
    output, submit = lab("submit", "packed", "--on", "slurm", *options)
    click.echo(output, err=True)
    began = time.perf_counter()
    while (counts := json.loads(lab("status", "packed", "--json")[0])["counts"]).get("finished") != runs:
        click.echo(f"{time.perf_counter() - began:.0f} s: {counts}", err=True)
        if set(counts) - {"queued", "running", "finished"}:
            raise click.ClickException(f"some runs did not finish: {counts}")
        time.sleep(10)
    array = re.search(r"(?:array|job) (\d+)", output)
    assert array is not None
    jobs = -(-runs // per_job)
    accounted = {}
    while len(accounted) < jobs:  # seconds behind
        rows = cluster.sacct("--allocations", "--jobs", array[1], fields="JobID,State,ElapsedRaw")
        accounted = {row["JobID"]: int(row["ElapsedRaw"]) for row in rows if row["State"] == "COMPLETED"}
        time.sleep(1)
    again, repeat = lab("submit", "packed", "--on", "slurm")
    if "nothing to do" not in again:
        raise click.ClickException(again)
    folders = sorted((folder / "runs" / "packed").glob("*/seed-*"))
    summaries = [json.loads((run_folder / "summary.json").read_text()) for run_folder in folders]
    training = [summary["costs"]["seconds"] for summary in summaries]
    attempts = {json.loads((run_folder / "state.json").read_text())["attempts"] for run_folder in folders}
    if len(folders) != runs or attempts != {1}:
        raise click.ClickException(f"{len(folders)} runs, with {attempts} attempts")
    total = sum(accounted.values())
    return {
        "version": cluster.run("sinfo", "--version").stdout.strip(),
        "submit": submit,
        "repeat": repeat,
        "jobs": jobs,
        "parallel": parallel,
        "job_seconds": total / jobs,
        "run": total / runs,
        "training": statistics.fmean(training),
        "overhead": total / runs - statistics.fmean(training),
    }


def write(folder: Path, runs: int) -> None:
    """Write a text, an experiment that trains for about a second, and the sweep."""
    for name in ("experiments", "sweeps"):
        (folder / name).mkdir()
    text = folder / "text.jsonl"
    text.write_text("\n".join(json.dumps({"text": f"The square of {n} is {n * n}. " * 4}) for n in range(300)))
    experiment = {
        "defaults": ["gemma2_tiny", {"override data/corpus": "files"}, "_self_"],
        "model": {"n_layers": 2, "d_model": 64, "mlp": {"d_ff": 128}},
        "train": {"tokens": 32768, "context": 128, "global_batch": 8, "accelerator": "cpu"},
        "validation": {"every": None, "tokens": 1024},
        "schedule": {"warmup_tokens": 2048},
        "data": {"corpus": {"paths": [str(text)]}},
    }
    (folder / "experiments" / "bench.yaml").write_text(yaml.safe_dump(experiment, sort_keys=False))
    sweep = {
        "question": "What does a run cost beyond its training?",
        "experiment": "bench",
        "seeds": list(range(1, runs // 2 + 1)),  # 0 is what tokenizes the text
        "arms": {"gqa": {}, "mha": {"model/heads": "mha"}},
    }
    (folder / "sweeps" / "packed.yaml").write_text(yaml.safe_dump(sweep, sort_keys=False))


def costs_table(results: dict[str, Any], reached: bool | None) -> str:
    """A table of the seconds by phase. The bar applies to the row of the rest."""
    rows = [
        ["`lab submit --on slurm`, its start included", f"{results['submit']:.1f}", "", ""],
        ["a job, of Slurm's accounting", f"{results['job_seconds']:.1f}", "", ""],
        ["a run's share of its job", f"{results['run']:.2f}", "", ""],
        ["of that, steps of training", f"{results['training']:.2f}", "", ""],
        ["the rest", f"{results['overhead']:.2f}", f"≤ {BAR}", page.verdict(reached)],
        ["`lab submit` again, nothing to do", f"{results['repeat']:.1f}", "", ""],
    ]
    return page.table(["", "seconds", "bar", ""], rows)


if __name__ == "__main__":
    main()
