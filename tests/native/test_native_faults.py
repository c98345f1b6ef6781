"""Compilers, caches and builds that go wrong: each has its reason, and nothing half made is taken for whole."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import time
from pathlib import Path

import pytest

from components.native import build, compiler, entry, failure, folder
from components.native import library as native
from components.native.library import NativeLibrary
from components.native.unavailable import NativeCause, NativeUnavailable
from tests.native.conftest import UseCompiler, compilations, entries, leftovers

GOOD = 'exec g++ "$@"'
SHARED = 'case "$*" in *-shared*) shared=1; while [ "$1" != -o ]; do shift; done; out=$2;; esac\n'


def cause(library: NativeLibrary, words: str) -> NativeCause:
    """Why the library isn't available: the cause, whose detail has these words."""
    with pytest.raises(NativeUnavailable) as refused:
        library.load()
    assert words in refused.value.detail
    assert library.unavailable() == refused.value.detail
    return refused.value.cause


@pytest.mark.parametrize(
    ("script", "expected", "words"),
    [
        ("echo 'internal error: out of luck'; exit 4", NativeCause.COMPILER_FAILED, "exit code 4: internal error: out"),
        ("kill -9 $$", NativeCause.COMPILER_FAILED, "was ended by signal 9"),
        ("exit 0", NativeCause.COMPILER_FAILED, "wrote no library, and reported no error"),
        (SHARED + '[ $shared ] && echo rubbish > "$out"; exit 0', NativeCause.NOT_LOADABLE, "fails its self-test"),
        (
            SHARED.replace("shared=1;", 'shared=1; g++ "$@" || exit 1;')
            + '[ $shared ] && truncate -s 5000 "$out" && exit 0; exec g++ "$@"',
            NativeCause.NOT_LOADABLE,
            "fails its self-test",
        ),
        ('exec g++ "$@" -DNATIVE_BUILD_KEY=\\"another\\"', NativeCause.NOT_LOADABLE, "it is another build"),
        ("echo '#error none' | g++ -x c++ -c -", NativeCause.COMPILER_FAILED, "error: #error none"),
    ],
    ids=["fails", "is killed", "writes nothing", "writes rubbish", "cuts the library", "another build", "diagnoses"],
)
def test_a_broken_compiler_is_a_reason(
    sample: NativeLibrary, cache: Path, use_compiler: UseCompiler, script: str, expected: NativeCause, words: str
) -> None:
    use_compiler(script)
    assert cause(sample, words) is expected
    assert not entries(cache)
    assert not leftovers(cache)


def test_an_instruction_that_the_processor_lacks_ends_the_trial_and_not_the_process(
    sample: NativeLibrary, cache: Path
) -> None:
    with open(sample.sources[0], "a") as source:
        source.write("__attribute__((constructor)) static void lacking() { __builtin_trap(); }\n")
    assert cause(sample, "fails its self-test: signal 4") is NativeCause.NOT_LOADABLE
    assert not entries(cache)


def test_a_compiler_that_hangs_is_stopped_with_all_that_it_started(
    sample: NativeLibrary, cache: Path, tmp_path: Path, use_compiler: UseCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "LIMIT_SECONDS", 0.3)
    use_compiler(f"sleep 600 & echo $! > {tmp_path / 'child'}; wait")
    assert cause(sample, "was stopped after 0 s") is NativeCause.COMPILER_TOO_SLOW
    child = int((tmp_path / "child").read_text())
    status = Path(f"/proc/{child}/stat")
    assert not status.exists() or status.read_text().split()[2] == "Z"
    assert not leftovers(cache)


@pytest.mark.parametrize("name", ["no-such-compiler", "g++ -O1", "/", "/etc/passwd", ""])
def test_a_compiler_that_is_none_is_a_reason(
    sample: NativeLibrary, cache: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("CXX", name)
    assert cause(sample, f"there is no C++ compiler {name!r}, which CXX names") is NativeCause.NO_COMPILER
    assert not cache.exists()


def test_a_machine_without_a_compiler_says_so(sample: NativeLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert cause(sample, "there is no C++ compiler 'g++', and CXX names none") is NativeCause.NO_COMPILER


def test_a_failure_is_remembered_for_twenty_times_as_long_as_it_took(
    sample: NativeLibrary, cache: Path, use_compiler: UseCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = use_compiler('case "$*" in *--version*) exit 0;; esac; exit 1')
    now = time.time()
    monkeypatch.setattr(failure.time, "time", lambda: now)
    folder.make_folder(cache)
    key = native.build_key(sample, compiler.find_compiler())
    reason = NativeUnavailable(NativeCause.COMPILER_TOO_SLOW, "was stopped after 100 s", "a fix")
    failure.remember_failure(cache, "sample", key, reason, 100.0)
    monkeypatch.setattr(failure.time, "time", lambda: now + 1999)
    with pytest.raises(NativeUnavailable) as refused:
        sample.load()
    assert (refused.value.cause, refused.value.detail, refused.value.fix) == (reason.cause, reason.detail, reason.fix)
    assert compilations(calls) == 0
    monkeypatch.setattr(failure.time, "time", lambda: now + 2001)
    native.forget()
    assert cause(sample, "failed with exit code 1") is NativeCause.COMPILER_FAILED
    assert compilations(calls) == 1


@pytest.mark.parametrize("text", ["", "[]", '{"until": "soon"}', '{"until": 9e99, "cause": "moods", "detail": ""}'])
def test_a_damaged_note_of_a_failure_is_no_failure(prebuilt: NativeLibrary, cache: Path, text: str) -> None:
    key = native.build_key(prebuilt, compiler.find_compiler())
    (cache / f".sample-{key[:20]}.failed").write_text(text)
    assert failure.remembered_failure(cache, "sample", key) is None


def test_whoever_asks_anew_tries_a_failed_build_again(
    sample: NativeLibrary, tmp_path: Path, use_compiler: UseCompiler
) -> None:
    use_compiler(f"[ -e {tmp_path / 'repaired'} ] || exit 1\n{GOOD}")
    assert cause(sample, "exit code 1") is NativeCause.COMPILER_FAILED
    (tmp_path / "repaired").touch()
    assert cause(sample, "exit code 1") is NativeCause.COMPILER_FAILED, "this process remembers it"
    assert sample.loaded(retry=True).functions.sum_to(4, 1) == 6


@pytest.mark.parametrize("damage", ["flipped", "cut", "no library", "no record", "record of a list"])
def test_a_damaged_library_is_built_again_and_never_loaded(
    prebuilt: NativeLibrary, cache: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    (path,) = cache.glob("sample-*/sample.so")
    whole = path.read_bytes()
    if damage == "flipped":
        path.write_bytes(whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:])
    elif damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "no library":
        path.unlink()
    elif damage == "no record":
        path.with_name("build.json").unlink()
    else:
        path.with_name("build.json").write_text("[]")
    lines: list[str] = []
    monkeypatch.setattr(native, "announce", lines.append)
    assert prebuilt.load().sum_to(4, 1) == 6
    assert len(lines) == len(entries(cache)) == 1
    assert not leftovers(cache)


def test_where_the_cache_cannot_be_written_the_users_temporary_folder_holds_the_library(
    sample: NativeLibrary, tmp_path: Path, spare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LAB_NATIVE_CACHE", str(tmp_path / "file" / "native"))
    path = sample.loaded().built.path
    own = spare / f"architecture-lab-native-{os.geteuid()}"
    assert path.is_relative_to(own)
    assert stat.S_IMODE(own.stat().st_mode) == 0o700


def test_where_no_folder_can_be_written_each_is_named(
    sample: NativeLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LAB_NATIVE_CACHE", str(tmp_path / "file" / "native"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    own = f"native-{os.geteuid()}"
    names = f"{tmp_path}/file/native Not a directory; {tmp_path}/file/{own} Not a directory; {tmp_path}/file/arch"
    assert cause(sample, names) is NativeCause.NO_FOLDER


def test_without_a_home_folder_the_library_is_kept_among_the_users_temporary_files(
    sample: NativeLibrary, spare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LAB_NATIVE_CACHE", "LAB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert sample.loaded().built.path.is_relative_to(spare)


def test_a_folder_on_which_no_program_runs_is_passed_over(
    sample: NativeLibrary, cache: Path, spare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs

    def noexec(path: Path) -> object:
        status = real(path)
        values = list(status[:10])
        values[8] |= os.ST_NOEXEC if path.is_relative_to(cache.parent) else 0
        return os.statvfs_result(values)

    monkeypatch.setattr(os, "statvfs", noexec)
    assert sample.loaded().built.path.is_relative_to(spare)
    assert not entries(cache)


@pytest.mark.parametrize("planted", ["writable", "linked", "of another user"])
def test_a_folder_into_which_others_can_put_libraries_is_not_used(
    prebuilt: NativeLibrary, cache: Path, tmp_path: Path, planted: str
) -> None:
    if planted == "writable":
        cache.chmod(0o777)
    elif planted == "linked":
        cache.rename(tmp_path / "elsewhere")
        cache.symlink_to(tmp_path / "elsewhere")
    elif os.geteuid() == 0:
        os.chown(cache, 65534, 65534)
    else:
        pytest.skip("needs root, to give a folder away")
    own = prebuilt.loaded().built.path.parents[1]
    assert own == cache.with_name(f"native-{os.geteuid()}")
    assert stat.S_IMODE(own.stat().st_mode) == 0o700


def test_where_every_folder_belongs_to_another_user_none_is_used(
    prebuilt: NativeLibrary, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder.os, "geteuid", lambda: os.getuid() + 1)
    assert cause(prebuilt, f"{cache} belongs to another user ({os.getuid()})") is NativeCause.NO_FOLDER


def test_a_file_system_without_locks_builds_all_the_same(
    sample: NativeLibrary, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(file: object, operation: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert sample.load().sum_to(4, 1) == 6
    assert len(entries(cache)) == 1


def test_whoever_waits_too_long_builds_for_itself(
    sample: NativeLibrary, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "WAIT_SECONDS", 0.2)
    key = native.build_key(sample, compiler.find_compiler())
    folder.make_folder(cache)
    with open(cache / f".sample-{key[:20]}.lock", "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert sample.load().sum_to(4, 1) == 6


def test_the_build_of_a_process_that_was_faster_stays(
    sample: NativeLibrary, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = build.publish

    def late(building: Path, folder: Path, name: str, key: str) -> None:
        shutil.copytree(building, entry.entry_folder(folder, name, key))
        publish(building, folder, name, key)

    monkeypatch.setattr(build, "publish", late)
    assert sample.load().sum_to(4, 1) == 6
    assert len(entries(cache)) == 1
    assert not leftovers(cache)


def test_builds_that_nothing_uses_are_removed_after_a_month(prebuilt: NativeLibrary, cache: Path) -> None:
    now = time.time()
    for name, days in (("old-1", 31), ("recent-1", 29), (".building-x", 2), (".building-y", 0)):
        (cache / name).mkdir()
        os.utime(cache / name, (now - days * 86400, now - days * 86400))
    (used,) = [path for path in entries(cache) if path.name.startswith("sample")]
    os.utime(used, (now - 31 * 86400,) * 2)
    prebuilt.load()  # a use counts
    entry.remove_old(cache)
    assert {path.name for path in entries(cache)} == {"recent-1", used.name}
    assert leftovers(cache) == [".building-y"]
