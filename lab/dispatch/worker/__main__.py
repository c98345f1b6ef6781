"""`python -m lab.dispatch.worker`."""

from __future__ import annotations

import sys

from lab.dispatch.worker.worker import run_and_exit

if __name__ == "__main__":
    run_and_exit(sys.argv[1:])
