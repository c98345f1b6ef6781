"""The code of components that aren't the lab's: whether arms ran the same, and whether it was edited since.

A run's identity contains the versions of its components but not their code. So an edit without a new version repeats no
run, and a comparison has to say that its runs ran different code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from lab.comparison.read.results import RunResult, SweepResults
from lab.records import Extensions, escape_text
from lab.refusals import Finding, Where

_AREA = "components"
_LARGEST = 10_000_000  # bytes


def component_findings(sweep: SweepResults) -> Iterator[Finding]:
    """Arms that ran different code, and code that was edited since. `comparability.mixtures` is about seeds."""
    finished = {name: [run for run in arm.runs.values() if run.finished] for name, arm in sweep.arms.items()}
    names = dict.fromkeys(name for runs in finished.values() for run in runs for name in _extensions(run).code)
    for code in names:
        yield from _across_arms(code, finished)
    yield from _edited(run for runs in finished.values() for run in runs)


def _across_arms(code: str, finished: Mapping[str, list[RunResult]]) -> Iterator[Finding]:
    arms: dict[str, list[str]] = {}
    for arm, runs in finished.items():
        digests = {_extensions(run).code[code] for run in runs if code in _extensions(run).code}
        if len(digests) == 1:
            arms.setdefault(digests.pop(), []).append(arm)
    if len(arms) > 1:
        parts = [f"{', '.join(names)} {digest[:8]}" for digest, names in arms.items()]
        yield Finding(_AREA, f"Arms ran different contents of {code}: {'; '.join(parts)}", "warning")


def _edited(runs: Iterator[RunResult]) -> Iterator[Finding]:
    """Files that have another content now than when the runs were made."""
    by_file: dict[Path, list[RunResult]] = {}
    for run in runs:
        extensions = _extensions(run)
        if extensions.path is not None and extensions.sha256 is not None:
            by_file.setdefault(Path(extensions.path), []).append(run)
    for path, users in by_file.items():
        now = _digest(path)
        older = [run for run in users if now not in (None, _extensions(run).sha256)]
        if older:
            first = older[0].folder.name if older[0].folder is not None else older[0].arm
            more = f" and {len(older) - 1} more" if len(older) > 1 else ""
            file = escape_text(path.name)
            message = f"{file} was edited since {first}{more} finished with it; they are not trained anew"
            yield Finding(_AREA, message, "warning", Where(file=str(path)), "raise a component's version=")


def _extensions(run: RunResult) -> Extensions:
    """The origins of its components that aren't the lab's."""
    return Extensions() if run.record is None else run.record.extensions


def _digest(path: Path) -> str | None:
    """SHA-256 of a file of components; None if there is none. The path may be of another machine, or of anything."""
    try:
        if path.suffix != ".py" or not path.is_file() or path.stat().st_size > _LARGEST:
            return None
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
