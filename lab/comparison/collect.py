"""From the run folders of a sweep to its arms, their seeds, and what each run came to.

Only a finished run gives a value to an average. Every other one is kept with its state: a diverged seed is a result, a
missing one is a hole, and both are shown.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab.errors import RequestError
from lab.runs import BrokenRun, RunFolder, find_broken, find_runs

MISSING = "missing"

COSTS = ("parameters", "flops_per_token", "kv_bytes_per_token")  # known from the configuration alone


@dataclass(frozen=True)
class Run:
    """An arm with a seed, and what it came to.

    Attributes:
        folder: where it stands; None for a planned run without a folder.
        status: a status of lab.runs, or `missing`.
        reason: one line for a person, where the status has one.
        metrics: name → final value, from the summary; empty unless finished or diverged. May hold NaN.
        costs: name → value, measured by the run (`tokens_per_second`, `seconds`, …).
    """

    arm: str
    seed: int
    identity: str
    status: str
    folder: RunFolder | None = None
    reason: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return self.status == "finished"


@dataclass(frozen=True)
class Arm:
    """One cell of a sweep with its runs.

    Attributes:
        axes: swept axis → value; the same axes in every arm of a sweep.
        runs: by seed, ascending; every planned seed is there.
        costs: what is known from the configuration: `parameters`, `flops_per_token`, `kv_bytes_per_token`.
    """

    name: str
    axes: dict[str, Any]
    runs: dict[int, Run]
    costs: dict[str, float]

    @property
    def statuses(self) -> dict[str, int]:
        """How many runs have each status, in order of first appearance."""
        return dict(Counter(run.status for run in self.runs.values()))

    def values(self, metric: str) -> dict[int, float]:
        """Seed → value, over the finished runs that measured it. A value may be NaN."""
        return {seed: run.metrics[metric] for seed, run in self.runs.items() if run.finished and metric in run.metrics}

    def mean_cost(self, name: str) -> float | None:
        """Mean over the finished runs of a measured cost."""
        found = [run.costs[name] for run in self.runs.values() if run.finished and name in run.costs]
        return sum(found) / len(found) if found else None


@dataclass(frozen=True)
class Sweep:
    """A sweep's arms in their order, and what its runs say about the sweep.

    Attributes:
        baseline: name of the arm that the others are compared with.
        match: what was held equal over the arms.
        left_out: runs that stand there but aren't counted: of another plan, or an older one of the same arm and seed.
        broken: folders that can't be read, each with what is wrong.
    """

    name: str
    question: str | None
    baseline: str
    metrics: tuple[str, ...]
    match: str | None
    arms: dict[str, Arm]
    left_out: tuple[Run, ...] = ()
    broken: tuple[tuple[Path, str], ...] = ()

    @property
    def axes(self) -> tuple[str, ...]:
        """The swept axes, in the order in which the arms name them."""
        return tuple(dict.fromkeys(axis for arm in self.arms.values() for axis in arm.axes))

    def runs(self) -> Iterator[Run]:
        """Every counted run, arm by arm, seed by seed."""
        for arm in self.arms.values():
            yield from arm.runs.values()


def collect(root: Path | str, sweep: str) -> Sweep:
    """Everything that the run folders below `root` say about a sweep.

    Where `<root>/<sweep>/plan.json` stands, the runs that it lists are the sweep: others are left out, and listed ones
    without a folder are missing. Without it the newest run of each arm and seed counts, and a seed that other arms have
    is missing.

    Raises:
        RequestError: no run of that sweep is there, or its plan can't be read.
    """
    root = Path(root)
    planned = _plan(root / sweep / "plan.json")
    broken = find_broken(root, sweep)
    found: list[tuple[Run, dict[str, Any]]] = []
    for folder in find_runs(root, sweep):
        try:
            info = folder.info
            found.append((_run(folder, info), info))
        except BrokenRun as error:
            if all(path != folder.path for path, _ in broken):
                broken.append((folder.path, str(error)))
    if not found:
        raise RequestError(_nothing(root, sweep, broken))

    # The newest last, so that it wins; by name between equals, so that the same one wins each time.
    found.sort(key=lambda pair: (_created(pair[1]), pair[0].folder.path.name if pair[0].folder else ""))
    listed = None if planned is None else {entry["identity"] for entry in planned}
    counted = {(run.arm, run.seed): (run, info) for run, info in found if listed is None or run.identity in listed}
    left_out = [
        run for run, _ in found if (run.arm, run.seed) not in counted or counted[run.arm, run.seed][0] is not run
    ]
    newest = (list(counted.values()) or found)[-1][1]
    return Sweep(
        name=sweep,
        question=newest.get("question"),
        baseline=str(newest.get("baseline", "")),
        metrics=tuple(newest.get("metrics") or ("val/loss",)),
        match=newest.get("match"),
        arms=_arms(list(counted.values()), planned or []),
        left_out=tuple(left_out),
        broken=tuple(broken),
    )


def _arms(counted: list[tuple[Run, dict[str, Any]]], planned: list[dict[str, Any]]) -> dict[str, Arm]:
    """The arms in the sweep's order, every arm with every seed that is due to it."""
    axes: dict[str, dict[str, Any]] = {}
    costs: dict[str, dict[str, float]] = {}
    place: dict[str, int] = {}
    due: dict[str, dict[int, str]] = {}  # arm → seed → identity
    for number, entry in enumerate(planned):
        if "arm" in entry and "seed" in entry:
            arm = entry["arm"]
            due.setdefault(arm, {})[entry["seed"]] = entry["identity"]
            place.setdefault(arm, number)
            axes[arm] = entry.get("axes") or {}
            costs[arm] = _numbers({name: entry.get(name) for name in COSTS})
    for run, info in counted:
        place.setdefault(run.arm, info.get("order", 0))
        axes[run.arm] = info.get("axes") or axes.get(run.arm, {})
        measured = {name: run.costs[name] for name in COSTS if name in run.costs}
        costs[run.arm] = costs.get(run.arm, {}) | measured | _numbers(info.get("costs"))
    if not due:
        seeds = {run.seed for run, _ in counted}
        due = {arm: dict.fromkeys(seeds, "") for arm in place}
    runs = {(run.arm, run.seed): run for run, _ in counted}
    arms = {}
    for name in sorted(place, key=lambda arm: (place[arm], arm)):
        seeds = {seed for arm, seed in runs if arm == name} | set(due.get(name, {}))
        of_seed = {seed: runs.get((name, seed)) or Run(name, seed, due[name][seed], MISSING) for seed in sorted(seeds)}
        arms[name] = Arm(name, dict(axes[name]), of_seed, costs[name])
    return arms


def _run(folder: RunFolder, info: dict[str, Any]) -> Run:
    state, summary = folder.state, folder.summary
    if not isinstance(info.get("arm"), str) or not isinstance(info.get("seed"), int):
        raise BrokenRun(f"{folder.path / 'run.json'}: has no arm and seed")
    return Run(
        arm=info["arm"],
        seed=info["seed"],
        identity=info["identity"],
        # A summary is written only when the result stands, and that run is never run again: it decides.
        status=str(summary.get("status", state.status)) if summary else state.status,
        folder=folder,
        reason=summary.get("reason") if summary else state.reason,
        metrics=_numbers(summary.get("metrics")) if summary else {},
        costs=_numbers(summary.get("costs")) if summary else {},
    )


def _plan(path: Path) -> list[dict[str, Any]] | None:
    """The entries of a sweep's plan, None where there is none.

    Raises:
        RequestError: it isn't a list of runs with an identity each.
    """
    try:
        runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise RequestError(
            f"{path}: can't be read as a plan, JSON with a list of `runs`; plan the sweep again"
        ) from None
    if not isinstance(runs, list) or not all(isinstance(run, dict) and "identity" in run for run in runs):
        raise RequestError(f"{path}: `runs` must be a list in which each run has an `identity`; plan the sweep again")
    return runs


def _numbers(found: Any) -> dict[str, float]:
    """The entries of a mapping that are numbers; a null is a value that wasn't measured."""
    if not isinstance(found, dict):
        return {}
    return {
        key: value for key, value in found.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _created(info: dict[str, Any]) -> datetime:
    try:
        created = datetime.fromisoformat(info["created"])
    except (KeyError, TypeError, ValueError):
        return datetime.min.replace(tzinfo=UTC)
    return created if created.tzinfo else created.replace(tzinfo=UTC)


def _nothing(root: Path, sweep: str, broken: list[tuple[Path, str]]) -> str:
    if broken:
        return f"no run of sweep '{sweep}' in {root} can be read: {broken[0][1]}"
    others = sorted({run.path.parts[-3] for run in find_runs(root)})
    near = difflib.get_close_matches(sweep, others, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    listed = f" (there are: {', '.join(others)})" if others else f": there are no runs in {root}"
    return f"no run of sweep '{sweep}'{hint}{listed}"
