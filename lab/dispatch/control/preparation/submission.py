"""The runs of a plan by how they stood when it was submitted, and what there is to say about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from lab.composition.extensions import FILE
from lab.records import RunFolder

_MOST_NAMED = 3


@dataclass
class Submission:
    """The runs of a plan by their status when it was submitted, in the plan's order.

    Each run is in one of the lists `new` to `blocked`.

    Attributes:
        new: created now.
        waiting: created before and not begun.
        continued: begun before and continued now (preempted, or lost with their worker or node), or no longer blocked.
        elsewhere: running now, started by another command.
        finished: left alone, as they have their result.
        diverged: left alone, as that is their result.
        failed: left alone, or tried again if `retry_failed`.
        cancelled: left alone, as a user cancelled them; `lab retry` continues them.
        blocked: left alone, as a run that they need has not finished and isn't run now either.
        edited: runs whose files differ from the plan's, such as a user's components that were edited since without a
            new version.
        edited_code: the code that differs: `lab_components.py`, `package NAME`.
        mended: failed runs that start over with the plan's files.
        other_text: new runs whose place is taken by a run that differs from them in its text alone.
        reused: runs whose folders are in another sweep, which created the same run first.
        retry_failed: whether failed runs are run again.
        order: all runs.
    """

    new: list[RunFolder] = field(default_factory=list)
    waiting: list[RunFolder] = field(default_factory=list)
    continued: list[RunFolder] = field(default_factory=list)
    elsewhere: list[RunFolder] = field(default_factory=list)
    finished: list[RunFolder] = field(default_factory=list)
    diverged: list[RunFolder] = field(default_factory=list)
    failed: list[RunFolder] = field(default_factory=list)
    cancelled: list[RunFolder] = field(default_factory=list)
    blocked: list[RunFolder] = field(default_factory=list)
    edited: list[RunFolder] = field(default_factory=list)
    edited_code: set[str] = field(default_factory=set)
    mended: list[RunFolder] = field(default_factory=list)
    reused: list[RunFolder] = field(default_factory=list)
    other_text: list[RunFolder] = field(default_factory=list)
    retry_failed: bool = False
    order: list[RunFolder] = field(default_factory=list)

    @property
    def to_run(self) -> list[RunFolder]:
        """The runs for a launcher to run now, in the plan's order."""
        runs = {*self.new, *self.waiting, *self.continued, *(self.failed if self.retry_failed else ())}
        return [run for run in self.order if run in runs]

    def warnings(self) -> list[str]:
        """Lines about runs that differ from what the same plan would create now, and about those that start over."""
        lines = []
        if self.mended:
            lines.append(
                f"{_named(self.mended)} failed and start over with {FILE} as it is now; their configuration stays as "
                "it was"
            )
        if self.edited:
            ended = sum(run in self.edited for run in (*self.finished, *self.diverged))
            what = f"{_named(self.edited)} were made with {' and '.join(sorted(self.edited_code))} before you edited it"
            has_ended = f" ({ended} of them have their result)" if ended else ""
            lines.append(f"{what}{has_ended}; raise a component's version= to train them again")
        if self.other_text:
            lines.append(
                f"the text has changed: {len(self.other_text)} of these runs were trained on another text before; they "
                "are trained again beside the earlier runs, which stay as they are"
            )
        return lines

    def describe(self) -> str:
        """One line for the user, such as `3 new, 1 to continue, 4 already finished`."""
        total = len(self.order)
        sweeps = Counter(run.path.parts[-3] for run in self.reused)
        reused = "".join(f", {n} reused from {sweep}" for sweep, n in sweeps.items())
        if len(self.finished) == total:
            return f"nothing to do: {total} of {total} finished{reused}"
        retried = "to retry" if self.retry_failed else "failed before and left alone"
        parts = [
            (self.new, "new"),
            (self.waiting, "still to begin"),
            (self.continued, "to continue"),
            (self.failed, retried),
            (self.elsewhere, "running elsewhere"),
            (self.finished, "already finished"),
            (self.diverged, "diverged"),
            (self.cancelled, "cancelled (`lab retry` continues them)"),
            (self.blocked, "blocked"),
        ]
        counts = ", ".join(f"{len(runs)} {words}" for runs, words in parts if runs) + reused
        return counts if self.to_run or self.elsewhere else f"nothing to do: {counts}"


def _named(runs: Sequence[RunFolder]) -> str:
    """`2 of these runs (late/late/seed-0, late/late/seed-1)`."""
    names = ", ".join(run.name for run in runs[:_MOST_NAMED]) + (", …" if len(runs) > _MOST_NAMED else "")
    return f"{len(runs)} of these runs ({names})"
