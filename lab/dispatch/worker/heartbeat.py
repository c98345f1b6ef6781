"""Signs of life of a running run: its state file and its claim, refreshed from a thread that also hears of a `cancel`.

From a thread, so that a long validation, a first compilation or the writing of a large checkpoint doesn't look dead.
"""

from __future__ import annotations

import dataclasses
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from lab.dispatch.control.cancel import requested
from lab.dispatch.worker.claim import Claim
from lab.records import Progress, RunFolder, State

INTERVAL = 2.0  # seconds between signs of life


class Pulse:
    """Writes `state.json` while a run runs. A context manager: its thread beats inside.

    Args:
        run: the run.
        claim: this process's claim on it.
        state: the state to begin with; written on entry.
        on_lost: called from the thread, once, when another process has taken the run over. Nothing is written after.
        on_cancel: called from the thread, once, with the reason when somebody has asked for the run to be cancelled.
    """

    def __init__(
        self,
        run: RunFolder,
        claim: Claim,
        state: State,
        on_lost: Callable[[], None],
        on_cancel: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._run = run
        self._claim = claim
        self._state = state
        self._on_lost = on_lost
        self._on_cancel: Callable[[str], None] | None = on_cancel
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="pulse", daemon=True)
        self.lost = False

    def __enter__(self) -> Pulse:
        self.write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def state(self) -> State:
        """The state as last set."""
        return self._state

    def progress(self, progress: Progress) -> None:
        """Note how far the run is; the next beat writes it. Cheap enough for every step."""
        with self._lock:
            self._state = dataclasses.replace(self._state, progress=progress)

    def write(self, **changes: Any) -> None:
        """Change the state and write it at once."""
        with self._lock:
            if not self.lost:
                self._state = dataclasses.replace(self._state, **changes, heartbeat=time.time())
                self._run.state = self._state

    def _beat(self) -> None:
        while not self._ended.wait(INTERVAL):
            try:
                if not self._claim.beat():
                    self.lost = True
                    self._on_lost()
                    return
                self.write()
                reason = requested(self._run, self._state.attempts)
                if reason is not None and self._on_cancel is not None:
                    self._on_cancel(reason)
                    self._on_cancel = None
            except OSError as error:
                # A full disk or a file server's hiccup must not silence the run for good.
                print(f"no sign of life could be written: {error}", file=sys.stderr)
