"""What a report shows of a sweep, as data: its comparison, and what each run folder says besides.

Every run is read as it stands, so that a report can be made while the sweep is still running.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from lab.comparison.compare import Comparison, Row
from lab.comparison.metrics import better
from lab.comparison.read.results import Run
from lab.planning.plan.config_diff import differences
from lab.records import BrokenRun

MOST_DRAWN = 8
"""Arms that charts tell apart by colour: more can't be told apart by anybody."""
MOST_LISTED = 200
"""Arms in a table, as many as `lab compare` prints."""

_PARTS = ("metrics", "curves", "details")  # of an evaluation, mappings all
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SEED = re.compile(r"^seed: .*\n", re.MULTILINE)


@dataclass(frozen=True)
class RunFacts:
    """One run.

    Attributes:
        anchor: its id in the page.
        name: its path below the root; of a run without a folder, where it would stand.
        info: its run.json; empty without a folder.
        attempts: how many times a worker has begun it.
        failure: what kind of failure ended it, where one did.
        evaluations: name → what `evaluations/<name>.json` holds.
        jobs: ids of the SLURM jobs that were sent for it, the oldest first.
        unread: why its state can't be read; None where it can.
    """

    run: Run
    anchor: str
    name: str
    info: Mapping[str, Any] = field(default_factory=dict)
    attempts: int = 0
    failure: str | None = None
    evaluations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    jobs: tuple[str, ...] = ()
    unread: str | None = None

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Where and with what it ran; empty before it did."""
        found = self.info.get("provenance")
        return _sound(found) if isinstance(found, dict) else {}

    @property
    def seconds(self) -> float | None:
        """Seconds of training, as the summary counts them; None before the run has ended."""
        return self.run.costs.get("seconds")


@dataclass(frozen=True)
class ArmFacts:
    """One arm.

    Attributes:
        anchor: its id in the page.
        slot: its colour in every chart, 0 for the baseline; None for an arm that charts leave out.
        runs: by seed, ascending.
        differs: dotted key → (the baseline's value, the arm's), of the configuration without its seed.
        uneven: keys in which the arm's own runs differ, seed aside: there should be none.
    """

    row: Row
    anchor: str
    slot: int | None
    runs: tuple[RunFacts, ...]
    differs: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    uneven: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.row.arm.name


@dataclass(frozen=True)
class Facts:
    """A sweep.

    Attributes:
        root: that the run folders are below.
        arms: all, in the sweep's order.
        aside: runs of the sweep that are in no arm: those that tuned, and those left out.
        knob: the option that matching solved for; None where nothing was solved.
        made: when this was read.
    """

    root: Path
    comparison: Comparison
    arms: tuple[ArmFacts, ...]
    knob: str | None
    made: datetime
    aside: tuple[RunFacts, ...] = ()

    @property
    def sweep(self) -> str:
        return self.comparison.sweep.name

    @property
    def metric(self) -> str:
        """The metric that decides: the sweep's first."""
        return self.comparison.sweep.metrics[0]

    @property
    def baseline(self) -> ArmFacts | None:
        return next((arm for arm in self.arms if arm.row.is_baseline), None)

    @property
    def drawn(self) -> tuple[ArmFacts, ...]:
        """The arms that charts show, the baseline first."""
        return tuple(sorted((arm for arm in self.arms if arm.slot is not None), key=lambda arm: arm.slot or 0))

    @property
    def listed(self) -> tuple[ArmFacts, ...]:
        """The arms that tables show, in the sweep's order: all, or the baseline and the best."""
        if len(self.arms) <= MOST_LISTED:
            return self.arms
        best = {id(arm) for arm in sorted(self.arms, key=lambda arm: _rank(arm.row, self.metric))[:MOST_LISTED]}
        return tuple(arm for arm in self.arms if id(arm) in best)

    @property
    def runs(self) -> Iterator[RunFacts]:
        for arm in self.arms:
            yield from arm.runs

    @property
    def left_undrawn(self) -> str:
        """Which arms the charts show, where that isn't all of them; else empty."""
        if len(self.drawn) == len(self.arms):
            return ""
        return f"Of {len(self.arms):,} arms the baseline and the {len(self.drawn) - 1} best by {self.metric} are drawn."


def gather(root: Path, comparison: Comparison) -> Facts:
    """Read what the run folders say besides what the comparison holds."""
    sweep = comparison.sweep
    jobs, drawn = _jobs(root, sweep.name), _drawn(comparison)
    held = next((row for row in comparison.rows if row.is_baseline), None)
    baseline = _configuration(held)[0] if held is not None else None
    arms, number = [], 0
    for place, row in enumerate(comparison.rows):
        runs = []
        for run in row.arm.runs.values():
            runs.append(_run(run, f"run-{number}", sweep.name, jobs))
            number += 1
        config, uneven = _configuration(row)
        differs = differences(baseline, config) if baseline is not None and config is not None else {}
        slot = drawn.get(row.arm.name)
        arms.append(ArmFacts(row, f"arm-{place}", slot, tuple(runs), differs, uneven))
    aside = tuple(_run(run, "runs", sweep.name, jobs) for run in (*sweep.tuning, *sweep.left_out))
    knob = _knob(root / sweep.name / "plan.json")
    return Facts(root, comparison, tuple(arms), knob, datetime.now(UTC), aside)


def _drawn(comparison: Comparison) -> dict[str, int]:
    """Arm → colour: the baseline's is 0, the others' are in the sweep's order, the best ones' where there are many."""
    ranked = sorted(comparison.rows, key=lambda row: _rank(row, comparison.sweep.metrics[0]))
    if len(ranked) <= MOST_DRAWN or better(comparison.sweep.metrics[0]) is None:
        ranked = sorted(comparison.rows, key=lambda row: not row.is_baseline)
    chosen = {row.arm.name for row in ranked[:MOST_DRAWN]}
    of_baseline = [row.arm.name for row in comparison.rows if row.is_baseline]
    others = [row.arm.name for row in comparison.rows if row.arm.name in chosen and not row.is_baseline]
    return dict.fromkeys(of_baseline, 0) | {name: slot for slot, name in enumerate(others, start=1)}


def _rank(row: Row, metric: str) -> tuple[bool, float]:
    """For sorting: the baseline, then the arms from the best mean on, those without one last."""
    mean = row.cells[metric].sample.mean
    sign = -1 if better(metric) == "higher" else 1
    return not row.is_baseline, float("inf") if mean is None else sign * mean


def _run(run: Run, anchor: str, sweep: str, jobs: Mapping[str, list[str]]) -> RunFacts:
    if run.folder is None:
        return RunFacts(run, anchor, f"{sweep}/{run.arm}/seed-{run.seed}")
    name = run.folder.name
    info: Mapping[str, Any] = {}
    with suppress(BrokenRun):
        info = run.folder.info
    attempts, failure, unread = 0, None, None
    try:
        attempts, failure = run.folder.state.attempts, run.folder.state.failure
    except BrokenRun as error:
        unread = str(error)
    evaluations, sent = _evaluations(run.folder.path), tuple(jobs.get(name, ()))
    return RunFacts(run, anchor, name, info, attempts, failure, evaluations, sent, unread)


_TYPES: dict[str, type] = dict.fromkeys(("commit", "code_digest", "data", "device", "cpu", "host"), str)
_TYPES |= dict.fromkeys(("processes", "nodes", "threads"), int)


def _sound(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What a run recorded of how it ran, less what no worker writes, such as a count in words."""
    return {key: value for key, value in provenance.items() if type(value) is _TYPES.get(key, type(value))}


def _evaluations(folder: Path) -> dict[str, dict[str, Any]]:
    """Every evaluation that is there and can be read."""
    found = {}
    for path in sorted((folder / "evaluations").glob("*.json")):
        with suppress(OSError, ValueError):
            content = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(content, dict):
                parts = {key: value for key in _PARTS if isinstance(value := content.get(key), dict)}
                found[path.stem] = {**content, **{key: {} for key in _PARTS}, **parts}
    return found


def _configuration(row: Row) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """An arm's configuration without its seed, and the keys in which its runs differ besides."""
    texts: dict[str, None] = {}
    for run in row.arm.runs.values():
        if run.folder is not None:
            with suppress(OSError, UnicodeDecodeError):
                # A thousand files take two seconds to parse, and the seeds of an arm should differ in one line.
                texts[_SEED.sub("", (run.folder.path / "config.yaml").read_text(encoding="utf-8"))] = None
    configs = []
    for text in texts:
        with suppress(yaml.YAMLError):
            config = yaml.load(text, Loader=_LOADER)
            if isinstance(config, dict):
                config.pop("seed", None)
                configs.append(config)
    if not configs:
        return None, ()
    return configs[0], tuple(dict.fromkeys(key for other in configs[1:] for key in differences(configs[0], other)))


def _jobs(root: Path, sweep: str) -> dict[str, list[str]]:
    """Run → the SLURM jobs that were sent for it, from the records that the launcher keeps beside the runs."""
    records = []
    for path in (root / sweep / ".slurm").glob("*.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads(path.read_bytes())
            if record["job"] and not record["void"]:
                tasks = [tuple(map(str, task["runs"])) for task in record["tasks"]]
                records.append((float(record["created"]), str(record["job"]), tasks))
    found: dict[str, list[str]] = {}
    for _, job, tasks in sorted(records):
        for index, runs in enumerate(tasks):
            for run in runs:
                found.setdefault(run, []).append(job if len(tasks) == 1 else f"{job}_{index}")
    return found


def _knob(plan: Path) -> str | None:
    with suppress(OSError, ValueError, AttributeError):
        knob = json.loads(plan.read_text(encoding="utf-8")).get("matching", {}).get("knob")
        return knob if isinstance(knob, str) else None
    return None
