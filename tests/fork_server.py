"""A server that has imported torch, Lightning and the lab, and forks a process for each request of a test.

    python -m tests.fork_server SOCKET PID

All workers of a pytest run share it. It ends when pytest, which is process PID, has ended.

A request is one line of JSON with three open files, which become the standard streams of the new process. The server
answers with lines of JSON: {"pid": …} when the process has started, and {"code": …} when it has ended, where a negative
code is a signal. Each byte that the client sends later is the number of a signal for the process. If the client closes
the connection, the process and all its descendants are killed.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import json
import os
import pickle
import runpy
import select
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import psutil

PRELOADED = (
    "torch",
    "click",
    "rich.table",
    "lab.cli.main",
    "lab.planning.plan.build",
    "lab.training.fit",
    "lab.training.loop",
    "tests.training.tiny",
)
_LONGEST_REQUEST = 4 * 2**20


def serve(path: Path, owner: int) -> None:
    """Serve requests on a Unix socket until the process `owner` has ended."""
    for module in PRELOADED:
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that no child becomes a zombie
    with socket.socket(socket.AF_UNIX) as listener:
        temporary = path.with_suffix(".new")
        listener.bind(str(temporary))
        listener.listen(64)
        temporary.rename(path)  # only now, so that a client which sees the path can connect
        while _is_running(owner):
            if select.select([listener], [], [], 2.0)[0]:
                connection, _ = listener.accept()
                if os.fork() == 0:
                    listener.close()
                    _handle(connection)
                connection.close()


def _handle(connection: socket.socket) -> NoReturn:
    """Fork the process of one request, report its start and end to the client, and exit after it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request, files = _receive(connection)
    pid = os.fork()
    if pid == 0:
        connection.close()
        _run_as_process(request, files)
    for file in files:
        os.close(file)
    process_fd = os.pidfd_open(pid)
    # If the client has closed the connection, the loop below notices it.
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps({"pid": pid}).encode() + b"\n")
    while True:
        ready = select.select([process_fd, connection], [], [])[0]
        if process_fd in ready:
            _, status = os.waitpid(pid, 0)
            with contextlib.suppress(OSError):
                connection.sendall(json.dumps({"code": os.waitstatus_to_exitcode(status)}).encode() + b"\n")
            os._exit(0)
        signals = _received_signals(connection)
        if signals is None:
            _kill_tree(pid)
            os._exit(0)
        for number in signals:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def _kill_tree(pid: int) -> None:
    """Kill a process and all its descendants, in any session, as Slurm does at the end of a job."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        tree = [process, *process.children(recursive=True)]
        for member in tree:
            with contextlib.suppress(psutil.Error):
                member.kill()


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    data, files, _, _ = socket.recv_fds(connection, 65536, 3)
    while not data.endswith(b"\n"):
        chunk = connection.recv(65536)
        if not chunk or len(data) > _LONGEST_REQUEST:
            os._exit(1)
        data += chunk
    request: dict[str, Any] = json.loads(data)
    return request, list(files)


def _received_signals(connection: socket.socket) -> list[int] | None:
    """The numbers of the signals that the client has sent, one byte each; None if it has closed the connection."""
    try:
        data = connection.recv(64)
    except OSError:
        return None
    return list(data) or None


def _run_as_process(request: dict[str, Any], files: list[int]) -> NoReturn:
    """Run a request in this forked process: set up streams, signals, folder and environment, run, and exit."""
    code: object = 1
    try:
        os.setsid()
        for descriptor, file in enumerate(files):
            os.dup2(file, descriptor)
        for file in files:
            if file > 2:
                os.close(file)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.executable = request["executable"]
        code = _run(request)
    except SystemExit as error:
        code = error.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def _run(request: dict[str, Any]) -> object:
    """Run a module or a script as Python would, or call a function, whose result is the exit code."""
    arguments = request["arguments"]
    if "function" in request:
        function, positional = pickle.loads(base64.b64decode(request["function"]))
        return function(*positional)
    if "module" in request:
        sys.argv = [request["module"], *arguments]
        sys.path[0] = request["cwd"]
        sys.modules.pop(request["module"], None)  # so that it is executed again, as __main__
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [request["script"], *arguments]
        sys.path[0] = os.path.dirname(request["script"])
        runpy.run_path(request["script"], run_name="__main__")
    return 0


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
