"""Processes that tests start as `[sys.executable, "-m", MODULE, …]` are forked from one that has imported torch.

That holds for what they start in turn, such as the local launcher's workers: see `tests.forked`. Where a process of its
own is the point (what a start loads, a crash while it imports), a test starts `forked.REAL_PYTHON`, or runs Python
with -c.
"""

from __future__ import annotations

import os
import sys

import pytest

from tests import forked

os.environ["TESTS_PYTHON"] = forked.REAL_PYTHON
sys.executable = forked.PYTHON


def pytest_runtest_setup() -> None:
    """The server starts with the first test, and not where tests are only collected."""
    os.environ[forked.SOCKET] = forked.server()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {"cluster", "fragile_cluster"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slurm)
        if {"trained", "two"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.trains)
