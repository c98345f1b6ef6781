"""Results that are kept while files and registered components stay as they are: a plan of thousands of runs needs it.

Nothing is kept outside a `scope`, so an edited file or a newly registered component is seen at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from components.registry import revision

T = TypeVar("T")

_results: ContextVar[dict[Hashable, object] | None] = ContextVar("results", default=None)


@contextmanager
def scope() -> Iterator[None]:
    """For the length of the context, `cached` keeps its results. Scopes nest and share them."""
    with _using({} if (results := _results.get()) is None else results):
        yield


@contextmanager
def separate_scope() -> Iterator[None]:
    """For the length of the context, the results of a scope around it are neither used nor added to."""
    with _using(None if _results.get() is None else {}):
        yield


@contextmanager
def _using(results: dict[Hashable, object] | None) -> Iterator[None]:
    token = _results.set(results)
    try:
        yield
    finally:
        _results.reset(token)


def cached(key: Hashable, compute: Callable[[], T]) -> T:
    """What `compute` returns, computed once in a scope.

    Args:
        key: all that the result depends on, apart from files and from what is registered.
    """
    results = _results.get()
    if results is None:
        return compute()
    full_key = (key, revision(), os.getcwd())
    if full_key not in results:
        results[full_key] = compute()
    return results[full_key]  # type: ignore[return-value]


class ById:
    """A key that is equal only to one of the very same object."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ById) and self.value is other.value
