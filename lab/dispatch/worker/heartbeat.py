"""The heartbeat of a run: a thread that refreshes its state file and its claim, and checks whether it was cancelled.

It is a thread so that a run isn't taken for dead during a long validation, a compilation or a large checkpoint.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from lab.dispatch.control.cancel import requested
from lab.dispatch.worker.claim import Claim
from lab.records import Failure, Progress, RunFolder, State, Status, Summary
from lab.training.progress.phase_clock import PhaseClock

INTERVAL = 2.0  # seconds between heartbeats


class Heartbeat:
    """Writes `state.json` while a run runs. A context manager: its thread runs inside.

    Args:
        run: the run.
        claim: this process's claim on it.
        state: the first state, which is written on entry.
        on_lost: called once from the thread when another process has taken the run over. Nothing is written after that.
        on_cancel: called once from the thread, with the reason, when a user has cancelled the run.
        clock: counts the seconds of each phase, which the state has.

    Attributes:
        state: the newest state.
        lost: whether another process has taken the run over.
    """

    def __init__(
        self,
        run: RunFolder,
        claim: Claim,
        state: State,
        on_lost: Callable[[], None],
        on_cancel: Callable[[str], None] = lambda reason: None,
        clock: PhaseClock | None = None,
    ) -> None:
        self._clock = clock or PhaseClock(state.seconds, state.cpu_seconds)
        self.state = state
        self.lost = False
        self._run = run
        self._claim = claim
        self._on_lost = on_lost
        self._on_cancel: Callable[[str], None] | None = on_cancel
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def progress(self, progress: Progress) -> None:
        """Set the progress, which the next heartbeat writes. Cheap enough to call at every step."""
        with self._lock:
            self._clock.note(progress)
            self.state = self.state.replace(progress=progress)

    def with_seconds(self, summary: Summary) -> Summary:
        """The summary with the seconds of all attempts up to now, by phase."""
        return replace(summary, seconds=self._clock.seconds(), cpu_seconds=self._clock.cpu_seconds())

    def end(self, status: Status, reason: str | None, failure: Failure | None = None) -> None:
        """Write how the attempt ended."""
        with self._lock:
            self.state = self.state.replace(status=status, reason=reason, failure=failure)
        self._write()

    def _write(self) -> None:
        with self._lock:
            if not self.lost:
                self.state = self.state.replace(
                    heartbeat=time.time(), seconds=self._clock.seconds(), cpu_seconds=self._clock.cpu_seconds()
                )
                self._run.state = self.state

    def _beat(self) -> None:
        while not self._ended.wait(INTERVAL):
            try:
                if not self._claim.beat():
                    self.lost = True
                    self._on_lost()
                    return
                self._write()
                reason = requested(self._run, self.state.attempts)
                if reason is not None and self._on_cancel is not None:
                    self._on_cancel(reason)
                    self._on_cancel = None
            except OSError as error:
                # A full disk or a brief failure of a file server must not end the heartbeat.
                print(f"the heartbeat could not be written: {error}", file=sys.stderr)
