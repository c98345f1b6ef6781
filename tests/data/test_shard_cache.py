"""The cache of token shards: made once, by one process, whole or not at all, and known by content alone."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest

from lab.data import DataError, content
from lab.data.cache import default_cache
from lab.data.options import BPE, Byte, Data, Files
from lab.data.shards import prepare

SPAWN = multiprocessing.get_context("spawn")


def data(root: Path, fraction: float = 0.2) -> Data:
    return Data(corpus=Files(paths=(str(root),)), validation_fraction=fraction)


def stages(data: Data, cache: Path) -> set[str]:
    """What `prepare` had to wait for."""
    seen: set[str] = set()
    prepare(data, cache, lambda stage, done: seen.add(stage))
    return seen


def settle(root: Path) -> None:
    """Make every file old enough for its times to be believed."""
    for path in root.rglob("*"):
        os.utime(path, (1e9, 1e9))


def files_read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A list that grows by every file whose content is read for its digest."""
    read: list[Path] = []
    whole = content.file_digest

    def count(path: Path) -> str:
        read.append(path)
        return whole(path)

    monkeypatch.setattr(content, "file_digest", count)
    return read


def _race(root: Path, cache: Path, barrier: Barrier, log: Path) -> None:
    def note(stage: str, done: int) -> None:
        if stage not in seen:
            with open(log, "a") as file:
                file.write(f"{stage}\n")
            seen.add(stage)
            time.sleep(0.5)  # long enough for the others to arrive

    seen: set[str] = set()
    barrier.wait()
    made = prepare(data(root), cache, note)
    with open(log, "a") as file:
        file.write(f"{made.digest} {made.train.sum()} {len(made.validation)}\n")


def test_processes_that_start_together_build_once(folder: Path, cache: Path, tmp_path: Path) -> None:
    log, barrier = tmp_path / "log", SPAWN.Barrier(2)
    racers = [SPAWN.Process(target=_race, args=(folder, cache, barrier, log)) for _ in range(2)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(300)
    assert [racer.exitcode for racer in racers] == [0, 0]
    lines = log.read_text().splitlines()
    assert lines.count("tokenizing") == 1
    assert lines.count("waiting for another process") == 1
    assert lines[-1] == lines[-2]


def _die_half_way(root: Path, cache: Path) -> None:
    def kill(stage: str, done: int) -> None:
        if done > 1000:
            os.kill(os.getpid(), signal.SIGKILL)

    prepare(data(root), cache, kill)


def test_a_killed_builder_leaves_neither_a_lock_nor_a_broken_cache(folder: Path, cache: Path, tmp_path: Path) -> None:
    builder = SPAWN.Process(target=_die_half_way, args=(folder, cache))
    builder.start()
    builder.join(300)
    assert builder.exitcode == -signal.SIGKILL
    (left_over,) = (path for path in (cache / "tokens").iterdir() if path.is_dir())
    assert left_over.name.startswith(".")
    made = prepare(data(folder), cache)
    assert np.array_equal(made.train, prepare(data(folder), tmp_path / "clean").train)
    assert [path.name for path in (cache / "tokens").iterdir() if path.is_dir()] == [made.digest]


def test_a_failed_build_leaves_nothing_behind(folder: Path, cache: Path) -> None:
    (folder / "z.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match="UTF-8"):
        prepare(data(folder), cache)
    assert [path for path in (cache / "tokens").iterdir() if path.is_dir()] == []


def test_what_is_in_the_cache_is_not_made_again(folder: Path, cache: Path) -> None:
    assert stages(data(folder), cache) == {"tokenizing"}
    assert stages(data(folder), cache) == set()


@pytest.mark.parametrize("name", ["train.bin", "validation.bin", "meta.json", "tokenizer.json"])
@pytest.mark.parametrize("harm", ["truncate", "delete"])
def test_a_damaged_shard_is_made_again(name: str, harm: str, folder: Path, cache: Path) -> None:
    wanted = Data(corpus=Files(paths=(str(folder),)), tokenizer=BPE(size=270), validation_fraction=0.2)
    before = prepare(wanted, cache)
    tokens = before.train.tolist(), before.validation.tolist()
    path = cache / "tokens" / before.digest / name
    if harm == "truncate":
        os.truncate(path, path.stat().st_size - 2)
    else:
        path.unlink()
    assert stages(wanted, cache) == {"learning the tokenizer", "tokenizing"}
    after = prepare(wanted, cache)
    assert (after.train.tolist(), after.validation.tolist()) == tokens
    assert after.decode(after.encode("naïve")) == "naïve"
    assert stages(wanted, cache) == set()


def test_the_key_follows_content_tokenizer_and_split_but_not_times(folder: Path, cache: Path, tmp_path: Path) -> None:
    digest = prepare(data(folder), cache).digest
    settle(folder)
    shutil.copytree(folder, tmp_path / "copy")
    assert prepare(data(folder), cache).digest == digest
    assert prepare(data(tmp_path / "copy"), cache).digest == digest
    assert prepare(data(folder, fraction=0.3), cache).digest != digest
    assert prepare(data(folder), cache / "other").digest == digest
    bpe = Data(corpus=Files(paths=(str(folder),)), tokenizer=BPE(size=260), validation_fraction=0.2)
    assert prepare(bpe, cache).digest != digest
    (folder / "part0" / "doc00.txt").rename(folder / "part0" / "renamed.txt")
    assert prepare(data(folder), cache).digest != digest


@pytest.mark.parametrize("old", [True, False])
def test_content_decides_where_size_and_time_stay_the_same(old: bool, folder: Path, cache: Path) -> None:
    if old:
        settle(folder)
    before = prepare(data(folder), cache)
    path = folder / "part0" / "doc00.txt"
    times = path.stat()
    path.write_bytes(path.read_bytes().replace(b"the", b"THE"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == times.st_size
    assert prepare(data(folder), cache).digest != before.digest


def test_unchanged_files_are_not_read_again(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(folder)
    read = files_read(monkeypatch)
    prepare(data(folder), cache)
    assert len(read) == 40
    prepare(data(folder), cache)
    assert len(read) == 40


def test_files_too_young_to_be_believed_are_read_again(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(data(folder), cache)
    os.utime(folder / "part0" / "doc00.txt")
    read = files_read(monkeypatch)
    for _ in range(2):
        prepare(data(folder), cache)
    assert len(read) == 80


def test_a_corpus_that_changes_while_it_is_read_is_refused(folder: Path, cache: Path) -> None:
    def meddle(stage: str, done: int) -> None:
        (folder / "part0" / "doc00.txt").write_text("something else")

    with pytest.raises(DataError, match="changed while it was being read"):
        prepare(data(folder), cache, meddle)
    assert [path for path in (cache / "tokens").iterdir() if path.is_dir()] == []


def test_without_locks_the_work_is_done_all_the_same(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(file: object, operation: int) -> None:
        raise OSError(37, "No locks available")  # ENOLCK

    monkeypatch.setattr("fcntl.flock", no_locks)
    assert stages(data(folder), cache) == {"tokenizing"}
    assert stages(data(folder), cache) == set()


def test_without_locks_the_slower_builder_keeps_what_the_faster_one_made(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(file: object, operation: int) -> None:
        raise OSError(37, "No locks available")

    def overtake(stage: str, done: int) -> None:
        if not faster:
            faster.append((cache / "tokens" / prepare(data(folder), cache).digest).stat().st_ino)

    faster: list[int] = []
    monkeypatch.setattr("fcntl.flock", no_locks)
    prepare(data(folder), cache, overtake)
    (made,) = (path for path in (cache / "tokens").iterdir() if path.is_dir())
    assert [made.stat().st_ino] == faster
    assert stages(data(folder), cache) == set()


def test_a_cache_that_cannot_be_written_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"file: the cache can't be written .*LAB_CACHE"):
        prepare(data(folder), tmp_path / "file")


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("LAB_CACHE", raising=False)
    assert default_cache() == Path("/home/ada/.cache/architecture-lab")
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch")
    assert default_cache() == Path("/scratch/architecture-lab")
    monkeypatch.setenv("LAB_CACHE", "~/shards")
    assert default_cache() == Path("/home/ada/shards")


def test_bytes_and_text_keep_separate_tokens(folder: Path, cache: Path) -> None:
    corpus = Files(paths=(str(folder),))
    lengths = {
        len(prepare(Data(corpus=corpus, tokenizer=t, validation_fraction=0.2), cache).train)
        for t in (Byte(), BPE(size=280))
    }
    assert len(lengths) == 2
