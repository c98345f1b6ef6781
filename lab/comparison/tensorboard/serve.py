"""Build the TensorBoard view of sweeps as a folder, and serve it. `view` defines its content.

A view can be deleted and rebuilt at any time, even while TensorBoard shows it and runs are still writing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lab.comparison.read.collect import collect
from lab.comparison.tensorboard.view import ARM_OF_RUN, Layout, lay_out
from lab.refusals import RequestError

VIEW = ".tensorboard"
PORT = 6006

COLOURS = f"?runColorGroup={urllib.parse.quote('regex:' + ARM_OF_RUN, safe='')}"
"""The query of an address at which TensorBoard gives all seeds of an arm, and the arm's mean, one colour."""

_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_STARTUP_SECONDS = 60.0
_KEPT_SECONDS = 60.0


def build_view(root: Path | str, sweeps: str | Sequence[str], elsewhere: Path | None = None) -> Path:
    """Build or update the view of one or more sweeps, and return its path.

    A new view replaces the old one atomically; a view that is up to date isn't touched. Runs that haven't started
    aren't shown. For a run that failed or diverged, the final values of the sweep's metrics are NaN: TensorBoard would
    otherwise average its last finite value with the other seeds' results.

    Args:
        root: the folder of the runs.
        sweeps: the sweeps' names.
        elsewhere: where to build views if this user can't write to the root.

    Returns:
        `<root>/<sweep>/.tensorboard`; for several sweeps, a folder under `<root>/.tensorboard-views`, in which runs are
        called `sweep/arm/seed-n`. Below `elsewhere`, each root has a folder with the same layout.

    Raises:
        RequestError: no sweep is named, one of them has no runs, or the view can't be written.
    """
    root = Path(root)
    names = [sweeps] if isinstance(sweeps, str) else list(dict.fromkeys(sweeps))
    if not names:
        raise RequestError("a TensorBoard view needs at least one sweep")
    collected = [collect(root, name) for name in names]
    view = _view_path(root, names)
    private = None if elsewhere is None else _view_path(elsewhere / _digest(os.path.realpath(root)), names)
    if private is not None and not _may_write(view.parent):
        # Even if another user's view is up to date now, this process couldn't refresh it later.
        view, private = private, None
    layout = lay_out(collected, previous=view)
    try:
        return _build(view, layout, apart=not view.is_relative_to(root))
    except OSError as error:
        if private is None or error.errno not in _CLOSED:
            raise RequestError(f"no view can be built in {view.parent}: {error.strerror or error}") from None
    try:
        return _build(private, layout, apart=True)
    except OSError as error:
        raise RequestError(f"no view can be built in {private.parent}: {error.strerror or error}") from None


def _build(view: Path, layout: Layout, *, apart: bool) -> Path:
    if not _is_current(view, layout):
        view.parent.mkdir(parents=True, exist_ok=True)
        _replace(view, layout, apart=apart)
    return view


def _may_write(folder: Path) -> bool:
    """Whether this user can create something in a folder, or the folder itself."""
    return os.access(folder if folder.exists() else folder.parent, os.W_OK | os.X_OK)


def _view_path(base: Path, names: Sequence[str]) -> Path:
    """The path below `base` of the view of these sweeps."""
    return base / names[0] / VIEW if len(names) == 1 else base / f"{VIEW}-views" / _digest("\0".join(names))


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:12]


def serve(
    view: Path,
    port: int | None = None,
    *,
    refresh: Callable[[], object] | None = None,
    refresh_seconds: float = 30.0,
    echo: Callable[[str], object] = print,
) -> None:
    """Serve a view until interrupted, only on this machine's loopback address.

    Args:
        view: the view's folder.
        port: the port to listen on; None for the first free port from 6006 on.
        refresh: called every `refresh_seconds`, so that new runs and results appear.
        refresh_seconds: seconds between two calls of `refresh`.
        echo: prints the address once TensorBoard answers.

    Raises:
        RequestError: the port is in use, or TensorBoard exited; the message ends with its last lines.
    """
    with contextlib.suppress(KeyboardInterrupt), _ending_on_sigterm(), server(view, port) as (address, process):
        echo(f"TensorBoard: {address}{COLOURS} (Ctrl-C ends it)")
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(refresh_seconds)
            if refresh is not None and process.poll() is None:
                try:
                    refresh()
                except (OSError, ValueError, RequestError) as error:  # the view that is shown stays
                    echo(f"not refreshed: {error}")
        raise RequestError(f"TensorBoard ended with exit code {process.returncode}")


@contextlib.contextmanager
def server(
    view: Path, port: int | None = None, *, reload_seconds: float = 5.0
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """TensorBoard on a view for the duration of the context: its address, once it answers, and its process.

    Raises:
        RequestError: the port is taken, or TensorBoard doesn't start.
    """
    if port is None:
        port = next((candidate for candidate in range(PORT, PORT + 100) if _free(candidate)), 0)
    if not port or not _free(port):
        raise RequestError(f"port {port or PORT} is taken; choose another")
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(view), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--reload_interval", f"{reload_seconds:g}", "--window_title", _window(view)]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            _wait_for(process, port, output.fileno())
            yield f"http://127.0.0.1:{port}/", process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _is_current(view: Path, layout: Layout) -> bool:
    """Whether the view has exactly these files, with this content."""
    try:
        names = {path.relative_to(view).as_posix() for path in view.rglob("*") if path.is_symlink() or path.is_file()}
        if names != set(layout):
            return False
        for name, content in layout.items():
            path = view / name
            if isinstance(content, bytes):
                if path.is_symlink() or path.read_bytes() != content:
                    return False
            elif not path.is_symlink() or path.resolve() != content.resolve():
                return False
    except OSError:  # another user owns it, or it was replaced just now
        return False
    return True


def _replace(view: Path, layout: Layout, *, apart: bool) -> None:
    """Build a new view beside the old one, then point the link `view` to it, so that a complete view always exists.

    Args:
        view: the path of the link.
        layout: the new view's files.
        apart: whether the view lies outside the root; its links are then absolute.

    Raises:
        RequestError: a path of the layout leads out of the view.
        OSError: the view can't be written. The old view is unchanged, and no files are left behind.
    """
    stem = VIEW if view.name == VIEW else view.name
    folder = view.with_name(f"{stem}-{secrets.token_hex(6)}")
    link = view.with_name(f"{folder.name}.link")
    folder.mkdir()
    try:
        home = folder.resolve()
        for name, content in layout.items():
            path = home / name
            if ".." in path.parts or not path.is_relative_to(home) or path == home:
                raise RequestError(f"{name}: can't be shown in a view: its path would lie outside the view")
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                target = content.resolve()
                # Relative links keep a view intact when its root is moved or mounted elsewhere.
                path.symlink_to(target if apart else os.path.relpath(target, path.parent))
        link.symlink_to(folder.name, target_is_directory=True)
        if view.is_symlink():
            with contextlib.suppress(FileNotFoundError, PermissionError):
                os.utime(view)  # follows the link: marks when the old view was replaced
        elif view.is_dir():
            shutil.rmtree(view)  # a copied root may have a folder in place of the link
        os.replace(link, view)
    except BaseException:
        link.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    _remove_old(view.parent, stem, folder)


def _remove_old(parent: Path, stem: str, current: Path) -> None:
    """Remove replaced views, except for recent ones.

    TensorBoard may be reading a recent view, and would show every run as deleted; and another process may be building
    one.
    """
    for path in parent.glob(f"{stem}-*"):
        # A view may be gone already, or busy: network file systems keep open files. The next rebuild tries again.
        with contextlib.suppress(OSError):
            if path.name != current.name and time.time() - path.lstat().st_mtime > _KEPT_SECONDS:
                path.unlink() if path.is_symlink() else shutil.rmtree(path)


@contextlib.contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C, so that TensorBoard is stopped as well."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait_for(process: subprocess.Popen[bytes], port: int, output: int) -> None:
    deadline = time.monotonic() + _STARTUP_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    lines = os.pread(output, 100_000, 0).decode(errors="replace").strip().splitlines()[-5:]
    timeout = f"no answer in {_STARTUP_SECONDS:.0f} s"
    reason = timeout if process.poll() is None else f"exit code {process.returncode}"
    raise RequestError("\n".join([f"TensorBoard did not start ({reason}):", *lines]))


def _free(port: int) -> bool:
    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _window(view: Path) -> str:
    return view.parent.name if view.name == VIEW else "sweeps"
