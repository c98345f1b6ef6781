"""One attempt at a run by several processes: how they begin together, and how none is left behind when one goes.

They talk through a store that the first process's side keeps. Each gives signs of life there; the first one watches all
others, and they watch it. Training notices most ends by itself, in its next exchange; what it is stuck in for longer
than a moment after somebody has gone ends the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from torch.distributed import DistError, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from lab.code_version import digest
from lab.dispatch.worker import failure
from lab.dispatch.worker.failure import Elsewhere
from lab.training.parallel.world import World

BEAT = 1.0  # seconds between signs of life
SILENCE = 60  # own beats without one of another's after which that one counts as gone
GRACE = 10.0  # seconds that training has to notice for itself
COME = 300.0  # seconds within which all processes have to have come: they import torch from a busy file server

# torch raises plain RuntimeErrors from gloo, with the words of its source.
_SAYS_OTHERS = re.compile(r"gloo|nccl|connection (was )?(closed|reset|refused)|broken pipe", re.IGNORECASE)


class Turn:
    """One attempt.

    Args:
        store: this process's connection, a TCPStore.
        world: where it stands.
        number: of the turn, from 1.
        run: folder of the run.
        code: digest of the first process's code.
    Attributes:
        store: where the processes connect for training.
    """

    def __init__(self, store: Any, world: World, number: int, run: str, code: str) -> None:
        self.world = world
        self.number = number
        self.run = run
        # One connection for each thread: a wait holds it.
        self.store: Store = PrefixStore(f"turn {number} group", store.clone())
        self._talk: Any = PrefixStore(f"turn {number}", store)
        self._pulse: Any = PrefixStore(f"turn {number}", store.clone())
        self._code = code
        self._training = False
        self._left = threading.Event()
        self._closed = threading.Event()
        self._stuck: Callable[[Elsewhere], None] = lambda error: None
        me = {"host": socket.gethostname(), "pid": os.getpid()}
        self._talk.set(f"here {world.rank}", json.dumps(me))
        self._thread = threading.Thread(target=self._live, name="ranks", daemon=True)
        self._thread.start()

    @classmethod
    def announce(cls, store: TCPStore, world: World, run: str) -> Turn:
        """Begin one, as the first process."""
        number = int(store.add("turns", 1))
        store.set(f"turn {number}", json.dumps({"run": run, "code": digest()}))
        return cls(store, world, number, run, digest())

    @classmethod
    def next(cls, store: TCPStore, world: World, after: int) -> Turn | None:
        """Take part in the newest one beyond `after` that is still open; None if there is none yet."""
        number = int(store.add("turns", 0))
        if (
            number <= after
            or not store.check([f"turn {number}"])
            or PrefixStore(f"turn {number}", store).check(["code"])
        ):
            return None
        told = json.loads(store.get(f"turn {number}"))
        return cls(store, world, number, told["run"], told["code"])

    def gather(self, stop: Callable[[], bool]) -> bool:
        """Wait for all processes, as the first one, and have them begin; False if it was asked to stop first.

        Raises:
            Elsewhere: one failed, or didn't come in time.
        """
        deadline = time.monotonic() + COME
        while missing := [rank for rank in range(self.world.size) if not self._talk.check([f"here {rank}"])]:
            self._raise_failures(self._talk)
            if stop():
                return False
            if time.monotonic() > deadline:
                names = ", ".join(map(str, missing))
                raise Elsewhere("interrupted", f"process {names} of {self.world.size} did not come in {COME:.0f} s")
            time.sleep(0.1)
        self._talk.set("go", "")
        return True

    def begun(self) -> bool:
        """Wait for the first process's word; False if it ended the turn instead."""
        while not self._talk.check(["go"]):
            if self._talk.check(["code"]):
                return False
            time.sleep(0.1)
        return True

    def check_code(self) -> None:
        """Raise RuntimeError if this process is other code than the first one."""
        if self._code != digest():
            raise RuntimeError("it is other code than the first process's: the nodes see different installations")

    @contextlib.contextmanager
    def together(self, stuck: Callable[[Elsewhere], None]) -> Iterator[None]:
        """While training: call `stuck` with the cause, from a thread, if others have gone and training hangs for it."""
        self._stuck = stuck
        self._left.clear()
        self._training = True
        try:
            yield
        finally:
            self._training = False
            self._left.set()

    def fail(self, error: BaseException) -> None:
        """Tell the first process what ended this one's part."""
        told = {
            "kind": failure.classify(error),
            "reason": failure.reason(error),
            "traceback": "".join(traceback.format_exception(error)),
            "others": _is_others(error),
        }
        self._talk.set(f"failed {self.world.rank}", json.dumps(told))

    def explain(self, error: BaseException) -> BaseException:
        """What was really the matter where training ended with this exception, as far as the first process can tell.

        An exchange that breaks is a consequence: of an error in another process, or of its end.
        """
        if not _is_others(error):
            return error
        before = self._beats(self._talk)
        deadline = time.monotonic() + 4 * BEAT
        while time.monotonic() < deadline:
            try:
                self._raise_failures(self._talk)
            except Elsewhere as found:
                return found
            time.sleep(0.1)
        after = self._beats(self._talk)
        gone = [self._name(rank) for rank, beat in before.items() if after[rank] == beat]
        if not gone:
            return Elsewhere("interrupted", f"the processes lost touch with each other: {failure.reason(error)}")
        return Elsewhere("interrupted", f"{' and '.join(gone)} of {self.world.size} is gone")

    def close(self, code: int) -> None:
        """End it, with an exit code for all."""
        with contextlib.suppress(DistError, RuntimeError):
            if self.world.first:
                self._talk.set("code", str(code))
        self._closed.set()

    def code(self) -> int:
        """Wait for the first process's exit code."""
        while not self._talk.check(["code"]):
            time.sleep(0.1)
        return int(self._talk.get("code"))

    def _others(self) -> list[int]:
        return [rank for rank in range(self.world.size) if rank != self.world.rank]

    def _beats(self, store: Any) -> dict[int, bytes]:
        keys = {rank: f"beat {rank}" for rank in self._others()}
        return {rank: store.get(key) if store.check([key]) else b"" for rank, key in keys.items()}

    def _name(self, rank: int, store: Any = None) -> str:
        store = store or self._talk
        if not store.check([f"here {rank}"]):
            return f"process {rank}"
        who = json.loads(store.get(f"here {rank}"))
        return f"process {rank} ({who['pid']} on {who['host']})"

    def _raise_failures(self, store: Any) -> None:
        """Raise Elsewhere for an error that another process reports as its own."""
        for rank in self._others():
            if store.check([f"failed {rank}"]):
                told = json.loads(store.get(f"failed {rank}"))
                if not told["others"]:
                    error = Elsewhere(told["kind"], f"{self._name(rank, store)} of {self.world.size}: {told['reason']}")
                    error.add_note(f"There:\n{told['traceback']}")
                    raise error

    def _live(self) -> None:
        seen: dict[int, tuple[bytes, int]] = {}
        for tick in range(1 << 62):
            if self._closed.wait(BEAT):
                return
            trouble = None
            try:
                self._pulse.set(f"beat {self.world.rank}", str(tick))
                self._look(seen, tick)
            except Elsewhere as error:
                trouble = error
            except RuntimeError as error:
                trouble = Elsewhere("interrupted", f"the first process can't be reached: {failure.reason(error)}")
            if trouble is not None and self._training and not self._left.wait(GRACE):
                self._stuck(trouble)

    def _look(self, seen: dict[int, tuple[bytes, int]], tick: int) -> None:
        """Raise Elsewhere if another has gone. By ticks, not by the clock: all are silent while a job is suspended."""
        if not self.world.first and self._pulse.check(["code"]):
            raise Elsewhere("interrupted", "the first process has left")
        if self.world.first:
            self._raise_failures(self._pulse)
        beats = self._beats(self._pulse)
        for rank, beat in beats.items() if self.world.first else [(0, beats[0])]:
            if rank not in seen or seen[rank][0] != beat:
                seen[rank] = beat, tick
            elif tick - seen[rank][1] > SILENCE:
                raise Elsewhere("interrupted", f"process {rank} of {self.world.size} gives no sign of life")


def _is_others(error: BaseException) -> bool:
    """Whether an exception is about the exchange with other processes."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, DistError) or (isinstance(chain, RuntimeError) and _SAYS_OTHERS.search(str(chain))):
            return True
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    return False
