"""A small native library with a cache of its own, and compilers that go wrong in one way each."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from components.native import library as native
from components.native.library import NativeLibrary

SOURCE = """
#include "native.h"
NATIVE_EXPORT int threads_of_torch() { return omp_get_max_threads(); }
NATIVE_EXPORT int sum_to(int n, int threads) {
  std::atomic<int> sum{0};
  native::parallel_for(n, threads, [&](int64_t i, int) { sum += static_cast<int>(i); });
  return sum;
}
"""

UseCompiler = Callable[[str], Path]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of native libraries, which doesn't exist yet."""
    folder = tmp_path / "cache" / "native"
    monkeypatch.setenv("LAB_NATIVE_CACHE", str(folder))
    return folder


@pytest.fixture
def spare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that is used where the cache can't be."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    return temporary


@pytest.fixture
def sample(tmp_path: Path, cache: Path, spare: Path, monkeypatch: pytest.MonkeyPatch) -> NativeLibrary:
    """The library, in a process that hasn't asked for any."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ is here")
    source = tmp_path / "sample.cpp"
    source.write_text(SOURCE)
    monkeypatch.setattr(native, "_LIBRARIES", {})
    monkeypatch.setattr(native, "_OUTCOMES", {})
    monkeypatch.delenv("CXX", raising=False)
    return NativeLibrary("sample", (source,))


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the library, built by g++."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ is here")
    folder = tmp_path_factory.mktemp("native")
    source = folder / "sample.cpp"
    source.write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_NATIVE_CACHE", str(folder / "cache"))
        patch.delenv("CXX", raising=False)
        patch.setattr(native, "_LIBRARIES", {})
        patch.setattr(native, "_OUTCOMES", {})
        NativeLibrary("sample", (source,)).load()
    return folder / "cache"


@pytest.fixture
def prebuilt(sample: NativeLibrary, built: Path, cache: Path) -> NativeLibrary:
    """The library, which the cache has: a build belongs to what the sources say, not to where they are."""
    shutil.copytree(built, cache)
    return sample


@pytest.fixture
def use_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UseCompiler:
    """Makes a shell script the compiler; returns the file to which it writes a line for each call."""

    def use(script: str) -> Path:
        calls = tmp_path / "calls"
        calls.touch()
        program = tmp_path / "bin" / "compiler"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n{script}\n')
        program.chmod(0o755)
        monkeypatch.setenv("CXX", str(program))
        return calls

    return use


def compilations(calls: Path) -> int:
    """How often a compiler has compiled the sample."""
    return sum("sample.cpp" in line for line in calls.read_text().splitlines())


def entries(folder: Path) -> list[Path]:
    """The builds that a cache holds."""
    return [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.exists() else []


def leftovers(folder: Path) -> list[str]:
    """What builds have left in a cache beside their results, locks and remembered failures."""
    return [path.name for path in folder.iterdir() if path.name.startswith((".building", ".damaged"))]
