"""Trying runs again: the one path that every launcher takes. `retry_policy.py` decides which runs are.

A frozen configuration is changed only where that doesn't affect the result; the run's provenance says what and when.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.dispatch.control import provenance
from lab.dispatch.control.choose import Flags, arguments, choose, require_launchers_with
from lab.dispatch.control.retry_policy import Changes, RetryDecision, decide, memory_hint
from lab.dispatch.control.submit import Print, SubmitOutcome
from lab.dispatch.launchers import registry
from lab.dispatch.launchers.base import Launcher, Request
from lab.dispatch.launchers.options import key_of, split
from lab.dispatch.status import status
from lab.dispatch.status.cluster_view import ClusterView, look
from lab.dispatch.status.display import SweepDisplay
from lab.dispatch.worker.attempt import adopt_result
from lab.dispatch.worker.claim import Claim
from lab.records import ChangedSettings, RunFolder, Status, remove_cancel_request, resolve_all, write_text
from lab.refusals import RequestError


@dataclass(frozen=True)
class RetryOptions:
    """How runs are tried again.

    Attributes:
        overrides: of settings of the runs, and of options of the launcher (`launcher.KEY=VALUE`).
        launcher: where; None for where the runs were sent before.
        flags: the command's own options; see `choose`.
        failed: also what failed by a bug.
        any_code: also what was made with other code.
        dry_run: only say what would be done.
    """

    overrides: tuple[str, ...] = ()
    launcher: str | None = None
    flags: Flags = field(default_factory=dict)
    failed: bool = False
    any_code: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class Amended:
    """A run's configuration with fields changed that don't affect its result.

    Attributes:
        config_yaml: the whole of it.
        fields: what differs from before: path → (before, after).
    """

    config_yaml: str
    fields: Mapping[str, tuple[Any, Any]]


def retry(root: Path, names: Sequence[str], options: RetryOptions, *, say: Print, warn: Print) -> int:
    """Try sweeps and runs again, by what became of them.

    Args:
        names: of sweeps and runs.
        say: prints a line about what is done.
        warn: prints a line about what is wrong.
    Returns:
        the exit code: 1 where something that failed is left alone, or has failed again.
    Raises:
        RequestError: a name or an option is wrong, or the launcher can't run it; nothing is changed then.
    """
    overrides, of_launcher = split(options.overrides)
    if not names:
        raise RequestError("name a sweep, or runs, to be tried again", kind="usage")
    chosen = resolve_all(root, names)
    rows = [status.read_row(run) for run in chosen]
    view = look(root, rows)
    rows = view.join(rows)
    for note in view.notes:
        warn(f"note: {note}")
    launcher = choose(options.launcher or _launcher_of(view, rows, of_launcher), of_launcher, options.flags)
    given = arguments(of_launcher, options.flags).overrides
    changes = Changes(
        frozenset(text.partition("=")[0].lstrip("+") for text in overrides),
        frozenset(map(key_of, given)),
        launcher.remedies,
    )
    decisions = decide(
        dict(zip(chosen, rows, strict=True)),
        changes=changes,
        named=[run for run, is_named in chosen.items() if is_named],
        failed=options.failed,
        any_code=options.any_code,
    )
    decisions, amended = amend(decisions, overrides, changes)
    for decision in decisions:
        if decision.retried or decision.is_news:
            say(f"{decision.run.name}: {'again: ' if decision.retried else 'left as it is: '}{decision.reason}")
    retried = [decision.run for decision in decisions if decision.retried]
    left = any(not each.retried and each.row.status in ("failed", "lost", "blocked") for each in decisions)
    if options.dry_run or not retried:
        say(f"{_runs(len(retried))} {'would be' if options.dry_run else 'to be'} tried again")
        return int(left)
    launcher.check(Request(root, tuple(retried)))
    released = []
    for run in retried:
        reason = release(run, amended.get(run))
        if reason is not None:
            say(f"{run.name}: left as it is: {reason}")
            continue
        if options.any_code:
            provenance.accept_code(run)
        released.append(run)
    return _send(launcher, Request(root, tuple(released)), say, warn) or int(left)


def _launcher_of(view: ClusterView, rows: Sequence[status.StatusRow], of_launcher: Sequence[str]) -> str:
    """The launcher that the runs were sent to, or else the first that the options fit."""
    known = {launcher.name for row in rows if (launcher := view.launcher_of(row.run)) is not None}
    if len(known) > 1:
        problem = f"these runs were sent to several launchers: {', '.join(sorted(known))}"
        raise RequestError(problem, kind="conflict", fix="choose one with --on")
    if known:
        return known.pop()
    return require_launchers_with(of_launcher, {})[0].name if of_launcher else registry.DEFAULT


def _send(launcher: Launcher, request: Request, say: Print, warn: Print) -> int:
    if launcher.foreground:
        say(f"{_runs(len(request.runs))} to be tried again on this machine")
    with SweepDisplay(request.runs) if launcher.foreground else contextlib.nullcontext():
        sent = launcher.send(request)
    for line in sent.messages:
        say(line)
    outcome = SubmitOutcome()
    outcome.add(sent, [])
    if outcome.stopped:
        return outcome.explain_stop("the same command goes on with what is missing", warn)
    outcome.explain(request.root, warn)
    return int(outcome.has_failed)


def amend(
    decisions: Sequence[RetryDecision], overrides: Sequence[str], changes: Changes
) -> tuple[list[RetryDecision], dict[RunFolder, Amended]]:
    """The configurations of the runs that are tried again, with the changes; nothing is written.

    Returns:
        the decisions, but that a run that is out of memory is left alone where its settings are what was asked for
        already; and run → its configuration.

    Raises:
        RequestError: a change can't be made: it affects the result, or no run has such a setting.
    """
    if not overrides:
        return list(decisions), {}
    from lab.composition import extensions
    from lab.composition.frozen import amend as frozen

    amended: dict[RunFolder, Amended] = {}
    after = []
    for decision in decisions:
        run = decision.run
        if decision.retried:
            with extensions.of_run(run.path, run.record):
                amended[run] = Amended(*frozen.amend(run.config, overrides))
            starved = decision.row.status == "failed" and decision.row.failure == "out_of_memory"
            if starved and not amended[run].fields and not changes.help_against("out_of_memory", ()):
                hint = memory_hint(run, changes)
                reason = f"ran out of memory with {' '.join(overrides)}, and would again: {hint}"
                decision = RetryDecision(run, decision.row, False, reason)
        after.append(decision)
    return after, amended


def release(run: RunFolder, new: Amended | None = None) -> str | None:
    """Let a run be tried again by whichever launcher comes: its state says so, and its configuration is as asked.

    Args:
        new: its configuration; None for as it is.
    Returns:
        Why not, if somebody has it in hand or it has got its result; nothing is changed then.
    """
    claim = Claim.take(run.path)
    if claim is None:
        return "is being run by now"
    with claim:
        state = adopt_result(run)
        if state.ended:
            return f"has its result by now: {state.status}"
        if new is not None and new.fields:
            # First what was changed, then the change: after a crash in between, saying too much is better.
            settings = ChangedSettings(state.attempts + 1, round(time.time()), new.fields)
            run.record = run.record.with_changed_settings(settings)
            write_text(run.path / "config.yaml", new.config_yaml)
        was = state.failure or state.status
        reason = f"to be tried again ({was.replace('_', ' ')}{f': {state.reason}' if state.reason else ''})"
        status: Status = "preempted" if state.attempts else "queued"
        run.state = state.replace(status=status, failure=None, reason=reason if state.attempts else None)
        remove_cancel_request(run.path)
    return None


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"
