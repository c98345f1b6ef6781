"""The store through which the processes of a Slurm step communicate. The first one serves it until all have left."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from lab.dispatch.distributed import slurm_world
from lab.dispatch.worker.attempt import FAILED
from lab.training.parallel.world import World

BEAT = 1.0  # seconds between heartbeats
SILENCE = 60  # checks, one a beat, without a new heartbeat, after which another process counts as gone
ARRIVAL = 300.0  # seconds in which all processes must arrive: they may import torch from a busy file server
REPLY = 60.0  # seconds in which the store must answer
_LEAVE = 15.0  # seconds in which the others must notice the end
_LEAVE_AFTER_FAILURE = 3.0  # those that the failure affects are gone already


class Channel:
    """Short texts by key, which all processes of the step can read and write.

    Args:
        store: the connection. A call blocks it, so each thread needs its own.
        prefix: a prefix of the keys; None for keys of the whole step.
    """

    def __init__(self, store: Store, prefix: str | None = None) -> None:
        self._store = store if prefix is None else PrefixStore(prefix, store)

    def read(self, key: str) -> str | None:
        """The text of this key; None if no process has written it."""
        return self._store.get(key).decode() if self._store.check([key]) else None

    def write(self, key: str, text: str = "") -> None:
        """Write the text of this key, replacing any older one."""
        self._store.set(key, text)

    def add(self, key: str, number: int) -> int:
        """Add to the counter of this key, which starts at 0, and return the sum."""
        return int(self._store.add(key, number))


class Silence:
    """Counts for how many checks in a row the heartbeat of another process hasn't changed.

    It counts checks and not seconds, because while a job is suspended none of its processes sends or checks heartbeats.
    """

    def __init__(self) -> None:
        self._last: object = self  # differs from every heartbeat
        self._checks = 0

    def is_too_long(self, heartbeat: object) -> bool:
        """Count one more check of this heartbeat. True if it has been the same for more than SILENCE checks."""
        self._checks = self._checks + 1 if heartbeat == self._last else 0
        self._last = heartbeat
        return self._checks > SILENCE


def serve(world: World, work: Callable[[TCPStore], int]) -> int:
    """Serve the store while this process works, then give the others time to read its exit code, and return that.

    Raises:
        RuntimeError: the port is in use.
    """
    _choose_interface(world)
    reply = timedelta(seconds=REPLY)
    try:
        store = TCPStore(world.address, world.port, None, is_master=True, timeout=reply, wait_for_workers=False)
    except RuntimeError as error:
        raise RuntimeError(f"{world.address}:{world.port} is not free; set MASTER_PORT ({error})") from None
    code = FAILED
    try:
        code = work(store)
    finally:
        _dismiss(Channel(store), world, code)
    return code


def connect(world: World, *, left_behind: int) -> TCPStore:
    """A connection to the store.

    Args:
        left_behind: this process ends with this exit code if the store stops answering. The connection to a machine
            that has stopped responding is never closed.
    Raises:
        RuntimeError: no process has served the store for five minutes.
    """
    _choose_interface(world)
    store = TCPStore(world.address, world.port, None, is_master=False, timeout=timedelta(seconds=ARRIVAL))
    store.set_timeout(timedelta(seconds=REPLY))
    store.set(f"arrived {world.rank}", "")
    _end_with_store(store, left_behind)
    return store


def _dismiss(step: Channel, world: World, code: int) -> None:
    """Tell the others that the step is over, and wait until all have read it, including any that have yet to arrive."""
    step.write("over", str(code))
    began = time.monotonic()
    while missing := [rank for rank in range(1, world.size) if step.read(f"left {rank}") is None]:
        is_arriving = any(step.read(f"arrived {rank}") is None for rank in missing) and not step.add("attempts", 0)
        leave_seconds = _LEAVE_AFTER_FAILURE if code == FAILED else _LEAVE
        if time.monotonic() - began > (ARRIVAL if is_arriving else leave_seconds):
            return
        time.sleep(0.1)


def _end_with_store(store: TCPStore, code: int) -> None:
    """End this process if the store hasn't answered for too long."""
    step = Channel(store.clone())  # type: ignore[attr-defined]
    answers = 0
    broken = threading.Event()

    def ask() -> None:
        nonlocal answers
        with contextlib.suppress(RuntimeError):  # the users of a broken connection notice it themselves
            while True:
                step.read("over")
                answers += 1
                time.sleep(BEAT)
        broken.set()

    def watch() -> None:
        silence = Silence()
        while not broken.wait(BEAT):
            if silence.is_too_long(answers):
                print("the first process's machine does not respond", file=sys.stderr, flush=True)
                os._exit(code)

    for target in (ask, watch):
        threading.Thread(target=target, name="store", daemon=True).start()


def _choose_interface(world: World) -> None:
    if "GLOO_SOCKET_IFNAME" not in os.environ and (name := slurm_world.interface(world)) is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = name
