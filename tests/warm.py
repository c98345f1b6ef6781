"""`lab` as a user types it, less the seconds of importing torch: a process that has done so forks for each command.

The command has its own process, folder, environment, output and exit code, as in a shell. It is for tests of what
commands say; those of documents, crashes and start-up start Python.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def lab(
    *arguments: str, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end.

    Args:
        cwd: by default this process's folder.
        environment: by default this process's.
    """
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        said = [os.path.join(folder, name) for name in ("out", "err")]
        request = {
            "arguments": arguments,
            "cwd": str(cwd or Path.cwd()),
            "environment": dict(os.environ if environment is None else environment),
            "said": said,
        }
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        out, err = (Path(path).read_text(encoding="utf-8") for path in said)
    return subprocess.CompletedProcess(["lab", *arguments], code, out, err)


@functools.cache
def _server() -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.warm"],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # threads don't come along into a fork
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.terminate)
    return server


def _serve() -> None:
    for module in (
        "torch",
        "lab.cli.main",
        "lab.cli.look.plan_command",
        "lab.cli.runs.submit_command",
        "lab.planning.plan.build",
    ):
        importlib.import_module(module)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _be_the_command(request)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _be_the_command(request: dict[str, object]) -> None:
    code = 1
    try:
        for path, descriptor in zip((os.devnull, *request["said"]), (0, 1, 2), strict=True):  # type: ignore[misc]
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            os.dup2(file, descriptor)
            os.close(file)
        os.chdir(str(request["cwd"]))
        os.environ.clear()
        os.environ.update(request["environment"])  # type: ignore[call-overload]
        sys.argv = ["lab", *request["arguments"]]  # type: ignore[misc]
        sys.path[0] = ""
        from lab.cli.main import main

        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
