"""A process that has imported what training needs, and forks a worker for each request of the local launcher.

    python -m lab.dispatch.launchers.local.nursery [--seconds FOLDER]

Importing torch and Lightning takes seconds of processor time. With a nursery the workers of a launcher pay for it once,
and so does the worker that follows one which failed or was killed.

Forking is safe because this process does nothing but import: it calls no operation of torch, so that neither OpenMP nor
autograd has started threads that a child would lack, and it never touches a GPU. A child has its own session, streams
and environment, and from then on is a process as any other: it may crash, or be killed, without harm to the others.

Standard input is a Unix socket. A request is a line of JSON with three open files, which become the standard streams of
the worker: {"id": …, "arguments": […], "environment": {…}}. The answers are lines of JSON: {"id": …, "pid": …} when the
worker has started and {"id": …, "code": …} when it has ended, where a negative code is a signal. At the end of its
input this process ends; its workers notice by themselves that their launcher is gone.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lab.code_version import digest
from lab.dispatch.process_clock import ProcessClock
from lab.dispatch.worker.worker import preload, run_and_exit

Worker = Callable[[Sequence[str]], object]
"""Runs a worker with these arguments and ends the process."""

_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that a cluster or a terminal sends to all processes. The launcher decides when workers stop."""


def main(worker: Worker = run_and_exit) -> None:
    """Import, then serve requests until the input ends.

    Args:
        worker: what a forked process does with the arguments of its request.
    """
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    parser = argparse.ArgumentParser(prog="python -m lab.dispatch.launchers.local.nursery", description=__doc__)
    parser.add_argument("--seconds", type=Path, metavar="FOLDER", help="the sweep that its seconds are recorded for")
    options = parser.parse_args()
    clock = ProcessClock("nursery")
    connection = socket.socket(fileno=os.dup(0))
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    digest()  # of the code that is imported now, which may be edited before a worker starts
    preload()
    gc.collect()
    gc.freeze()  # the collector of a child would otherwise write to, and so copy, every page
    clock.enter("forks")
    _serve(connection, worker)
    if options.seconds is not None:
        clock.write(options.seconds)


def _serve(connection: socket.socket, worker: Worker) -> None:
    own = connection.fileno()
    workers: dict[int, tuple[int, int]] = {}  # descriptor of a process → the id of its request, its pid
    while True:
        ready = select.select([own, *workers], [], [])[0]
        for descriptor in set(ready) - {own}:
            request_id, pid = workers.pop(descriptor)
            os.close(descriptor)
            _, status = os.waitpid(pid, 0)
            _answer(connection, {"id": request_id, "code": os.waitstatus_to_exitcode(status)})
        if own in ready:
            request, files = _receive(connection)
            if request is None:
                return
            pid = _fork(request, files, [own, *workers], worker)
            workers[os.pidfd_open(pid)] = request["id"], pid
            _answer(connection, {"id": request["id"], "pid": pid})


def _receive(connection: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """The next request and its files; None at the end of the input."""
    data, files, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    while data and not data.endswith(b"\n"):
        chunk = connection.recv(1 << 20)
        data = data + chunk if chunk else b""
    return (json.loads(data) if data else None), list(files)


def _answer(connection: socket.socket, message: dict[str, int]) -> None:
    with contextlib.suppress(OSError):  # the launcher is gone, as the next read will tell
        connection.sendall(json.dumps(message).encode() + b"\n")


def _fork(request: dict[str, Any], files: list[int], own: list[int], worker: Worker) -> int:
    """Fork a worker and return its pid, once it leads its own session, so that it can be killed with its children."""
    is_ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        for descriptor in (*own, is_ready, tell):
            os.close(descriptor)
        _become_worker(request, files, worker)
    for descriptor in (*files, tell):
        os.close(descriptor)
    os.read(is_ready, 1)  # until the child has closed its end
    os.close(is_ready)
    return pid


def _become_worker(request: dict[str, Any], files: list[int], worker: Worker) -> NoReturn:
    for descriptor, file in enumerate(files):
        os.dup2(file, descriptor)
    for file in files:
        if file > 2:
            os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    # The worker sets handlers for the other signals before it takes a run.
    for number in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    worker(request["arguments"])
    os._exit(1)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)
