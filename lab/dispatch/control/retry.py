"""Tries runs again, in one way for every launcher. `retry_policy.py` decides which runs.

In a frozen configuration only fields that don't affect the result may change. The run's provenance records each change.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lab.composition.extensions import FILE
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
from lab.probing import frozen_copy
from lab.probing.frozen_copy import CurrentComponents
from lab.records import ChangedSettings, RunFolder, Status, remove_cancel_request, resolve_all, write_text
from lab.refusals import RequestError

_STARTS_OVER = (
    f"starts over with {FILE} as it is now; its configuration, its seed and the versions of its components stay frozen"
)
_KEEPS_COPY = (
    f"continues with its own copy of {FILE}, which you have edited since; "
    "--components current starts it over with yours"
)

Components = Literal["current", "frozen"]


@dataclass(frozen=True)
class RetryOptions:
    """How runs are tried again.

    Attributes:
        overrides: settings of the runs, and options of the launcher (`launcher.KEY=VALUE`).
        launcher: the name of the launcher; None for the one to which the runs were sent before.
        flags: the command's own options; see `choose`.
        failed: also try runs again that failed because of a bug.
        any_code: also try runs again that were made with other code.
        dry_run: only print what would be done.
        components: `current`: start runs over with the user's file of components as it is now; `frozen`: keep their
            copies. None: start over what failed because of a bug.
    """

    overrides: tuple[str, ...] = ()
    launcher: str | None = None
    flags: Flags = field(default_factory=dict)
    failed: bool = False
    any_code: bool = False
    dry_run: bool = False
    components: Components | None = None


@dataclass(frozen=True)
class Amended:
    """A run's configuration, with changes of fields that don't affect its result.

    Attributes:
        config_yaml: the whole configuration.
        fields: the changed fields: path → (before, after).
    """

    config_yaml: str
    fields: Mapping[str, tuple[Any, Any]]


def retry(root: Path, names: Sequence[str], options: RetryOptions, *, say: Print, warn: Print) -> int:
    """Try sweeps and runs again, depending on how they ended.

    Args:
        root: the folder that holds all runs.
        names: names of sweeps and runs.
        options: how they are tried again.
        say: prints a line of progress.
        warn: prints a line about a problem.
    Returns:
        The exit code: 1 if a run that has failed is left alone, or has failed again.
    Raises:
        RequestError: a name or an option is wrong, or the launcher can't run the runs. Nothing has been changed.
    """
    overrides, launcher_overrides = split(options.overrides)
    if not names:
        raise RequestError("name a sweep or runs to try again", kind="usage")
    runs = resolve_all(root, names)
    rows = [status.read_row(run) for run in runs]
    view = look(root, rows)
    rows = view.join(rows)
    for note in view.notes:
        warn(f"note: {note}")
    launcher = choose(
        options.launcher or _launcher_of(view, rows, launcher_overrides), launcher_overrides, options.flags
    )
    launcher_options = arguments(launcher_overrides, options.flags).overrides
    changes = Changes(
        frozenset(text.partition("=")[0].lstrip("+") for text in overrides),
        frozenset(map(key_of, launcher_options)),
        launcher.remedies,
    )
    decisions = decide(
        dict(zip(runs, rows, strict=True)),
        changes=changes,
        named=[run for run, is_named in runs.items() if is_named],
        failed=options.failed,
        any_code=options.any_code,
    )
    decisions, amended = amend(decisions, overrides, changes)
    components = current_copies(decisions, options.components)
    for decision in decisions:
        if decision.retried or decision.is_news:
            say(f"{decision.run.name}: {'again: ' if decision.retried else 'left as it is: '}{decision.reason}")
        if decision.retried and frozen_copy.is_edited(decision.run):
            say(f"{decision.run.name}: {_STARTS_OVER if decision.run in components else _KEEPS_COPY}")
    retried = [decision.run for decision in decisions if decision.retried]
    left = [decision for decision in decisions if not decision.retried]
    is_incomplete = any(decision.row.status in ("failed", "lost", "blocked") for decision in left)
    if options.dry_run or not retried:
        say(f"{_runs(len(retried))} {'would be' if options.dry_run else 'to be'} tried again")
        return int(is_incomplete)
    launcher.check(Request(root, tuple(retried)))
    released = []
    for run in retried:
        reason = release(run, amended.get(run), components.get(run))
        if reason is not None:
            say(f"{run.name}: left as it is: {reason}")
            continue
        if options.any_code:
            provenance.accept_code(run)
        released.append(run)
    return _send(launcher, Request(root, tuple(released)), say, warn) or int(is_incomplete)


def _launcher_of(view: ClusterView, rows: Sequence[status.StatusRow], overrides: Sequence[str]) -> str:
    """The name of the launcher to which the runs were sent, or else of the first that has all these options."""
    names = {launcher.name for row in rows if (launcher := view.launcher_of(row.run)) is not None}
    if len(names) > 1:
        problem = f"these runs were sent to several launchers: {', '.join(sorted(names))}"
        raise RequestError(problem, kind="conflict", fix="choose one with --on")
    if names:
        return names.pop()
    return require_launchers_with(overrides, {})[0].name if overrides else registry.DEFAULT


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
        return outcome.explain_stop("the same command continues with the runs that have no result", warn)
    outcome.explain(request.root, warn)
    return int(outcome.has_failed)


def amend(
    decisions: Sequence[RetryDecision], overrides: Sequence[str], changes: Changes
) -> tuple[list[RetryDecision], dict[RunFolder, Amended]]:
    """Apply overrides to the configurations of the runs that are tried again. Writes nothing.

    Returns:
        The decisions, and run → its configuration. A run that ran out of memory with the same settings is now left
        alone.
    Raises:
        RequestError: an override affects the result, or a run has no such setting.
    """
    if not overrides:
        return list(decisions), {}
    from lab.composition import extensions
    from lab.composition.frozen import amend as frozen

    amended: dict[RunFolder, Amended] = {}
    amended_decisions = []
    for decision in decisions:
        run = decision.run
        if decision.retried:
            with extensions.of_run(run.path, run.record):
                amended[run] = Amended(*frozen.amend(run.config, overrides))
            had_no_memory = decision.row.status == "failed" and decision.row.failure == "out_of_memory"
            if had_no_memory and not amended[run].fields and not changes.help_against("out_of_memory", ()):
                hint = memory_hint(run, changes)
                reason = f"ran out of memory with {' '.join(overrides)}, and would again: {hint}"
                decision = RetryDecision(run, decision.row, False, reason)
        amended_decisions.append(decision)
    return amended_decisions, amended


def current_copies(
    decisions: Sequence[RetryDecision], components: Components | None
) -> dict[RunFolder, CurrentComponents]:
    """Runs that start over → the components with which they do; nothing is written.

    Raises:
        RequestError: the user's file can't be loaded, a component breaks a promise, or it would be another run.
    """
    if components == "frozen":
        return {}
    runs = [
        decision.run
        for decision in decisions
        if decision.retried and (components == "current" or decision.row.failure == "bug")
    ]
    return {run: frozen_copy.current_components(run) for run in runs if frozen_copy.is_edited(run)}


def release(run: RunFolder, new: Amended | None = None, components: CurrentComponents | None = None) -> str | None:
    """Prepare a run for another attempt by any launcher: reset its state, and change its configuration.

    Args:
        run: the run.
        new: its new configuration; None to keep it.
        components: the components with which it starts over; None to keep its own.
    Returns:
        None; or, with nothing changed, why not: another process holds the run, or it has its result.
    """
    claim = Claim.take(run.path)
    if claim is None:
        return "is being run by now"
    with claim:
        state = adopt_result(run)
        if state.ended:
            return f"has its result by now: {state.status}"
        if new is not None and new.fields:
            # The record first: after a crash in between, a recorded change that wasn't made is better than the reverse.
            settings = ChangedSettings(state.attempts + 1, round(time.time()), new.fields)
            run.record = run.record.with_changed_settings(settings)
            write_text(run.path / "config.yaml", new.config_yaml)
        if components is not None:
            provenance.take_up_components(run, components.files, components.extensions)
            state = run.state
        was = state.failure or state.status
        reason = f"to be tried again ({was.replace('_', ' ')}{f': {state.reason}' if state.reason else ''})"
        status: Status = "preempted" if state.attempts else "queued"
        run.state = state.replace(status=status, failure=None, reason=reason if state.attempts else None)
        remove_cancel_request(run.path)
    return None


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"
