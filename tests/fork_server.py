"""A process that has imported torch, Lightning and the lab, and forks for each process that a test asks for.

    python -m tests.fork_server SOCKET PID

All workers of a pytest run share it. It ends when process PID, which is pytest's, has ended.

A request is one line of JSON with three open files, which become the new process's standard streams. The answers are
lines of JSON too: {"pid": …} once it has begun, {"code": …} once it has ended, negative for a signal. A number that the
client sends is a signal for the process; when the client goes away, the process and all that it started are killed.
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
    """Listen on a Unix socket until the owner has ended."""
    for module in PRELOADED:
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no process stays behind as a zombie
    with socket.socket(socket.AF_UNIX) as listener:
        temporary = path.with_suffix(".new")
        listener.bind(str(temporary))
        listener.listen(64)
        temporary.rename(path)  # who finds it can connect
        while _lives(owner):
            if select.select([listener], [], [], 2.0)[0]:
                connection, _ = listener.accept()
                if os.fork() == 0:
                    listener.close()
                    _attend(connection)
                connection.close()


def _attend(connection: socket.socket) -> NoReturn:
    """Fork the process that a client asks for, tell the client what becomes of it, and end with it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request, files = _receive(connection)
    pid = os.fork()
    if pid == 0:
        connection.close()
        _become(request, files)
    for file in files:
        os.close(file)
    ended = os.pidfd_open(pid)
    # Where the client has gone, the end of the connection is seen below.
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps({"pid": pid}).encode() + b"\n")
    while True:
        ready = select.select([ended, connection], [], [])[0]
        if ended in ready:
            _, status = os.waitpid(pid, 0)
            with contextlib.suppress(OSError):
                connection.sendall(json.dumps({"code": os.waitstatus_to_exitcode(status)}).encode() + b"\n")
            os._exit(0)
        numbers = _numbers(connection)
        if numbers is None:
            _kill_tree(pid)
            os._exit(0)
        for number in numbers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def _kill_tree(pid: int) -> None:
    """Kill a process and all that it has started, in whatever session, as Slurm does at the end of a job."""
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


def _numbers(connection: socket.socket) -> list[int] | None:
    """The signals that a client sends, a byte each; None once it has gone."""
    try:
        data = connection.recv(64)
    except OSError:
        return None
    return list(data) or None


def _become(request: dict[str, Any], files: list[int]) -> NoReturn:
    """Be the process that was asked for."""
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
    except SystemExit as ended:
        code = ended.code
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
    """As Python runs a module or a script; or call a function, whose result is the exit code."""
    arguments = request["arguments"]
    if "function" in request:
        function, positional = pickle.loads(base64.b64decode(request["function"]))
        return function(*positional)
    if "module" in request:
        sys.argv = [request["module"], *arguments]
        sys.path[0] = request["cwd"]
        sys.modules.pop(request["module"], None)  # it is executed anew, as __main__
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [request["script"], *arguments]
        sys.path[0] = os.path.dirname(request["script"])
        runpy.run_path(request["script"], run_name="__main__")
    return 0


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
