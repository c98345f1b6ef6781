"""What several tests look at and only one pytest process needs to make: the others wait for it and read the result."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def place(factory: pytest.TempPathFactory) -> Path:
    """A folder of this session that all its pytest processes share."""
    base = factory.getbasetemp()
    folder = (base.parent if base.name.startswith("popen-") else base) / "slurm"
    folder.mkdir(exist_ok=True)
    return folder


def once(folder: Path, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` gives, plain values alone, made by whichever process asks first; if that fails, it fails for all."""
    result = folder / f"{name}.json"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not result.exists():
            try:
                content = make()
            except Exception as error:
                result.write_text(json.dumps({"failed": f"{type(error).__name__}: {error}"}))
                raise
            result.write_text(json.dumps(content))
    found: dict[str, Any] = json.loads(result.read_text())
    if "failed" in found:
        pytest.fail(found["failed"], pytrace=False)
    return found
