"""A run folder has one writer at a time, over processes and hosts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from lab.dispatch.worker.claim import Claim, holder
from lab.dispatch.worker.process import Process

TAKER = """
import sys, time
from pathlib import Path
from lab.dispatch.worker.claim import Claim
print("ready", flush=True)
sys.stdin.readline()
claim = Claim.take(Path(sys.argv[1]), stale_after=float(sys.argv[2]))
print("got" if claim else "not", flush=True)
sys.stdin.readline()
"""


class Taker:
    """A process that tries to claim a folder on a signal, and then lives until told otherwise."""

    def __init__(self, folder: Path, stale_after: float = 60.0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKER, str(folder), str(stale_after)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.read() == "ready"

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def winners(takers: list[Taker]) -> int:
    for taker in takers:
        taker.go()
    answers = [taker.read() for taker in takers]
    assert set(answers) <= {"got", "not"}
    return answers.count("got")


def foreign(folder: Path, age: float) -> None:
    """A claim of another host, silent for `age` seconds."""
    (folder / ".claims").mkdir()
    path = folder / ".claims" / "1"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "mark": "boot/1", "taken": 0, "released": None}))
    os.utime(path, (time.time() - age,) * 2)


def test_a_claimed_run_is_not_claimed_twice_even_by_its_holder(tmp_path: Path) -> None:
    first = Claim.take(tmp_path)
    assert first is not None
    assert Claim.take(tmp_path) is None
    held = holder(tmp_path)
    assert held is not None
    assert held.process == Process.this()


def test_a_released_run_can_be_claimed_again(tmp_path: Path) -> None:
    with Claim.take(tmp_path) as first:  # type: ignore[union-attr]
        pass
    assert holder(tmp_path) is None
    second = Claim.take(tmp_path)
    assert second is not None
    assert second.number == first.number + 1


def test_of_many_processes_one_claims_a_free_run(tmp_path: Path) -> None:
    takers = [Taker(tmp_path) for _ in range(6)]
    assert winners(takers) == 1
    for taker in takers:
        taker.end()


def test_of_many_processes_one_takes_over_a_dead_ones_claim(tmp_path: Path) -> None:
    dead = Taker(tmp_path)
    assert winners([dead]) == 1
    assert holder(tmp_path) is not None
    dead.end()
    assert holder(tmp_path) is None
    takers = [Taker(tmp_path) for _ in range(6)]
    assert winners(takers) == 1
    assert holder(tmp_path) is not None
    for taker in takers:
        taker.end()


def test_a_zombie_process_holds_no_claim(tmp_path: Path) -> None:
    zombie = Taker(tmp_path)
    assert winners([zombie]) == 1
    os.kill(zombie.process.pid, 9)
    os.waitid(os.P_PID, zombie.process.pid, os.WEXITED | os.WNOWAIT)
    assert holder(tmp_path) is None
    zombie.end()


def test_a_silent_process_of_this_host_holds_as_long_as_it_lives(tmp_path: Path) -> None:
    taker = Taker(tmp_path)
    assert winners([taker]) == 1
    os.utime(tmp_path / ".claims" / "1", (0, 0))
    assert Claim.take(tmp_path, stale_after=1.0) is None
    taker.end()


def test_another_processs_id_used_again_does_not_hold(tmp_path: Path) -> None:
    claim = Claim.take(tmp_path)
    assert claim is not None
    content = json.loads(claim.path.read_text())
    claim.path.write_text(json.dumps({**content, "mark": content["mark"] + "0"}))
    assert holder(tmp_path) is None


def test_a_foreign_hosts_claim_holds_until_it_has_been_silent_for_long(tmp_path: Path) -> None:
    foreign(tmp_path, age=50)
    assert Claim.take(tmp_path, stale_after=60) is None
    assert holder(tmp_path, stale_after=60).age >= 50  # type: ignore[union-attr]
    assert holder(tmp_path, stale_after=40) is None
    assert Claim.take(tmp_path, stale_after=40) is not None


def test_of_many_processes_one_takes_over_a_silent_foreign_claim(tmp_path: Path) -> None:
    foreign(tmp_path, age=300)
    takers = [Taker(tmp_path, 120.0) for _ in range(6)]
    assert winners(takers) == 1
    for taker in takers:
        taker.end()


def test_a_claim_in_the_making_is_respected_and_an_abandoned_one_is_not(tmp_path: Path) -> None:
    (tmp_path / ".claims").mkdir()
    path = tmp_path / ".claims" / "1"
    path.write_text("")
    assert Claim.take(tmp_path, stale_after=60) is None
    os.utime(path, (0, 0))
    assert Claim.take(tmp_path, stale_after=60) is not None


def test_a_holder_learns_that_it_was_taken_over(tmp_path: Path) -> None:
    claim = Claim.take(tmp_path)
    assert claim is not None
    assert claim.beat()
    (tmp_path / ".claims" / "2").write_text("")
    assert not claim.beat()


def test_a_heartbeat_renews_a_claim(tmp_path: Path) -> None:
    claim = Claim.take(tmp_path)
    assert claim is not None
    os.utime(claim.path, (0, 0))
    assert claim.beat()
    assert holder(tmp_path).age < 10  # type: ignore[union-attr]
