"""The code, data and hardware of the runs, and the commands that repeat them."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable

from markupsafe import Markup

from lab.code_version import PACKAGE
from lab.report.parts import Panel, Text, concat
from lab.report.report_data import ReportData, ReportedRun
from lab.report.wording import NONE
from lab.units import count, plural

MOST_VALUES = 6
"""The most values of one fact that are listed."""


def panel(data: ReportData) -> Panel:
    runs = [run for run in data.runs if run.record is not None]
    rows: list[tuple[str, Text]] = [
        ("code", _values(runs, _code)),
        ("lock", _lock(runs)),
        ("data", _values(runs, lambda run: _short(run.provenance.data))),
        ("hardware", _values(runs, _hardware)),
        ("software", _values(runs, _software)),
        ("kernels", _values(runs, _kernels)),
        ("native kernels", _values(runs, _native)),
        ("compiled", _values(runs, _compiled)),
        ("compute", _compute_with_others(runs, data.other_runs)),
        ("restarts", _restarts(runs)),
        ("SLURM", _slurm(runs)),
        ("repeat the sweep", Markup("<code>lab submit {}</code>").format(shlex.quote(data.sweep))),
        ("rebuild this page", Markup("<code>lab report {}</code>").format(shlex.quote(data.sweep))),
    ]
    example = next((run for run in runs if train_command(run)), None)
    if example is not None:
        rows.append(("repeat one run", _train_again(example)))
    items = concat(Markup("<dt>{}</dt><dd>{}</dd>").format(name, value) for name, value in rows)
    lead = "The environment that each run recorded, and the commands that repeat the runs."
    return Panel("reproducibility", "Reproducibility", lead, Markup('<dl class="card">{}</dl>').format(items))


def train_command(run: ReportedRun) -> str | None:
    """The command that trains this run again, with the same configuration and identity; None if it isn't known."""
    if run.record is None or run.record.experiment is None:
        return None
    experiment, arguments = run.record.experiment, list(run.record.overrides)
    if not any(override.startswith("seed=") for override in arguments):
        arguments.append(f"seed={run.seed}")
    return shlex.join(["lab", "train", experiment, *arguments])


def _train_again(run: ReportedRun) -> Markup:
    return Markup(
        '<code>{}</code> <small class="dim">(for <a href="#{}">{}</a>; each run below has its own)</small>'
    ).format(train_command(run), run.anchor, run.name)


def _values(runs: Iterable[ReportedRun], fact: Callable[[ReportedRun], str | None]) -> Text:
    """The values of a fact; if there are several, each with its number of runs."""
    values = Counter(value for run in runs if (value := fact(run)) is not None)
    if not values:
        return NONE
    if len(values) == 1:
        return next(iter(values))
    lines: list[Text] = [
        Markup("{} <small>({})</small>").format(value, plural(n, "run")) for value, n in values.most_common(MOST_VALUES)
    ]
    more = len(values) - MOST_VALUES
    return Markup("<br>").join([*lines, *([f"and {more} more"] if more > 0 else [])])


def _code(run: ReportedRun) -> str | None:
    provenance = run.provenance
    if not provenance.subset(("code_digest", "commit")):
        return None
    commit = provenance.commit
    version = f"commit {commit[:12]}" if commit else "no commit"
    changes = " with uncommitted changes" if provenance.dirty else ""
    return f"{version}{changes}, digest {_short(provenance.code_digest)}"


def _lock(runs: Iterable[ReportedRun]) -> Text:
    """The digest of requirements.lock in the runs' commits."""
    commits = dict.fromkeys(commit for run in runs if (commit := run.provenance.commit))
    lines = []
    for commit in list(commits)[:MOST_VALUES]:
        content = _file_of_commit(commit, "requirements.lock")
        if content is not None:
            lines.append(f"requirements.lock of {commit[:12]}: sha256 {hashlib.sha256(content).hexdigest()[:16]}")
    if not lines:
        return "unknown: this checkout doesn't have the runs' commit" if commits else NONE
    return Markup("<br>").join(lines)


def _file_of_commit(commit: str, path: str) -> bytes | None:
    if not commit.isalnum():
        return None
    command = ["git", "-C", str(PACKAGE), "show", f"{commit}:{path}"]
    try:
        return subprocess.run(command, capture_output=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def _hardware(run: ReportedRun) -> str | None:
    provenance = run.provenance
    if not provenance.subset(("device", "host")):
        return None
    device, processes = provenance.device, provenance.processes or 1
    model = provenance.cpu if device in (None, "cpu") else device
    threads = f", {plural(provenance.threads, 'thread')}" if device == "cpu" and provenance.threads else ""
    number = f"{processes} × " if processes > 1 else ""
    nodes = f", {plural(provenance.nodes, 'node')}" if provenance.nodes and provenance.nodes > 1 else ""
    return f"{number}{model or 'unknown'}{threads}{nodes} on {provenance.host or 'an unknown host'}"


def _software(run: ReportedRun) -> str | None:
    libraries = ("torch", "lightning", "numpy", "python")
    versions = [f"{name} {version}" for name in libraries if (version := run.provenance.version(name))]
    return ", ".join(versions) or None


def _kernels(run: ReportedRun) -> str | None:
    return ", ".join(sorted(set(run.provenance.kernels.values()))) or None


def _native(run: ReportedRun) -> str | None:
    """Which builds of native kernels a run had, or why it had none."""
    texts = [
        f"{name} {_short(facts['key'])}, built by {facts.get('compiler', 'an unknown compiler')}"
        if "key" in facts
        else f"{name} not available: {facts.get('detail', 'for an unknown reason')}"
        for name, facts in run.provenance.native.items()
    ]
    return "; ".join(texts) or None


def _compiled(run: ReportedRun) -> str | None:
    return run.provenance.compile


def hours(runs: Iterable[ReportedRun]) -> tuple[float, float]:
    """(GPU-hours, core-hours) of training, from the runs' summaries."""
    gpu = core = 0.0
    for run in runs:
        if run.seconds is None:
            continue
        process_hours = run.seconds / 3600 * (run.provenance.processes or 1)
        if run.provenance.device in (None, "cpu"):
            core += process_hours * (run.provenance.threads or 1)
        else:
            gpu += process_hours
    return gpu, core


def _compute_with_others(runs: list[ReportedRun], others: Iterable[ReportedRun]) -> Text:
    """The compute of the arms' runs, and that of the sweep's other runs."""
    ended = [run for run in others if run.seconds is not None]
    if not ended:
        return _compute(runs)
    return Markup("{}<br>in addition, for tuning or left out: {}").format(_compute(runs), _compute(ended))


def _compute(runs: list[ReportedRun]) -> Text:
    ended = [run for run in runs if run.seconds is not None]
    if not ended:
        return NONE
    gpu, core = hours(ended)
    amounts = [
        f"{amount:,.1f} {unit}" if amount >= 1 else f"{amount:.3f} {unit}"
        for amount, unit in ((gpu, "GPU-hours"), (core, "core-hours"))
        if amount
    ]
    time = " and ".join(amounts) or "no time"
    tokens = sum(run.result.costs.get("tokens", 0.0) for run in ended)
    return f"{time} of training in {plural(len(ended), 'run')} that ended; {count(tokens)} tokens"


def _restarts(runs: list[ReportedRun]) -> Text:
    restarts = sum(max(0, run.attempts - 1) for run in runs)
    moved = sum(bool(run.provenance.earlier) for run in runs)
    if not restarts:
        return "none: every run was started at most once"
    remark = f"; {plural(moved, 'run')} continued on another host or with another version" if moved else ""
    restarted = plural(sum(run.attempts > 1 for run in runs), "run")
    return f"{plural(restarts, 'restart')} or requeues, in {restarted}{remark}"


def _slurm(runs: list[ReportedRun]) -> Text:
    jobs = list(dict.fromkeys(job for run in runs for job in run.jobs))
    if not jobs:
        return "no job was submitted"
    more = f" and {len(jobs) - 12} more" if len(jobs) > 12 else ""
    return f"{plural(len(jobs), 'job')}: {', '.join(jobs[:12])}{more}"


def _short(digest: object) -> str | None:
    return digest[:16] if isinstance(digest, str) else None
