"""A launcher in a process of its own, to be killed: the root's runs, so many at once."""

from __future__ import annotations

import sys

from lab.dispatch.launchers.local.local import run_local
from lab.records import find_runs
from tests.dispatch.fakes import FAKE_WORKER

if __name__ == "__main__":
    summary = run_local(find_runs(sys.argv[1]), max_parallel=int(sys.argv[2]), threads=1, worker=FAKE_WORKER)
    print(len(summary.ran), len(summary.found), len(summary.left), summary.stopped)
