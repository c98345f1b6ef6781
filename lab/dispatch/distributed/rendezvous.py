"""One attempt at a run by several processes: they start together, and if one ends, all end.

Each process writes heartbeats to the store. The first process watches all others, and they watch it. When a process
ends, training usually fails in its next exchange. If it hangs instead, this process ends after a short grace period.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import re
import socket
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator

from torch.distributed import DistError, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from lab.code_version import digest
from lab.dispatch.distributed import rendezvous_store
from lab.dispatch.distributed.rendezvous_store import Channel, Silence
from lab.dispatch.worker import failure
from lab.dispatch.worker.failure import PeerFailure
from lab.records import Failure
from lab.training.parallel.world import World

GRACE = 10.0  # seconds in which training must notice that a process is gone, before this process ends

# torch raises plain RuntimeErrors with the messages of gloo.
_EXCHANGE_BROKE = re.compile(r"gloo|nccl|connection (was )?(closed|reset|refused)|broken pipe", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class _Announcement:
    """The attempt that the first process starts: the run's folder, and the digest of its code."""

    run: str
    code: str


@dataclasses.dataclass(frozen=True)
class _Member:
    host: str
    pid: int


@dataclasses.dataclass(frozen=True)
class _Report:
    """The error that ended a process's part of a run.

    Attributes:
        is_consequence: whether it follows from the end of another process.
    """

    kind: Failure
    reason: str
    traceback: str
    is_consequence: bool


class Rendezvous:
    """One attempt, created by `announce` in the first process and by `join` in the others.

    Attributes:
        number: the attempt's number in this Slurm step, from 1.
        run: the run's folder.
        store: the store through which the processes connect for training.
    """

    def __init__(self, store: TCPStore, world: World, number: int, announcement: _Announcement) -> None:
        prefix = f"attempt {number}"
        self.number = number
        self.run = announcement.run
        self.store: Store = PrefixStore(f"{prefix} group", store.clone())  # type: ignore[attr-defined]
        self._code = announcement.code
        self._world = world
        self._others = [rank for rank in range(world.size) if rank != world.rank]
        self._channel = Channel(store, prefix)
        self._heartbeats = Channel(store.clone(), prefix)  # type: ignore[attr-defined]  # for the thread
        self._on_stuck: Callable[[PeerFailure], None] | None = None
        self._training_ended = threading.Event()
        self._closed = threading.Event()
        self._channel.write(f"member {world.rank}", _text(_Member(socket.gethostname(), os.getpid())))
        threading.Thread(target=self._beat, name="ranks", daemon=True).start()

    @classmethod
    def announce(cls, store: TCPStore, world: World, run: str) -> Rendezvous:
        """Start an attempt, as the first process."""
        step, announcement = Channel(store), _Announcement(run, digest())
        number = step.add("attempts", 1)
        step.write(f"attempt {number}", _text(announcement))
        return cls(store, world, number, announcement)

    @classmethod
    def join(cls, store: TCPStore, world: World, after: int) -> Rendezvous | None:
        """Take part in the newest attempt, if its number is above `after` and it is still open. Otherwise None."""
        step = Channel(store)
        number = step.add("attempts", 0)
        announcement = step.read(f"attempt {number}")
        if number <= after or announcement is None or Channel(store, f"attempt {number}").read("code") is not None:
            return None
        return cls(store, world, number, _Announcement(**json.loads(announcement)))

    def gather(self, stop: Callable[[], bool]) -> bool:
        """As the first process, wait for all others and start them. False if a stop was requested meanwhile.

        Raises:
            PeerFailure: a process failed, or didn't arrive in time.
        """
        deadline = time.monotonic() + rendezvous_store.ARRIVAL
        while missing := [rank for rank in self._others if self._channel.read(f"member {rank}") is None]:
            self._raise_reported(self._channel)
            if stop():
                return False
            if time.monotonic() > deadline:
                missing_processes = f"process {', '.join(map(str, missing))} of {self._world.size}"
                message = f"{missing_processes} did not arrive within {rendezvous_store.ARRIVAL:.0f} s"
                raise PeerFailure("interrupted", message)
            time.sleep(0.1)
        self._channel.write("start")
        return True

    def starts(self) -> bool:
        """Wait until the first process starts the attempt. False if it closed it instead.

        Raises:
            RuntimeError: this process runs other code than the first one.
        """
        if self._code != digest():
            raise RuntimeError("this process runs other code than the first one: the nodes see different installations")
        while self._channel.read("start") is None:
            if self._channel.read("code") is not None:
                return False
            time.sleep(0.1)
        return True

    @contextlib.contextmanager
    def training(self, on_stuck: Callable[[PeerFailure], None]) -> Iterator[None]:
        """A context for training. If training hangs because other processes are gone, a thread calls `on_stuck`."""
        self._training_ended.clear()
        self._on_stuck = on_stuck
        try:
            yield
        finally:
            self._on_stuck = None
            self._training_ended.set()

    def report(self, error: BaseException) -> None:
        """Report to the first process the error that ended this one's part."""
        trace = "".join(traceback.format_exception(error))
        report = _Report(failure.classify(error), failure.reason(error), trace, _exchange_broke(error))
        self._channel.write(f"failure {self._world.rank}", _text(report))

    def cause(self, error: BaseException) -> BaseException:
        """The root cause of an error in training, as far as the first process can tell.

        If an exchange broke, that is the error or the end of another process.
        """
        if not _exchange_broke(error):
            return error
        before = {rank: self._channel.read(f"beat {rank}") for rank in self._others}
        deadline = time.monotonic() + 4 * rendezvous_store.BEAT
        while time.monotonic() < deadline:
            try:
                self._raise_reported(self._channel)
            except PeerFailure as reported:
                return reported
            time.sleep(0.1)
        gone = [rank for rank, beat in before.items() if self._channel.read(f"beat {rank}") == beat]
        if not gone:
            return PeerFailure("interrupted", f"the processes lost their connection: {failure.reason(error)}")
        names = " and ".join(self._name(rank, self._channel) for rank in gone)
        return PeerFailure("interrupted", f"{names} of {self._world.size} is gone")

    def close(self, code: int) -> None:
        """Close the attempt.

        Args:
            code: the exit code. That of the first process becomes the exit code of all.
        """
        with contextlib.suppress(DistError, RuntimeError):
            if self._world.first:
                self._channel.write("code", str(code))
        self._closed.set()

    def wait_for_end(self) -> None:
        """Wait until the first process has closed the attempt."""
        while self._channel.read("code") is None:
            time.sleep(0.1)

    def _name(self, rank: int, channel: Channel) -> str:
        text = channel.read(f"member {rank}")
        if text is None:
            return f"process {rank}"
        member = _Member(**json.loads(text))
        return f"process {rank} ({member.pid} on {member.host})"

    def _raise_reported(self, channel: Channel) -> None:
        """Raise PeerFailure if another process has reported an error of its own."""
        for rank in self._others:
            text = channel.read(f"failure {rank}")
            report = _Report(**json.loads(text)) if text is not None else None
            if report is not None and not report.is_consequence:
                error = PeerFailure(report.kind, f"{self._name(rank, channel)} of {self._world.size}: {report.reason}")
                error.add_note(f"Traceback of that process:\n{report.traceback}")
                raise error

    def _beat(self) -> None:
        """Write heartbeats and watch those of the others until the attempt is closed."""
        silences: defaultdict[int, Silence] = defaultdict(Silence)
        for beat in itertools.count(1):
            if self._closed.wait(rendezvous_store.BEAT):
                return
            problem = None
            try:
                self._heartbeats.write(f"beat {self._world.rank}", str(beat))
                self._watch(silences)
            except PeerFailure as error:
                problem = error
            except RuntimeError as error:
                problem = PeerFailure("interrupted", f"the first process can't be reached: {failure.reason(error)}")
            on_stuck = self._on_stuck
            if problem is not None and on_stuck is not None and not self._training_ended.wait(GRACE):
                on_stuck(problem)

    def _watch(self, silences: defaultdict[int, Silence]) -> None:
        """Raise PeerFailure if a process that this one watches is gone."""
        if self._world.first:
            self._raise_reported(self._heartbeats)
        elif self._heartbeats.read("code") is not None:
            raise PeerFailure("interrupted", "the first process has left")
        for rank in self._others if self._world.first else [0]:
            if silences[rank].is_too_long(self._heartbeats.read(f"beat {rank}")):
                raise PeerFailure("interrupted", f"process {rank} of {self._world.size} sends no heartbeat")


def _text(message: _Announcement | _Member | _Report) -> str:
    return json.dumps(dataclasses.asdict(message))


def _exchange_broke(error: BaseException) -> bool:
    """Whether an exception, or one of its causes, comes from the exchange with other processes."""
    return any(
        isinstance(link, DistError) or (isinstance(link, RuntimeError) and _EXCHANGE_BROKE.search(str(link)))
        for link in failure.chain(error)
    )
