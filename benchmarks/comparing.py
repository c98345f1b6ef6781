"""Seconds and memory of commands that show a large sweep: lab compare, lab report, and the TensorBoard view.

python benchmarks/comparing.py                                       # 1,000 runs of 1,000 points
python benchmarks/comparing.py --runs 200 --points 100 --out -       # smaller, and nothing written

Each command is a separate process, timed from its start to its end. The runs are made up: finished, with all files of a
worker, including curves and event files. The results are in benchmarks/comparing.md.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from functools import partial
from pathlib import Path

import click
import page
import yaml
from scale import LAB, Limit, Measurement, environment, limits_table, make_finished, run, time_command

SCRIPT = Path(__file__).resolve()
SWEEP = "compared"
LIMITS = {"compare": Limit(2), "report": Limit(20, 1000), "view": Limit(10), "hparams": Limit(5)}
LOADING_SECONDS = 900
"""Seconds in which TensorBoard must have read all event files."""


@click.command(context_settings={"show_default": True})
@click.option("--runs", default=1000, help="Runs of the sweep, of five seeds an arm; a multiple of 20.")
@click.option("--points", default=1000, help="Points of each run's curves.")
@page.out_option(__file__)
@click.option("--make", "made", hidden=True, is_flag=True, help="Make the finished runs. Used by this script itself.")
def main(runs: int, points: int, out: str, made: bool) -> None:
    """Measure, write the page, and end with exit code 1 if a limit is exceeded."""
    if made:
        make_finished(SWEEP, Path("runs"))
        for folder in sorted(Path("runs", SWEEP).glob("*/seed-*")):
            add_curves(folder, points)
        return
    if runs % 20:
        raise click.BadParameter("expected a multiple of 20", param_hint="--runs")
    with tempfile.TemporaryDirectory(prefix="lab-comparing-") as work:
        results, megabytes, loading = measure(Path(work), runs, points)
    counts = page.at_defaults("runs", "points")
    lines = [
        f"# Looking at {runs:,} runs of {points:,} points",
        "",
        f"{page.command(__file__)}: each command is a separate process, timed with its start; memory is its peak "
        "resident set. After an installation, the first command also compiles the modules that it imports. "
        f"{runs // 5:,} arms × 5 seeds. The report has {megabytes:.1f} MB. TensorBoard had read all "
        f"runs after {loading:.0f} s; then the HParams tab was requested.",
        "",
        page.machine(),
        "",
        limits_table(results, counts),
    ]
    page.keep("\n".join(lines), out)
    sys.exit(page.exit_code(result.is_within_limit for result in results if counts))


def measure(folder: Path, runs: int, points: int) -> tuple[list[Measurement], float, float]:
    """The measurements, the megabytes of the report, and the seconds that TensorBoard took to read all runs."""
    sweep = {
        "question": "How long does it take?",
        "experiment": "gemma2_tiny",
        "metrics": ["val/loss"],
        "seeds": 5,
        "grid": {
            "model/heads": ["gqa", "mha"],
            "model/span": ["interleaved", "global"],
            "optimizer.lr": [round(0.0001 * (n + 1), 4) for n in range(runs // 20)],
        },
    }
    (folder / "sweeps").mkdir()
    (folder / "sweeps" / f"{SWEEP}.yaml").write_text(yaml.safe_dump(sweep, sort_keys=False))
    run([sys.executable, str(SCRIPT), "--make", "--points", str(points)], folder)
    # As for a user, Python keeps the bytecode of imported modules; here in a separate folder.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")

    timed = partial(time_command, folder, SWEEP)
    results = [
        timed("lab compare, the first time", ("compare", SWEEP), None),
        timed("lab compare", ("compare", SWEEP), LIMITS["compare"]),
        timed("lab report", ("report", SWEEP, "--out", "report.html"), LIMITS["report"]),
        timed("lab tensorboard --build-only", ("tensorboard", SWEEP, "--build-only"), LIMITS["view"]),
    ]
    seconds, loading = hparams(folder, runs)
    click.echo(f"HParams tab: {seconds:.1f} s, after {loading:.0f} s of loading", err=True)
    results.append(Measurement(SWEEP, "HParams tab", seconds, math.nan, LIMITS["hparams"]))
    return results, (folder / "report.html").stat().st_size / 1e6, loading


def hparams(folder: Path, runs: int) -> tuple[float, float]:
    """The seconds in which TensorBoard answers with all sessions, and the seconds that it took to read them before."""
    command = [*LAB, "tensorboard", SWEEP, "--root", "runs"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, env=environment())
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        address = next(match[0] for line in lines if (match := re.search(r"http://[\d.:]+/", line)))
        began = time.monotonic()
        while time.monotonic() - began < LOADING_SECONDS:
            start = time.perf_counter()
            if sessions(address) == runs:
                return time.perf_counter() - start, time.monotonic() - began
            time.sleep(1)
        raise click.ClickException(f"TensorBoard had not read {runs:,} runs after {LOADING_SECONDS} s")
    finally:
        process.terminate()
        process.wait()


def sessions(address: str) -> int:
    """The number of runs that the HParams tab would show, by the request of its page."""
    query = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING", "STATUS_UNKNOWN"],
        "colParams": [],
        "startIndex": 0,
        "sliceSize": 100_000,
        "aggregationType": "AGGREGATION_AVG",
    }
    request = urllib.request.Request(
        f"{address}data/plugin/hparams/session_groups",
        json.dumps(query).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return sum(len(group["sessions"]) for group in json.load(answer).get("sessionGroups", []))


def add_curves(folder: Path, points: int) -> None:
    """Curves of a finished run in metrics.jsonl and an event file, as a worker leaves them."""
    from lab.training.progress.event_file import EventFile

    summary = json.loads((folder / "summary.json").read_text())
    steps, loss = summary["costs"]["steps"], summary["metrics"]["val/loss"]
    tokens_per_step = summary["costs"]["tokens"] // steps
    events, lines = EventFile(folder, 0), []
    for number in range(1, points + 1):
        train = loss + 2 * math.exp(-8 * number / points)
        values = {"train/loss": train, "train/lr": 1e-3, "train/grad_norm": 1.0, "train/tokens_per_second": 34_500.0}
        if number % 10 == 0:
            values["val/loss"] = loss if number == points else train + 0.01
        events.add(values, number)
        lines.append(json.dumps({"step": number, "tokens": number * tokens_per_step, "time": number * 0.06, **values}))
    events.close()
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
