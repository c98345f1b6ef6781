"""The store that the processes of a step talk through: kept by the first one's side, and left by all at the end."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from lab.dispatch.distributed import rendezvous, slurm_world
from lab.dispatch.worker.attempt import FAILED
from lab.training.parallel.world import World

_LEAVE = 15.0  # seconds that the others have to hear that it is over
_LEAVE_AFTER_FAILURE = 3.0  # those that it concerned have gone already
_REPLY = timedelta(seconds=60)  # that the store has to answer


@contextlib.contextmanager
def hosted(world: World) -> Iterator[TCPStore]:
    """The store that the processes talk through, kept by this one.

    Raises:
        RuntimeError: the port is taken.
    """
    _choose_interface(world)
    try:
        store = TCPStore(world.address, world.port, None, is_master=True, timeout=_REPLY, wait_for_workers=False)
    except RuntimeError as error:
        raise RuntimeError(f"{world.address}:{world.port} can't be listened at; set MASTER_PORT ({error})") from None
    yield store


def connect(world: World, *, left_behind: int) -> TCPStore:
    """A connection to the store.

    Args:
        left_behind: exit code with which this process ends should the store no longer answer: on a machine that went
            dark, nothing closes the connection.
    Raises:
        RuntimeError: nobody keeps it, for five minutes.
    """
    _choose_interface(world)
    store = TCPStore(world.address, world.port, None, is_master=False, timeout=timedelta(seconds=rendezvous.COME))
    store.set_timeout(_REPLY)
    store.set(f"hello {world.rank}", "")
    _end_with_it(store, left_behind)
    return store


def dismiss(store: TCPStore, world: World, code: int) -> None:
    """Tell the others that it is over, and give them time to hear it: those that still have to come, too."""
    store.set("over", str(code))
    began = time.monotonic()
    ranks = range(1, world.size)
    while missing := [rank for rank in ranks if not store.check([f"bye {rank}"])]:
        late = any(not store.check([f"hello {rank}"]) for rank in missing) and not int(store.add("turns", 0))
        patience = _LEAVE_AFTER_FAILURE if code == FAILED else _LEAVE
        if time.monotonic() - began > (rendezvous.COME if late else patience):
            return
        time.sleep(0.1)


def _end_with_it(store: TCPStore, code: int) -> None:
    """End this process if nothing has come from the store for too long."""
    own: Any = store.clone()  # type: ignore[attr-defined]
    answers = 0
    ended = False

    def ask() -> None:
        nonlocal answers, ended
        with contextlib.suppress(RuntimeError):  # a connection that breaks is noticed by whoever uses one
            while True:
                own.check(["over"])
                answers += 1
                time.sleep(rendezvous.BEAT)
        ended = True

    def watch() -> None:
        seen, silent = -1, 0
        while not ended:
            time.sleep(rendezvous.BEAT)
            seen, silent = answers, silent + 1 if seen == answers else 0
            if silent > rendezvous.SILENCE:
                print("the first process's machine gives no sign of life", file=sys.stderr, flush=True)
                os._exit(code)

    for target in (ask, watch):
        threading.Thread(target=target, name="store", daemon=True).start()


def _choose_interface(world: World) -> None:
    if "GLOO_SOCKET_IFNAME" not in os.environ and (name := slurm_world.interface(world)) is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = name
