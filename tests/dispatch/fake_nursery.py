"""A nursery whose workers are fake ones. It imports nothing beforehand, so that it starts at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from lab.dispatch.launchers.local import nursery
from lab.dispatch.worker.worker import main
from tests.dispatch.fake_worker import train


def fake_worker(arguments: Sequence[str]) -> None:
    code = main(arguments, train=train)
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    nursery.preload = lambda: None
    nursery.main(fake_worker)
    os._exit(0)
