"""A worker process for planned runs: it trains nothing, and holds on while a file `hold` stands beside the run root."""

from __future__ import annotations

import os
import sys
import time

from lab.dispatch.worker.attempt import Report, Stop
from lab.dispatch.worker.worker import main
from lab.records import RunFolder, Summary
from lab.training.progress.outcome import Outcome


def train(run: RunFolder, report: Report, stop: Stop) -> Outcome:
    hold = run.path.parents[3] / "hold"
    while hold.exists():
        if stop():
            return Outcome("preempted", None)
        time.sleep(0.02)
    with open(run.path / "results.txt", "a") as file:
        file.write("result\n")
    loss = float(run.config["optimizer"]["lr"])
    run.summary = Summary(status="finished", metrics={"val/loss": loss}, costs={"steps": 1})
    return Outcome("finished", None, Summary())


if __name__ == "__main__":
    code = main(train=train)
    sys.stdout.flush()
    os._exit(code)
