"""A run's log is shown as a whole, in parts, and while it is written, over all attempts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.dispatch.status import status
from lab.dispatch.status.logs import follow, job_output, lines_of
from lab.dispatch.status.status import StatusRow
from lab.dispatch.worker.claim import Claim
from lab.records import RunFolder, State
from lab.refusals import RequestError

Make = Callable[..., RunFolder]

LOG = """\
==== attempt 1 on n1, process 5, 2026-01-01 00:00:00 UTC ====
begun
==== attempt 9 on nothing ==== is what a run may print
==== attempt 2 on n2, process 6, 2026-01-01 00:10:00 UTC ====
gone on
finished after 3.0 s
"""


@pytest.fixture
def run(make: Make) -> RunFolder:
    return make("caps/both/seed-0")


def test_all_of_it_the_last_lines_and_one_attempt(run: RunFolder) -> None:
    assert lines_of(run) == []
    (run.path / "log.txt").write_text(LOG)
    assert lines_of(run) == LOG.splitlines()
    assert lines_of(run, last=1) == ["finished after 3.0 s"]
    assert lines_of(run, last=0) == []
    assert lines_of(run, attempt=1)[1:] == LOG.splitlines()[1:3]
    assert lines_of(run, attempt=2, last=2) == LOG.splitlines()[4:]
    with pytest.raises(RequestError, match="attempt 3 is not in its log, which has 1, 2"):
        lines_of(run, attempt=3)


def test_what_a_job_said_stands_under_its_files_name(tmp_path: Path) -> None:
    said, empty = tmp_path / "7_0_log.out", tmp_path / "7_0_log.err"
    said.write_text("one\ntwo\n")
    empty.touch()
    assert job_output([said, empty, tmp_path / "missing"]) == [f"==== {said} ====", "one", "two"]
    assert job_output([said], last=1) == [f"==== {said} ====", "two"]


def write(run: RunFolder, text: str) -> None:
    with open(run.path / "log.txt", "a") as file:
        file.write(text)


def test_following_waits_over_a_preemption_and_ends_with_the_run(run: RunFolder) -> None:
    (run.path / "log.txt").write_text("a\nb\nc\nhal")
    claim = Claim.take(run.path)
    assert claim is not None
    run.state = State(status="running", attempts=1)
    told: list[str] = []

    def write_on() -> None:
        time.sleep(0.3)
        write(run, "f\n")
        run.state = State(status="preempted", attempts=1)
        claim.release()
        time.sleep(1.5)
        write(run, "on\nlast")
        run.state = State(status="finished", attempts=2)

    writer = threading.Thread(target=write_on)
    writer.start()
    lines = list(follow(run, lambda: status.read_row(run), last=2, on_wait=lambda row: told.append(row.status)))
    writer.join()
    assert lines == ["b", "c", "half", "on", "last"]
    assert told == ["preempted"]


def test_following_a_run_that_nothing_continues_with_ends(run: RunFolder) -> None:
    (run.path / "log.txt").write_text("a\n")
    run.state = State(status="failed")
    assert list(follow(run, lambda: status.read_row(run))) == ["a"]


def test_what_is_written_while_the_run_ends_is_not_lost(run: RunFolder) -> None:
    def look() -> StatusRow:
        write(run, "the very last\n")
        run.state = State(status="finished")
        return status.read_row(run)

    assert list(follow(run, look)) == ["the very last"]
