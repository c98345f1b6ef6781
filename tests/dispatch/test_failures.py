"""Out of memory, disk full and bug are told apart, in the words that libraries really use."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.dispatch.launchers.local.worker_process import record_worker_exit
from lab.dispatch.worker.failure import classify, memory_kills, reason
from lab.records import RunFolder, State

Make = Callable[..., RunFolder]


class OutOfMemoryError(RuntimeError):
    """Stands for torch.OutOfMemoryError, which is known by its name."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "out_of_memory"),
        (OutOfMemoryError("CUDA"), "out_of_memory"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:126] DefaultCPUAllocator: can't allocate memory"),
            "out_of_memory",
        ),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"), "out_of_memory"),
        (RuntimeError("CUDA error: out of memory"), "out_of_memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "out_of_memory"),
        (RuntimeError("std::bad_alloc"), "out_of_memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk_full"),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), "disk_full"),
        (RuntimeError("shape '[2, 3]' is invalid for input of size 5"), "bug"),
        (KeyError("out of memory"), "bug"),
        (OSError(errno.ENOENT, "No such file"), "bug"),
        (SystemExit(3), "bug"),
    ],
)
def test_each_failure_has_its_kind(error: BaseException, kind: str) -> None:
    assert classify(error) == kind


def raised(error: BaseException, during: BaseException, cause: BaseException | None) -> BaseException:
    """`error` raised from `cause` while `during` was being handled."""
    try:
        try:
            raise during
        except type(during):
            raise error from cause
    except type(error) as found:
        return found


FULL = OSError(errno.ENOSPC, "No space left on device")


def test_what_caused_a_failure_counts() -> None:
    assert classify(raised(ValueError("not saved"), during=KeyError(), cause=FULL)) == "disk_full"


def test_what_a_failure_came_in_the_way_of_counts() -> None:
    error = ValueError("not cleaned up")
    error.__context__ = FULL
    assert classify(error) == "disk_full"


def test_a_context_that_was_declared_irrelevant_does_not_count() -> None:
    assert classify(raised(ValueError("a mistake"), during=MemoryError(), cause=None)) == "bug"


def test_torchs_own_allocator_failure_is_out_of_memory() -> None:
    torch = pytest.importorskip("torch")
    assert torch.OutOfMemoryError.__name__ == OutOfMemoryError.__name__
    with pytest.raises(RuntimeError) as failed:
        torch.empty(2**60, dtype=torch.uint8)
    assert classify(failed.value) == "out_of_memory"


def test_a_reason_is_one_line() -> None:
    assert reason(ValueError("first\nsecond")) == "ValueError: first"
    assert reason(KeyError("n_heads")) == "KeyError: 'n_heads'"
    assert len(reason(ValueError("x" * 1000))) == 300


def counts(folder: Path, content: dict[str, str]) -> int | None:
    for name, text in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return memory_kills(folder / "proc", folder / "sys")


def test_the_kernels_kills_are_counted_in_the_own_control_group(tmp_path: Path) -> None:
    machine = {"proc/vmstat": "nr_free_pages 5\noom_kill 7\n"}
    assert counts(tmp_path / "none", {}) is None
    assert counts(tmp_path / "machine", machine) == 7
    second = {"proc/self/cgroup": "0::/job/step\n", "sys/job/step/memory.events": "oom 3\noom_kill 2\n"}
    assert counts(tmp_path / "second", machine | second) == 2
    first = {
        "proc/self/cgroup": "4:memory:/job\n1:cpu:/job\n0::/\n",
        "sys/memory/job/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
    }
    assert counts(tmp_path / "first", machine | first) == 1


@pytest.mark.parametrize(
    ("code", "memory_was_short", "status", "failure"),
    [(-9, True, "failed", "out_of_memory"), (-9, False, "lost", "interrupted"), (-15, True, "lost", "interrupted")],
)
def test_a_worker_killed_for_its_memory_is_distinguished_from_one_killed_by_a_user(
    make: Make, code: int, memory_was_short: bool, status: str, failure: str
) -> None:
    run = make("caps/both/seed-0")
    run.state = State(status="running", attempts=1)
    assert record_worker_exit(run, 0, code, None, memory_was_short=memory_was_short)
    assert (run.state.status, run.state.failure) == (status, failure)
