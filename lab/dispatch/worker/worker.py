"""The process that trains: one run, or in turn all those that a launcher names.

    python -m lab.dispatch.worker RUN_DIR [--threads N]
    python -m lab.dispatch.worker --serve [--threads N]

SIGTERM, SIGINT and SIGUSR2 ask it to checkpoint and stop. With --serve it reads a line of JSON a run from its standard
input and answers each with one on its standard output, so that the seconds of importing torch and Lightning are paid
once. The end of its input means that its launcher is gone, however that died: it checkpoints and stops too.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import queue
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lab.code_version import digest
from lab.dispatch.launchers.local.machine import thread_variables
from lab.dispatch.worker import isolation
from lab.dispatch.worker.attempt import FAILED, HELD, PREEMPTED, REFUSED, Report, Stop, Train, execute, open_run
from lab.records import RunFolder
from lab.training.progress.outcome import Outcome


def main(arguments: Sequence[str] | None = None, *, train: Train | None = None) -> int:
    """Work, and return the exit code: 0 finished, 3 diverged, 75 preempted, 1 failed, 4 held by another, 5 blocked,
    6 refused as it was made with other code, 2 usage.

    Args:
        arguments: of the command line.
        train: what to do with a run; by default, to train its frozen configuration.
    """
    parser = argparse.ArgumentParser(prog="python -m lab.dispatch.worker", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("run", nargs="?", type=Path, metavar="RUN_DIR", help="folder of the run to train")
    which.add_argument("--serve", action="store_true", help="take runs from standard input until it ends")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of CPU operations (default: torch's)")
    given = parser.parse_args(arguments)
    digest()  # of what this process imports: it may be edited before the last run comes
    if given.threads is not None:
        if given.threads < 1:
            parser.error(f"--threads: expected at least 1, got {given.threads}")
        os.environ.update(thread_variables(given.threads))
    train = train or functools.partial(train_frozen, threads=given.threads)
    stop = Stop()
    if given.serve:
        return _serve(train, stop)
    try:
        run = open_run(given.run)
    except FileNotFoundError as error:
        parser.error(str(error))
    stop.on_signals()
    return _execute(run, train, stop)


def train_frozen(run: RunFolder, report: Report, stop: Stop, *, threads: int | None = None) -> Outcome:
    """Train the run's frozen configuration, never recomposing it: sources edited since don't change it."""
    from lab.composition import extensions
    from lab.composition.frozen.freeze import load_experiment
    from lab.dispatch.worker.post_training_evaluation import conclusion
    from lab.dispatch.worker.teachers import load_needed
    from lab.training import environment
    from lab.training.loop import train

    isolation.reset(run.config.get("seed", 0), threads)
    needed = load_needed(run)
    with extensions.of_run(run.path, run.record):
        experiment = load_experiment(run.config)
        import torch

        # Now, though training reports it too at its end: a run that fails had a device as well.
        device = environment.device_of(experiment.train.accelerator)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        run.add_provenance({"device": name, "threads": torch.get_num_threads()})
        conclude = conclusion(run, experiment.train.accelerator, stop)
        return train(experiment, run.path, teachers=needed, report=report, stop=stop, conclude=conclude)


def _execute(run: RunFolder, train: Train, stop: Stop, attempts: int | None = None) -> int:
    def lost() -> None:
        # Another process writes there now, and whatever this one wrote from here on would spoil its work.
        print("another worker has taken the run over: leaving it", file=sys.stderr, flush=True)
        os._exit(HELD)

    with isolation.isolated():
        code = execute(run, train, stop=stop, attempts=attempts, on_lost=lost)
    if code == REFUSED:
        print(f"{run.name}: {run.state.reason}", file=sys.stderr, flush=True)
    return code


def _serve(train: Train, stop: Stop) -> int:
    """Take runs until the input ends, a stop is asked for, or a run fails.

    After a failure the process ends too: what an exception left in memory must not be the next run's.
    """
    requests, replies = os.dup(0), os.dup(1)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)  # a run that reads its input must not eat the next request
    os.dup2(2, 1)
    todo: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(requests, todo, stop), name="requests", daemon=True).start()
    while True:
        # Anew for each run, as the last one's libraries may have put theirs.
        stop.on_signals(wake=lambda: todo.put(None))
        request = todo.get()
        if stop() or request is None:
            return 0
        code = _execute(RunFolder(request["run"]), train, stop, request["attempts"])
        os.write(replies, json.dumps({"run": request["run"], "code": code}).encode() + b"\n")
        if code in (FAILED, PREEMPTED):
            return code


def _receive(descriptor: int, todo: queue.SimpleQueue[dict[str, Any] | None], stop: Stop) -> None:
    for line in _lines(descriptor):
        request = json.loads(line)
        if "stop" in request:
            stop.request(request["stop"])
            todo.put(None)
        else:
            todo.put(request)
    stop.request("the end of its launcher")
    todo.put(None)


def _lines(descriptor: int) -> Iterator[bytes]:
    # Not a buffered file: the interpreter's shutdown would wait for its lock, which this thread holds while it reads.
    rest = b""
    while chunk := os.read(descriptor, 65536):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
