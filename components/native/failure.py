"""Failed builds are remembered for a while, so that the runs of a sweep don't each wait for the same failure."""

from __future__ import annotations

import json
import time
from pathlib import Path

from components.native.unavailable import NativeCause, NativeUnavailable

_TIMES_AS_LONG = 20.0
"""Trying again costs at most a twentieth of the time."""


def remember_failure(folder: Path, name: str, key: str, failure: NativeUnavailable, seconds: float) -> None:
    """Remember a build's failure for twenty times as long as it took.

    Raises:
        OSError: the folder can't be written.
    """
    until = time.time() + _TIMES_AS_LONG * seconds
    record = {"cause": failure.cause.value, "detail": failure.detail, "fix": failure.fix, "until": until}
    path = _path(folder, name, key)
    temporary = path.with_suffix(f".{time.time_ns()}")
    temporary.write_text(json.dumps(record), encoding="utf-8")
    temporary.replace(path)


def remembered_failure(folder: Path, name: str, key: str) -> NativeUnavailable | None:
    """The failure of a build that isn't to be tried again yet."""
    try:
        record = json.loads(_path(folder, name, key).read_text(encoding="utf-8"))
        if not time.time() < float(record["until"]):
            return None
        return NativeUnavailable(NativeCause(record["cause"]), str(record["detail"]), record["fix"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def forget_failure(folder: Path, name: str, key: str) -> None:
    """Let the next process try the build again."""
    _path(folder, name, key).unlink(missing_ok=True)


def _path(folder: Path, name: str, key: str) -> Path:
    return folder / f".{name}-{key[:20]}.failed"
