"""A native library is built once, loads from the cache without a compiler, and shares torch's threads."""

from __future__ import annotations

import stat
from collections.abc import Iterator
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


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NativeLibrary]:
    """A small library with a cache of its own, in a process that knows of none."""
    source = tmp_path / "sample.cpp"
    source.write_text(SOURCE)
    monkeypatch.setenv("LAB_NATIVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "_LIBRARIES", {})
    native.forget()
    yield NativeLibrary("sample", (source,))
    native.forget()


def counting_compiler(folder: Path) -> tuple[Path, Path]:
    """A compiler that is g++ and writes a line for each call into a file."""
    calls = folder / "calls"
    program = folder / "counting-g++"
    program.write_text(f'#!/bin/sh\necho "$@" >> {calls}\nexec g++ "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program, calls


def test_the_compiler_is_called_for_the_first_process_alone(
    sample: NativeLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, calls = counting_compiler(tmp_path)
    monkeypatch.setenv("CXX", str(program))
    assert sample.load().sum_to(100, 2) == 4950
    built = calls.read_text()
    assert "sample.cpp" in built
    assert "-march=native" in built
    native.forget()  # as a new process
    assert sample.load().sum_to(100, 1) == 4950
    assert calls.read_text() == built
