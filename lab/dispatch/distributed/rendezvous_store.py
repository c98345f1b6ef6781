"""The store through which the processes of a Slurm step talk. The first process's side keeps it until all have left."""

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

BEAT = 1.0  # seconds between signs of life
SILENCE = 60  # beats of our own without a sign of life from another process, after which it counts as gone
ARRIVAL = 300.0  # seconds that all processes have to arrive: they import torch from a busy file server
REPLY = 60.0  # seconds that the store has to answer
_LEAVE = 15.0  # seconds that the others have to notice the end
_LEAVE_AFTER_FAILURE = 3.0  # those that the failure concerned have gone already


class Channel:
    """Short texts by key, which all processes of the step see.

    Args:
        store: the connection. A call that waits holds it, so each thread needs one of its own.
        prefix: of the keys; none for those of the step itself.
    """

    def __init__(self, store: Store, prefix: str | None = None) -> None:
        self._store = store if prefix is None else PrefixStore(prefix, store)

    def read(self, key: str) -> str | None:
        """The text; None before anybody has written it."""
        return self._store.get(key).decode() if self._store.check([key]) else None

    def write(self, key: str, text: str = "") -> None:
        """Write the text, over what was there."""
        self._store.set(key, text)

    def add(self, key: str, number: int) -> int:
        """Add to a number that starts at 0; the sum."""
        return int(self._store.add(key, number))


class Silence:
    """For how many looks in a row another process's sign of life hasn't changed.

    Looks are counted instead of seconds, since no process of a suspended job gives or hears anything.
    """

    def __init__(self) -> None:
        self._last: object = self  # no sign is this
        self._looks = 0

    def is_too_long(self, sign: object) -> bool:
        """Look again."""
        self._looks = self._looks + 1 if sign == self._last else 0
        self._last = sign
        return self._looks > SILENCE


def keep(world: World, work: Callable[[TCPStore], int]) -> int:
    """Keep the store while this process works, then give the others its exit code and time to read it.

    Raises:
        RuntimeError: the port is taken.
    """
    _choose_interface(world)
    reply = timedelta(seconds=REPLY)
    try:
        store = TCPStore(world.address, world.port, None, is_master=True, timeout=reply, wait_for_workers=False)
    except RuntimeError as error:
        raise RuntimeError(f"{world.address}:{world.port} can't be listened at; set MASTER_PORT ({error})") from None
    code = FAILED
    try:
        code = work(store)
    finally:
        _dismiss(Channel(store), world, code)
    return code


def connect(world: World, *, left_behind: int) -> TCPStore:
    """A connection to the store.

    Args:
        left_behind: exit code of this process if the store stops answering. Nothing closes the connection to a machine
            that has gone dark.
    Raises:
        RuntimeError: nobody keeps the store, for five minutes.
    """
    _choose_interface(world)
    store = TCPStore(world.address, world.port, None, is_master=False, timeout=timedelta(seconds=ARRIVAL))
    store.set_timeout(timedelta(seconds=REPLY))
    store.set(f"arrived {world.rank}", "")
    _end_with_store(store, left_behind)
    return store


def _dismiss(step: Channel, world: World, code: int) -> None:
    """Tell the others that the step is over, and wait until they have read it, those that are still to arrive too."""
    step.write("over", str(code))
    began = time.monotonic()
    while missing := [rank for rank in range(1, world.size) if step.read(f"left {rank}") is None]:
        awaited = any(step.read(f"arrived {rank}") is None for rank in missing) and not step.add("attempts", 0)
        patience = _LEAVE_AFTER_FAILURE if code == FAILED else _LEAVE
        if time.monotonic() - began > (ARRIVAL if awaited else patience):
            return
        time.sleep(0.1)


def _end_with_store(store: TCPStore, code: int) -> None:
    """End this process when the store hasn't answered for too long."""
    step = Channel(store.clone())  # type: ignore[attr-defined]
    answers = 0
    broken = threading.Event()

    def ask() -> None:
        nonlocal answers
        with contextlib.suppress(RuntimeError):  # whoever uses a connection that breaks notices it
            while True:
                step.read("over")
                answers += 1
                time.sleep(BEAT)
        broken.set()

    def watch() -> None:
        silence = Silence()
        while not broken.wait(BEAT):
            if silence.is_too_long(answers):
                print("the first process's machine gives no sign of life", file=sys.stderr, flush=True)
                os._exit(code)

    for target in (ask, watch):
        threading.Thread(target=target, name="store", daemon=True).start()


def _choose_interface(world: World) -> None:
    if "GLOO_SOCKET_IFNAME" not in os.environ and (name := slurm_world.interface(world)) is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = name
