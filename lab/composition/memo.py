"""A cache of results within a `scope`, for plans of thousands of runs.

A scope assumes that files don't change. Nothing is cached outside of a scope, so that edited files are read again.
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
    """A context in which `cached` stores its results. Nested scopes share them."""
    with _using({} if (results := _results.get()) is None else results):
        yield


@contextmanager
def separate_scope() -> Iterator[None]:
    """A context with a cache of its own, apart from that of an outer scope."""
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
    """The result of `compute`, which is called once for each key in a scope.

    Args:
        key: everything on which the result depends, except files, registered components and the working folder.
        compute: a function that computes the result.
    """
    results = _results.get()
    if results is None:
        return compute()
    full_key = (key, revision(), os.getcwd())
    if full_key not in results:
        results[full_key] = compute()
    return results[full_key]  # type: ignore[return-value]


class ById:
    """A cache key that compares an object by identity. It keeps the object alive."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ById) and self.value is other.value
