"""What the finished runs under a root came to and cost: what estimates and the noise seen so far are made of.

Two small JSON files a run are read, never its configuration: ten thousand runs take about a second.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lab.records import BrokenRecord, RunFolder, RunRecord, Summary, Workload, run_paths


@dataclass(frozen=True)
class Hardware:
    """What decides how fast a workload runs.

    Attributes:
        device: `cpu`, or a GPU's name.
        cpu: the processor's name.
        threads: of each run.
        torch: its version.
    """

    device: str
    cpu: str | None
    threads: int | None
    torch: str | None


@dataclass(frozen=True)
class Past:
    """A finished run.

    Attributes:
        identity: of its configuration.
        baseline: the arm that its sweep compared it with when the run was made.
        role: `report` or `tune`.
        tokens: that it was trained on.
        metrics: name → final value.
        tokens_per_second, memory_bytes: as measured; None where they weren't.
        workload: None where the run doesn't say.
    """

    sweep: str
    arm: str
    seed: int
    identity: str
    experiment: str
    baseline: str
    role: str
    created: str
    tokens: int
    metrics: dict[str, float]
    hardware: Hardware
    workload: Workload | None
    tokens_per_second: float | None
    memory_bytes: float | None


def history(root: Path) -> list[Past]:
    """Every finished run below the root, oldest first. What can't be read is passed over: `lab status` reports it."""
    found = []
    for path in run_paths(root):
        run = RunFolder(path)
        with suppress(BrokenRecord):
            summary = run.summary
            if summary is not None and summary.status == "finished" and (past := _past(run.record, summary)):
                found.append(past)
    return sorted(found, key=lambda past: (past.created, past.sweep, past.arm, past.seed))


def _past(record: RunRecord, summary: Summary) -> Past | None:
    """A finished run; None where it doesn't say of which sweep and arm, or on how many tokens it was trained."""
    costs, provenance = summary.costs, record.provenance
    if record.sweep is None or record.arm is None or record.seed is None or "tokens" not in costs:
        return None
    return Past(
        sweep=record.sweep,
        arm=record.arm,
        seed=record.seed,
        identity=record.identity,
        experiment=record.experiment or "",
        baseline=record.labels.baseline or "",
        role=record.role,
        created=record.created or "",
        tokens=int(costs["tokens"]),
        metrics=dict(summary.metrics),
        # The last attempt's, whose speed is most of what was measured.
        hardware=Hardware(provenance.device or "", provenance.cpu, provenance.threads, provenance.version("torch")),
        workload=record.workload,
        tokens_per_second=costs.get("tokens_per_second"),
        memory_bytes=costs.get("peak_memory_bytes"),
    )
