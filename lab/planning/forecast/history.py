"""What the finished runs under a root came to and cost: what estimates and the noise seen so far are made of.

Two small JSON files a run are read, never its configuration: ten thousand runs take about a second.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.planning.plan.workload import Workload
from lab.records import run_paths


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
    for folder in run_paths(root):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            summary = json.loads((folder / "summary.json").read_bytes())
            if summary["status"] == "finished":
                found.append(_past(json.loads((folder / "run.json").read_bytes()), summary))
    return sorted(found, key=lambda past: (past.created, past.sweep, past.arm, past.seed))


def _past(info: dict[str, Any], summary: dict[str, Any]) -> Past:
    costs, provenance = summary["costs"], info.get("provenance", {})
    return Past(
        sweep=info["sweep"],
        arm=info["arm"],
        seed=int(info["seed"]),
        identity=info["identity"],
        experiment=info.get("experiment", ""),
        baseline=info.get("baseline", ""),
        role=info.get("role", "report"),
        created=info.get("created", ""),
        tokens=int(costs["tokens"]),
        metrics={name: float(value) for name, value in summary["metrics"].items() if value is not None},
        # The last attempt's, whose speed is most of what was measured.
        hardware=Hardware(
            provenance.get("device", ""), provenance.get("cpu"), provenance.get("threads"), provenance.get("torch")
        ),
        workload=Workload(**info["workload"]) if "workload" in info else None,
        tokens_per_second=costs.get("tokens_per_second"),
        memory_bytes=costs.get("peak_memory_bytes"),
    )
