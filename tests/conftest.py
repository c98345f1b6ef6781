"""Speeds up processes that tests start with `[sys.executable, "-m", MODULE, …]`.

They are forked from a server that has already imported torch, and so are their own child processes, such as the workers
of the local launcher: see `tests.forked`. A test that needs a fresh interpreter, for instance to check what a start
imports or how it crashes, starts `forked.REAL_PYTHON`, or runs Python with -c.

All tests share the native kernels that the user's cache holds, which are built by the first test that needs one.
"""

from __future__ import annotations

import os
import sys

import pytest

from components.native.folder import FOLDER_VARIABLE, native_folders
from tests import forked

os.environ["TESTS_PYTHON"] = forked.REAL_PYTHON
sys.executable = forked.PYTHON

# Tests give commands caches of their own, in which native kernels would be built again and again.
os.environ[FOLDER_VARIABLE] = str(next(native_folders()))


def pytest_runtest_setup() -> None:
    """Start the fork server with the first test, so that collecting tests doesn't start it."""
    os.environ[forked.SOCKET] = forked.server()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that use a Slurm cluster or trained runs, by their fixtures."""
    for item in items:
        if {"cluster", "fragile_cluster"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slurm)
        if {"trained", "two"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.trains)
