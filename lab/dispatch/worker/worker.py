"""The process that trains: one run, or one after another the runs that a launcher names.

    python -m lab.dispatch.worker RUN_DIR [--threads N]
    python -m lab.dispatch.worker --serve [--threads N]

On SIGTERM, SIGINT and SIGUSR2 it writes a checkpoint and stops. With --serve it reads a line of JSON for each run from
standard input and answers with a line on standard output, so that it imports torch and Lightning only once. When its
input ends, its launcher is gone: it then writes a checkpoint and stops too.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lab.code_version import digest
from lab.dispatch.launchers.local.machine import thread_variables
from lab.dispatch.process_clock import ProcessClock
from lab.dispatch.worker import isolation
from lab.dispatch.worker.attempt import FAILED, HELD, PREEMPTED, REFUSED, Report, Stop, Train, execute, open_run
from lab.records import RunFolder
from lab.training.progress.outcome import Outcome
from lab.training.progress.phase_clock import part


def main(arguments: Sequence[str] | None = None, *, train: Train | None = None) -> int:
    """Run the worker and return its exit code.

    0 finished, 1 failed, 2 wrong usage, 3 diverged, 4 held by another worker, 5 blocked, 6 refused because it was made
    with other code, 75 preempted.

    Args:
        arguments: the command line's arguments.
        train: trains a run; `train_frozen` by default.
    """
    parser = argparse.ArgumentParser(prog="python -m lab.dispatch.worker", description=__doc__)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("run", nargs="?", type=Path, metavar="RUN_DIR", help="folder of the run to train")
    mode.add_argument("--serve", action="store_true", help="take runs from standard input until it ends")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of CPU operations (default: torch's)")
    options = parser.parse_args(arguments)
    digest()  # of the code that this process imports now, which may be edited before its last run
    if options.threads is not None:
        if options.threads < 1:
            parser.error(f"--threads: expected at least 1, got {options.threads}")
        os.environ.update(thread_variables(options.threads))
    train = train or functools.partial(train_frozen, threads=options.threads)
    stop = Stop()
    if options.serve:
        return _serve(train, stop)
    try:
        run = open_run(options.run)
    except FileNotFoundError as error:
        parser.error(str(error))
    stop.on_signals()
    return _execute(run, train, stop)


def run_and_exit(arguments: Sequence[str]) -> NoReturn:
    """Run the worker, and end this process with its exit code."""
    try:
        code = main(arguments)
    except Exception:
        traceback.print_exc()
        code = FAILED
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: a failed run's threads and child processes could hold the process up for ever.
    os._exit(code)


def train_frozen(run: RunFolder, report: Report, stop: Stop, *, threads: int | None = None) -> Outcome:
    """Train the run's frozen configuration. It is never recomposed, so edits of its sources don't change it."""
    with part("start-up/imports"):
        preload()
    from components.native.library import announcing
    from lab.composition import extensions
    from lab.composition.frozen.freeze import load_experiment
    from lab.dispatch.worker.post_training_evaluation import conclusion, with_evaluation_seconds
    from lab.dispatch.worker.teachers import load_teachers
    from lab.training import environment
    from lab.training.loop import train

    isolation.reset(run.config.get("seed", 0), threads)
    teachers = load_teachers(run)
    with extensions.of_run(run.path, run.record), announcing(_into_the_log):
        with part("start-up/composition"):
            experiment = load_experiment(run.config)
        import torch

        # Training records it too, but only at its end: a run that fails had a device as well.
        device = environment.device_of(experiment.train.accelerator)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        run.add_provenance({"device": name, "threads": torch.get_num_threads()})
        conclude = conclusion(run, experiment.train.accelerator, stop, report)
        return train(
            experiment,
            run.path,
            teachers=teachers,
            report=with_evaluation_seconds(run, experiment.evaluate, report),
            stop=stop,
            conclude=conclude,
            text_digest=run.record.text,
        )


def _into_the_log(line: str) -> None:
    if not sys.stderr.isatty():  # at a terminal it is said already
        print(line, file=sys.stderr, flush=True)


def preload() -> None:
    """Import what training needs: torch, Lightning and the lab's own. It takes seconds, once in a process."""
    import gc

    # The collector would look through what is imported, again and again; that takes a tenth of the time.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        import lab.composition.frozen.freeze
        import lab.dispatch.worker.post_training_evaluation
        import lab.dispatch.worker.teachers
        import lab.evaluation.results_store
        import lab.training.loop  # noqa: F401
    finally:
        if was_enabled:
            gc.enable()


def _execute(run: RunFolder, train: Train, stop: Stop, attempts: int | None = None) -> int:
    def lost() -> None:
        # Another process writes there now, and anything that this one wrote would damage its work.
        print("another worker has taken the run over: leaving it", file=sys.stderr, flush=True)
        os._exit(HELD)

    with isolation.isolated():
        code = execute(run, train, stop=stop, attempts=attempts, on_lost=lost)
    if code == REFUSED:
        print(f"{run.name}: refused: {run.state.reason}", file=sys.stderr, flush=True)
    return code


def _serve(train: Train, stop: Stop) -> int:
    """Take runs until the input ends, a stop is requested, or a run fails.

    After a failure the process ends too, so that what the exception left in memory can't affect the next run.
    """
    requests, replies = os.dup(0), os.dup(1)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)  # a run that reads its input must not consume the next request
    os.dup2(2, 1)
    clock, sweep = ProcessClock("worker"), None
    queued: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(requests, queued, stop), name="requests", daemon=True).start()
    while True:
        # Again for each run, as libraries of the last run may have set their own handlers.
        stop.on_signals(wake=lambda: queued.put(None))
        request = queued.get()
        if stop() or request is None:
            if sweep is not None:
                clock.write(sweep)
            return 0
        run = RunFolder(request["run"])
        clock.enter("runs")
        code = _execute(run, train, stop, request["attempts"])
        clock.enter("waiting")
        sweep = sweep or run.path.parents[1]
        clock.write(sweep)
        os.write(replies, json.dumps({"run": request["run"], "code": code}).encode() + b"\n")
        if code in (FAILED, PREEMPTED):
            return code


def _receive(descriptor: int, queued: queue.SimpleQueue[dict[str, Any] | None], stop: Stop) -> None:
    for line in _lines(descriptor):
        request = json.loads(line)
        if "stop" in request:
            stop.request(request["stop"])
            queued.put(None)
        else:
            queued.put(request)
    stop.request("the end of its launcher")
    queued.put(None)


def _lines(descriptor: int) -> Iterator[bytes]:
    # Not a buffered file: this thread would hold its lock while it reads, and the interpreter's shutdown would wait.
    rest = b""
    while chunk := os.read(descriptor, 65536):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
