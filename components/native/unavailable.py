"""Why a native library can't be used, as data."""

from __future__ import annotations

from enum import Enum


class NativeCause(Enum):
    """What keeps a native library from being used."""

    SWITCHED_OFF = "switched off"
    PLATFORM = "platform"
    NO_COMPILER = "no compiler"
    COMPILER_FAILED = "compiler failed"
    COMPILER_TOO_SLOW = "compiler too slow"
    NO_FOLDER = "no folder"
    NOT_LOADABLE = "not loadable"


class NativeUnavailable(Exception):
    """A native library can't be used here.

    Attributes:
        cause: what keeps it from being used.
        detail: that, in words, with the file or the program concerned.
        fix: what the user can do; None where there is nothing to do.
    """

    def __init__(self, cause: NativeCause, detail: str, fix: str | None = None) -> None:
        super().__init__(detail)
        self.cause = cause
        self.detail = detail
        self.fix = fix
