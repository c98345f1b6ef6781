"""Runs of somebody else: what may not be read is named, and a view stands where its reader may write."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import pytest
from click.testing import CliRunner

from lab.cli import main
from lab.comparison.read.collect import collect
from lab.comparison.tensorboard import serve
from lab.comparison.tensorboard.serve import build_view
from lab.refusals import RequestError
from tests.comparison.fake_runs import fake_run, fake_sweep
from tests.comparison.test_comparison_plans import plan, row

NOBODY = 65534

as_nobody = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become a user who may not read everything")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may read: pytest's own are root's alone."""
    with tempfile.TemporaryDirectory() as name:
        found = Path(name).resolve()
        found.chmod(0o755)
        if not all(path.stat().st_mode & 0o001 for path in found.parents):
            pytest.skip(f"needs a folder of temporary files that every user may enter, unlike {found.parent}")
        yield found


@pytest.fixture(scope="module", autouse=True)
def commands_are_loaded(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Load what the commands load late: the packages may be where only root may read."""
    root = tmp_path_factory.mktemp("loaded")
    fake_sweep(root, {"both": [3.0, 3.1], "neither": [3.2]}, curves=True)
    for command in (["compare"], ["tensorboard", "--build-only"], ["report"]):
        done = CliRunner().invoke(main.cli, [*command, "--root", str(root), "softcap"], standalone_mode=False)
        assert done.exception is None


def nobody(cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`lab` with these arguments in a fork of this process, as a user who owns nothing but the cache."""
    cache.mkdir(exist_ok=True)
    os.chown(cache, NOBODY, NOBODY)
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        child = os.fork()
        if child == 0:
            _run_as_nobody(cache, arguments, stdout.fileno(), stderr.fileno())
        _, status = os.waitpid(child, 0)
        stdout.seek(0)
        stderr.seek(0)
        code = os.waitstatus_to_exitcode(status)
        return subprocess.CompletedProcess(arguments, code, stdout.read(), stderr.read())


def _run_as_nobody(cache: Path, arguments: Sequence[str], stdout: int, stderr: int) -> NoReturn:
    code: object = 1
    try:
        sys.stdout, sys.stderr = os.fdopen(os.dup(stdout), "w"), os.fdopen(os.dup(stderr), "w")
        os.environ["LAB_CACHE"] = str(cache)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        sys.argv = ["lab", *arguments]
        main.main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


@as_nobody
def test_a_view_of_runs_that_may_only_be_read_stands_in_the_readers_cache(folder: Path) -> None:
    root, cache = folder / "runs", folder / "cache"
    fake_sweep(root, {"both": [3.0, 3.1], "neither": [3.2, 3.3]}, curves=True)
    for names in (("softcap",), ("softcap", "other")):
        if "other" in names:
            fake_run(root, "both", sweep="other", curves=True)
        done = nobody(cache, "tensorboard", "--build-only", "--root", str(root), *names)
        assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
        view = Path(done.stdout.strip())
        assert f"this user can't write to {root}: the log folder is {view}" in done.stderr
        assert view.is_relative_to(cache / "views")
        (link,) = [path for path in (view / names[0] if names[1:] else view).glob("both/seed-0/*") if path.is_symlink()]
        assert link.resolve().parent == (root / "softcap" / "both" / "seed-0").resolve()
        assert os.readlink(link).startswith("/")
        again = nobody(cache, "tensorboard", "--build-only", "--root", str(root), *names)
        assert again.stdout == done.stdout
    assert not list(root.rglob(".tensorboard*"))


@as_nobody
def test_a_view_that_may_be_written_nowhere_is_refused_in_one_line(folder: Path) -> None:
    fake_run(folder / "runs")
    cache = folder / "cache"
    cache.mkdir()
    (cache / "views").mkdir(mode=0o755)
    done = nobody(cache, "tensorboard", "--build-only", "--root", str(folder / "runs"), "softcap")
    assert done.returncode == 2
    assert done.stderr.startswith(f"lab: no view can be built in {cache}/views/")
    assert done.stderr.endswith(": Permission denied\n")


@as_nobody
@pytest.mark.parametrize(
    ("command", "closed"),
    [
        ("compare", "neither"),
        ("compare", "neither/seed-0"),
        ("compare", "neither/seed-0/run.json"),
        ("tensorboard", "neither"),
        ("tensorboard", "neither/seed-0/state.json"),
        ("report", "neither"),
        ("report", "neither/seed-0/state.json"),
    ],
)
def test_what_may_not_be_read_is_reported_and_the_rest_shown(folder: Path, command: str, closed: str) -> None:
    root, cache = folder / "runs", folder / "cache"
    fake_sweep(root, {"both": [3.0, 3.1], "neither": [3.2], "third": [3.4, 3.5]}, curves=True)
    options = {"tensorboard": ["--build-only"], "report": ["--out", str(cache / "report.html")]}.get(command, [])
    (root / "softcap" / closed).chmod(0o000)
    done = nobody(cache, command, *options, "--root", str(root), "softcap")
    assert done.returncode == 0, done.stderr
    if command == "compare":
        told = " ".join(done.stdout.split())
        assert f"Can't be read: {root / 'softcap' / 'neither'}" in told
        assert "Permission denied" in told
    (root / "softcap" / closed).chmod(0o755)


@as_nobody
def test_a_shared_run_in_a_closed_folder_is_reported_once(folder: Path) -> None:
    root, cache = folder / "runs", folder / "cache"
    shared, own = fake_run(root, "plain", sweep="earlier"), fake_run(root, "mha")
    plan(root, [row(shared, "gqa", 0), row(own, "mha", 0)])
    (root / "earlier").chmod(0o700)
    done = nobody(cache, "compare", "--root", str(root), "softcap")
    assert done.returncode == 0, done.stderr
    assert " ".join(done.stdout.split()).count("Permission denied") == 1


@as_nobody
@pytest.mark.parametrize("closed", ["softcap", "softcap/plan.json"])
def test_a_sweep_that_may_not_be_read_is_refused_in_one_line(folder: Path, closed: str) -> None:
    root = folder / "runs"
    plan(root.parent, [row(fake_run(root), "gqa", 0)], sweep="runs/softcap")
    (root / closed).chmod(0o000)
    for command in (["compare"], ["tensorboard", "--build-only"]):
        done = nobody(folder / "cache", *command, "--root", str(root), "softcap")
        assert done.returncode == 2
        assert done.stderr.startswith("lab: ")
        assert (done.stderr.count("\n"), "Permission denied" in done.stderr) == (1, True), done.stderr
    (root / closed).chmod(0o755)


def test_a_read_only_file_system_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_run(tmp_path / "runs", curves=True)
    replace = serve._replace

    def closed(view: Path, *arguments: object, **options: bool) -> None:
        if not view.is_relative_to(tmp_path / "cache"):
            raise OSError(30, "Read-only file system")
        replace(view, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(serve, "_replace", closed)
    with pytest.raises(RequestError, match=r"no view can be built in .*: Read-only file system"):
        build_view(tmp_path / "runs", "softcap")
    assert build_view(tmp_path / "runs", "softcap", tmp_path / "cache").is_relative_to(tmp_path / "cache")


def test_a_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_run(tmp_path, curves=True)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RequestError, match=r"no view can be built in .*softcap: No space left on device"):
        build_view(tmp_path, "softcap", tmp_path / "cache")
    assert not list(tmp_path.rglob(".tensorboard*"))
    assert collect(tmp_path, "softcap").arms
