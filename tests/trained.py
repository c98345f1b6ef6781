"""Runs that several tests read, trained once for all pytest processes of a session."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def shared_folder(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """The folder that `make` has filled, in whichever process asked first; the others wait for it.

    Tests must not change what is in it: they work on copies. After a failure the next process tries again.
    """
    base = factory.getbasetemp()
    place = (base.parent if base.name.startswith("popen-") else base) / "trained"
    place.mkdir(exist_ok=True)
    folder, finished = place / name, place / f"{name}.finished"
    with (place / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            finished.touch()
    return folder
