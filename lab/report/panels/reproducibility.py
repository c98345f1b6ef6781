"""What ran, on what, and how to run it again."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from markupsafe import Markup

from lab.code_version import PACKAGE
from lab.report.facts import Facts, RunFacts
from lab.report.parts import Panel, Text
from lab.report.wording import NONE, plain, some
from lab.units import count

MOST_VALUES = 6
"""Different values of one fact that are told."""


def panel(facts: Facts) -> Panel:
    runs = [run for run in facts.runs if run.info]
    rows: list[tuple[str, Text]] = [
        ("code", _told(runs, _commit)),
        ("lock", _lock(runs)),
        ("data", _told(runs, lambda run: _short(run.provenance.get("data")))),
        ("hardware", _told(runs, _hardware)),
        ("software", _told(runs, _software)),
        ("kernels", _told(runs, _kernels)),
        ("compiled", _told(runs, lambda run: run.provenance.get("compile"))),
        ("compute", _computed(runs, facts.aside)),
        ("restarts", _restarts(runs)),
        ("SLURM", _slurm(runs)),
    ]
    commands: list[tuple[str, Text]] = [
        ("the sweep again", Markup("<code>lab submit {}</code>").format(shlex.quote(facts.sweep))),
        ("this page again", Markup("<code>lab report {}</code>").format(shlex.quote(facts.sweep))),
    ]
    example = next((run for run in runs if rerun(run)), None)
    if example is not None:
        commands.append(("any one cell", _cell(example)))
    items = Markup("").join(Markup("<dt>{}</dt><dd>{}</dd>").format(key, value) for key, value in [*rows, *commands])
    lead = "What the runs were made with, as each recorded it, and the commands that make them again."
    return Panel("reproducibility", "Reproducibility", lead, Markup('<dl class="card">{}</dl>').format(items))


def rerun(run: RunFacts) -> str | None:
    """The command that trains this very run again: same configuration, same identity. None where it isn't known."""
    experiment, overrides = run.info.get("experiment"), run.info.get("overrides")
    if not isinstance(experiment, str) or not isinstance(overrides, list):
        return None
    said = [str(override) for override in overrides]
    if not any(override.startswith("seed=") for override in said):
        said.append(f"seed={run.run.seed}")
    return shlex.join(["lab", "train", experiment, *said])


def _cell(run: RunFacts) -> Markup:
    return Markup(
        '<code>{}</code> <small class="dim">(that is <a href="#{}">{}</a>; every run below has its own)</small>'
    ).format(rerun(run), run.anchor, run.name)


def _told(runs: Iterable[RunFacts], of: Callable[[RunFacts], Any]) -> Text:
    """Every value there is with its number of runs, where there are several."""
    found = Counter(plain(value) for run in runs if (value := of(run)) is not None)
    if not found:
        return NONE
    if len(found) == 1:
        return next(iter(found))
    told = [
        Markup("{} <small>({})</small>").format(value, some(n, "run")) for value, n in found.most_common(MOST_VALUES)
    ]
    more = len(found) - MOST_VALUES
    return Markup("<br>").join([*told, *([f"and {more} more"] if more > 0 else [])])


def _commit(run: RunFacts) -> str | None:
    provenance = run.provenance
    if "code_digest" not in provenance and "commit" not in provenance:
        return None
    commit = provenance.get("commit")
    where = f"commit {commit[:12]}" if commit else "no commit"
    changed = " with uncommitted changes" if provenance.get("dirty") else ""
    return f"{where}{changed}, digest {_short(provenance.get('code_digest'))}"


def _lock(runs: Iterable[RunFacts]) -> Text:
    """The digest of requirements.lock as the runs' commits have it."""
    commits = dict.fromkeys(str(run.provenance["commit"]) for run in runs if run.provenance.get("commit"))
    told = []
    for commit in list(commits)[:MOST_VALUES]:
        content = _of_commit(commit, "requirements.lock")
        if content is not None:
            told.append(f"requirements.lock of {commit[:12]}: sha256 {hashlib.sha256(content).hexdigest()[:16]}")
    if not told:
        return "not known here: the runs' commit is not in this checkout" if commits else NONE
    return Markup("<br>").join(told)


def _of_commit(commit: str, path: str) -> bytes | None:
    if not commit.isalnum():
        return None
    try:
        asked = ["git", "-C", str(PACKAGE), "show", f"{commit}:{path}"]
        return subprocess.run(asked, capture_output=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def _hardware(run: RunFacts) -> str | None:
    provenance = run.provenance
    if "device" not in provenance and "host" not in provenance:
        return None
    device, processes = provenance.get("device"), provenance.get("processes") or 1
    what = provenance.get("cpu") if device in (None, "cpu") else device
    threads = f", {some(provenance['threads'], 'thread')}" if device == "cpu" and provenance.get("threads") else ""
    many = f"{processes} × " if processes > 1 else ""
    nodes = f", {some(provenance['nodes'], 'node')}" if (provenance.get("nodes") or 1) > 1 else ""
    return f"{many}{what or 'unknown'}{threads}{nodes} on {provenance.get('host') or 'an unknown host'}"


def _software(run: RunFacts) -> str | None:
    names = ("torch", "lightning", "numpy", "python")
    found = [f"{name} {run.provenance[name]}" for name in names if run.provenance.get(name)]
    return ", ".join(found) or None


def _kernels(run: RunFacts) -> str | None:
    kernels = run.provenance.get("kernels")
    if not isinstance(kernels, dict) or not kernels:
        return None
    return ", ".join(sorted({str(name) for name in kernels.values()}))


def hours(runs: Iterable[RunFacts]) -> tuple[float, float]:
    """(GPU-hours, core-hours) of the training that the runs' summaries count."""
    gpu = core = 0.0
    for run in runs:
        if run.seconds is None:
            continue
        spent = run.seconds / 3600 * (run.provenance.get("processes") or 1)
        if run.provenance.get("device") in (None, "cpu"):
            core += spent * (run.provenance.get("threads") or 1)
        else:
            gpu += spent
    return gpu, core


def _computed(runs: list[RunFacts], aside: Iterable[RunFacts]) -> Text:
    """Of the arms' runs, and of those that the sweep took besides."""
    more = [run for run in aside if run.seconds is not None]
    if not more:
        return _compute(runs)
    return Markup("{}<br>besides, for tuning or left out: {}").format(_compute(runs), _compute(more))


def _compute(runs: list[RunFacts]) -> Text:
    ended = [run for run in runs if run.seconds is not None]
    if not ended:
        return NONE
    gpu, core = hours(ended)
    told = [
        f"{amount:,.1f} {what}" if amount >= 1 else f"{amount:.3f} {what}"
        for amount, what in ((gpu, "GPU-hours"), (core, "core-hours"))
        if amount
    ]
    tokens = sum(run.run.costs.get("tokens", 0.0) for run in ended)
    return (
        f"{' and '.join(told) or 'no time'} of training in {some(len(ended), 'run')} that ended; {count(tokens)} tokens"
    )


def _restarts(runs: list[RunFacts]) -> Text:
    again = sum(max(0, run.attempts - 1) for run in runs)
    earlier = sum("earlier" in run.provenance for run in runs)
    if not again:
        return "none: every run was begun at most once"
    moved = f"; {some(earlier, 'run')} went on under other circumstances (another host or version)" if earlier else ""
    return f"{some(again, 'restart')} or requeues, in {some(sum(run.attempts > 1 for run in runs), 'run')}{moved}"


def _slurm(runs: list[RunFacts]) -> Text:
    jobs = list(dict.fromkeys(job for run in runs for job in run.jobs))
    if not jobs:
        return "no job was sent"
    shown = ", ".join(jobs[:12]) + (f" and {len(jobs) - 12} more" if len(jobs) > 12 else "")
    return f"{some(len(jobs), 'job')}: {shown}"


def _short(digest: Any) -> str | None:
    return digest[:16] if isinstance(digest, str) else None
