"""The one exception for a user's mistake: the command prints its message, no traceback, and ends with exit code 2."""

from __future__ import annotations


class RequestError(Exception):
    """The request was wrong. The message says where (file, key), what was expected, and the nearest valid name."""
