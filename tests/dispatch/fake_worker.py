"""A worker process that does as each run's configuration says instead of training, so that a run takes milliseconds.

Keys: steps, pause (seconds a step), do (what to do in step 1 of the first attempt), deaf (doesn't look at `stop`).
It marks in `marks.txt` when it begins and ends, and checkpoints every step in `step.txt`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable

from lab.dispatch.worker.attempt import Report, Stop
from lab.dispatch.worker.worker import main
from lab.records import Progress, Provenance, RunFolder, Summary, write_text
from lab.training.progress.outcome import Outcome


def mark(run: RunFolder, word: str) -> None:
    with open(run.path / "marks.txt", "a") as file:
        file.write(f"{word} {os.getpid()} {time.monotonic()}\n")


def bug() -> None:
    raise KeyError("n_heads")


def no_memory() -> None:
    raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8000000000000 bytes.")


def loud() -> None:
    print("from Python")
    os.system("echo from a child; echo complaint >&2")


def meet(run: RunFolder) -> None:
    """Go on only once the run `other` of the same sweep has begun."""
    deadline = time.monotonic() + 300
    while not (run.path.parents[1] / "other" / "seed-0" / "marks.txt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)


DEEDS: dict[str, Callable[[], object]] = {
    "nothing": lambda: None,
    "bug": bug,
    "no_memory": no_memory,
    "sys_exit": lambda: sys.exit("that's it"),
    "os_exit": lambda: os._exit(7),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": lambda: ctypes.string_at(0),
    "loud": loud,
    "read_input": lambda: print(repr(sys.stdin.read())),
}


def train(run: RunFolder, report: Report, stop: Stop) -> Outcome:
    config = run.config
    steps, saved = config["steps"], run.path / "step.txt"
    step = int(saved.read_text()) if saved.exists() else 0
    mark(run, "begin")
    try:
        if run.state.attempts == 1 and config["do"] != "diverge":
            meet(run) if config["do"] == "meet" else DEEDS[config["do"]]()
        while step < steps:
            if stop() and not config["deaf"]:
                return Outcome("preempted", None)
            time.sleep(config["pause"])
            step += 1
            write_text(saved, str(step))
            report(Progress(step, steps, step * 10, loss=1.0 / step, tokens_per_second=100.0))
        if config["do"] == "diverge":
            return Outcome("diverged", "the loss is nan at step 3")
        with open(run.path / "results.txt", "a") as file:
            file.write("result\n")
        return Outcome("finished", None, Summary(provenance=Provenance({"kernels": {"sdpa": 2}})))
    finally:
        mark(run, "end")


if __name__ == "__main__":
    code = main(train=train)
    sys.stdout.flush()
    os._exit(code)
