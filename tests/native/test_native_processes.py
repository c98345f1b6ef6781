"""Several processes and users: one builds, a killed one leaves nothing, a cache that can't be written still serves."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.native.library import NativeLibrary
from tests.forked import Forked
from tests.native.conftest import UseCompiler, compilations, entries, leftovers

NOBODY = 65534


def load(source: Path) -> int:
    """What each process does."""
    return 0 if NativeLibrary("sample", (source,)).load().sum_to(100, 2) == 4950 else 1


def load_as_nobody(source: Path) -> int:
    """The same as a user who owns nothing. Prints where the library is."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    tempfile.tempdir = None  # which the process that this one is forked from has looked up
    sys.executable = "/none"  # the interpreter may be where only root may read
    library = NativeLibrary("sample", (source,))
    print(library.unavailable() or library.loaded().built.path, flush=True)
    return 0


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter: pytest's own are one user's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        if not all(path.stat().st_mode & 0o001 for path in folder.parents):
            pytest.skip(f"needs a folder of temporary files that every user may enter, unlike {folder.parent}")
        yield folder


def test_of_several_processes_one_builds_and_the_others_wait(
    sample: NativeLibrary, cache: Path, tmp_path: Path, use_compiler: UseCompiler
) -> None:
    calls = use_compiler('exec g++ "$@"')
    output = tmp_path / "output"
    processes = [Forked(load, sample.sources[0], environment=os.environ, output=output) for _ in range(4)]
    assert [process.wait(120) for process in processes] == [0] * 4, output.read_text()
    assert compilations(calls) == 1
    assert len(entries(cache)) == 1
    assert not leftovers(cache)


def test_a_build_that_was_killed_is_neither_taken_for_whole_nor_waited_for(
    sample: NativeLibrary, cache: Path, tmp_path: Path, use_compiler: UseCompiler
) -> None:
    reached, go_on = tmp_path / "reached", tmp_path / "go on"
    calls = use_compiler(
        f'case "$*" in *-shared*) [ -e "{go_on}" ] || {{ touch "{reached}"; exec sleep 60; }};; esac\nexec g++ "$@"'
    )
    process = Forked(load, sample.sources[0], environment=os.environ, output=tmp_path / "output")
    until = time.monotonic() + 60
    while not reached.exists() and time.monotonic() < until:
        time.sleep(0.01)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    assert not entries(cache)
    assert len(leftovers(cache)) == 1
    go_on.touch()
    assert sample.load().sum_to(100, 1) == 4950
    assert compilations(calls) == 2
    (entry,) = entries(cache)
    assert {path.name for path in entry.iterdir()} == {"sample.so", "build.json"}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become a user who can't write everything")
@pytest.mark.parametrize("holds", ["the library", "nothing"])
def test_a_cache_that_cannot_be_written_serves_what_it_holds(
    open_folder: Path, sample: NativeLibrary, built: Path, tmp_path: Path, holds: str
) -> None:
    cache, temporary = open_folder / "cache", open_folder / "tmp"
    shutil.copytree(built, cache) if holds == "the library" else cache.mkdir()
    source = open_folder / "sample.cpp"
    shutil.copy(sample.sources[0], source)
    temporary.mkdir(mode=0o777)
    temporary.chmod(0o1777)
    for path in (cache, *cache.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
        path.chmod(0o500 if path.is_dir() or path.suffix == ".so" else 0o400)
    environment = os.environ | {"LAB_NATIVE_CACHE": str(cache), "TMPDIR": str(temporary)}
    output = tmp_path / "output"
    assert Forked(load_as_nobody, source, environment=environment, output=output, cwd=open_folder).wait(120) == 0
    if holds == "the library":
        assert output.read_text().startswith(f"{cache}/sample-")
        assert not list(temporary.iterdir())
    else:
        assert output.read_text().startswith(f"{temporary}/architecture-lab-native-{NOBODY}/sample-")
