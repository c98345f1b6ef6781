"""`python -m lab.dispatch.worker`."""

from __future__ import annotations

import os
import sys
import traceback

from lab.dispatch.worker.attempt import FAILED
from lab.dispatch.worker.worker import main

if __name__ == "__main__":
    try:
        code = main()
    except Exception:
        traceback.print_exc()
        code = FAILED
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: a failed run's threads and child processes could hold the process up for ever.
    os._exit(code)
