"""Where the seconds of a process of a sweep go outside of its runs: of `lab submit`, a job, a nursery or a worker."""

from __future__ import annotations

import time
from pathlib import Path

import psutil

from lab.records import ProcessSeconds, write_process_seconds
from lab.training.progress.phase_clock import PhaseClock


class ProcessClock(PhaseClock):
    """Counts the seconds of this process since its beginning, its start first.

    Args:
        process: what the process is, as in `ProcessSeconds`.
    """

    def __init__(self, process: str) -> None:
        self.process = process
        self._began = psutil.Process().create_time()
        age = max(0.0, time.time() - self._began)
        super().__init__(since=time.monotonic() - age, since_cpu=0.0, phase="start")

    def write(self, sweep: Path) -> None:
        """Record the seconds up to now in the folder of a sweep, in place of those recorded earlier."""
        record = ProcessSeconds(
            process=self.process, began=self._began, seconds=self.seconds(), cpu_seconds=self.cpu_seconds()
        )
        write_process_seconds(sweep, record)
