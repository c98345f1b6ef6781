"""A native library is built once, loads from the cache without a compiler, and shares torch's threads."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from components.native import cpu
from components.native import library as native
from components.native.library import NativeLibrary
from components.native.unavailable import NativeUnavailable
from tests.forked import REPOSITORY
from tests.native.conftest import UseCompiler, compilations, entries, leftovers

INTEL = "vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 79\nflags\t\t: fpu sse2 avx2 fma\n\nprocessor\t: 1\n"


def test_the_compiler_is_called_for_the_first_process_alone(
    sample: NativeLibrary, cache: Path, use_compiler: UseCompiler
) -> None:
    calls = use_compiler('exec g++ "$@"')
    assert sample.load().sum_to(100, 2) == 4950
    assert compilations(calls) == 1
    assert "-march=native" in calls.read_text()
    built = calls.read_text()
    native.forget()  # as a new process
    assert sample.load().sum_to(100, 1) == 4950
    assert calls.read_text() == built
    assert len(entries(cache)) == 1
    assert not leftovers(cache)


def test_threads_are_those_of_torch(prebuilt: NativeLibrary) -> None:
    functions = prebuilt.load()
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            assert functions.threads_of_torch() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_a_process_has_one_openmp_runtime_even_if_the_systems_own_is_loaded_first(prebuilt: NativeLibrary) -> None:
    code = f"""
import ctypes
try:
    ctypes.CDLL("libgomp.so.1")
except OSError:
    raise SystemExit(3)
from pathlib import Path
import torch
from components.native.library import NativeLibrary
functions = NativeLibrary("sample", (Path({str(prebuilt.sources[0])!r}),)).load()
torch.set_num_threads(3)
assert functions.threads_of_torch() == 3
assert functions.sum_to(100, 3) == 4950
with open("/proc/self/maps") as maps:
    print(len({{line.split()[-1] for line in maps if "/libgomp" in line}}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode == 3:
        pytest.skip("this system has no libgomp.so.1 of its own")
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_a_key_follows_all_that_a_build_depends_on(
    sample: NativeLibrary, tmp_path: Path, use_compiler: UseCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_compiler('exec g++ "$@"')

    def key() -> str:
        return native.build_key(sample, native.cxx.find_compiler())

    keys = [key()]
    assert key() == keys[0]
    (tmp_path / "inner.hpp").write_text("// a header that the source may include")
    keys.append(key())
    sample.sources[0].write_text(sample.sources[0].read_text() + "// changed")
    keys.append(key())
    compiler = Path(os.environ["CXX"])
    os.utime(compiler, (1, 1))  # as an update does
    keys.append(key())
    monkeypatch.setattr(native.cxx, "FLAGS", (*native.cxx.FLAGS, "-O1"))
    keys.append(key())
    monkeypatch.setattr(cpu, "CPU_INFO", tmp_path / "cpuinfo")
    cpu.CPU_INFO.write_text(INTEL)
    keys.append(key())
    monkeypatch.setattr(native, "FORMAT", native.FORMAT + 1)
    keys.append(key())
    assert len(set(keys)) == len(keys)


def test_a_key_is_the_same_for_the_same_instructions_in_another_order(
    sample: NativeLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = native.cxx.find_compiler()
    monkeypatch.setattr(cpu, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    keys = []
    for text in (
        INTEL,
        INTEL.replace("sse2 avx2", "avx2 sse2") + "flags\t: other",
        INTEL.replace("fma", "fma avx512f"),
    ):
        cpu.CPU_INFO.write_text(text)
        keys.append(native.build_key(sample, compiler))
    assert keys[0] == keys[1] != keys[2]


def test_all_kinds_of_processors_of_an_arm_machine_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    small = "processor\t: 0\nFeatures\t: fp asimd\nCPU part\t: 0xd05\n\n"
    cpu.CPU_INFO.write_text(small + "processor\t: 1\nFeatures\t: asimd fp bf16\nCPU part\t: 0xd41\n")
    assert cpu.features() == {"CPU part": "0xd05 | 0xd41", "Features": "asimd bf16 fp | asimd fp"}
    assert cpu.instruction_sets() == ["asimd", "bf16"]


def test_another_cpu_with_the_same_home_folder_has_a_build_of_its_own(
    sample: NativeLibrary, cache: Path, tmp_path: Path, use_compiler: UseCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = use_compiler('exec g++ "$@"')
    here = sample.loaded().built.path
    real = cpu.CPU_INFO
    (tmp_path / "cpuinfo").write_text(INTEL)
    paths = []
    for file in (tmp_path / "cpuinfo", real):
        monkeypatch.setattr(cpu, "CPU_INFO", file)
        native.forget()
        paths.append(sample.loaded().built.path)
    assert paths[0] != here == paths[1]
    assert (len(entries(cache)), compilations(calls)) == (2, 2)


def test_the_switch_is_a_reason_of_its_own(sample: NativeLibrary, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_NO_NATIVE", "1")
    with pytest.raises(NativeUnavailable) as refused:
        sample.load()
    assert refused.value.cause is native.NativeCause.SWITCHED_OFF
    assert sample.unavailable() == "LAB_NO_NATIVE is set"
    assert not cache.exists()


def test_another_system_is_a_reason_of_its_own(sample: NativeLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(NativeUnavailable, match="Linux only, not darwin") as refused:
        sample.load()
    assert refused.value.cause is native.NativeCause.PLATFORM


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_person_at_a_terminal_hears_of_a_build_once(
    sample: NativeLibrary, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    sample.load()
    line = "building native kernels (sample), once for this machine, some seconds\n"
    assert capsys.readouterr().err == (line if is_terminal else "")
    native.forget()
    sample.load()
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler is here")
def test_every_library_of_the_project_loads_where_there_is_a_compiler() -> None:
    importlib.import_module("components.catalogue")  # defines them
    assert {library.name: library.unavailable() for library in native.libraries()} == {
        library.name: None for library in native.libraries()
    }
