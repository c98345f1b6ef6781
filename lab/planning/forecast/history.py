"""The finished runs under a root, with their results and costs: the basis of estimates and of the noise.

Only two small JSON files of each run are read, not its configuration: ten thousand runs take about a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lab.planning.run_records import run_records
from lab.records import BrokenRecord, RunRecord, Summary, Workload


@dataclass(frozen=True)
class Hardware:
    """The hardware and software that decide how fast a workload runs.

    Attributes:
        device: `cpu`, or the GPU's name.
        cpu: the processor's name.
        threads: the threads of each run.
        torch: the version of torch.
    """

    device: str
    cpu: str | None
    threads: int | None
    torch: str | None


@dataclass(frozen=True)
class FinishedRun:
    """A finished run.

    Attributes:
        identity: the identity of its configuration.
        experiment: the experiment's name.
        baseline: the baseline of its sweep when the run was made.
        role: `report` or `tune`.
        created: when the run folder was created, in ISO 8601.
        tokens: the number of training tokens.
        metrics: name → final value.
        hardware: the hardware of its last attempt.
        workload: its workload; None if it isn't recorded.
        tokens_per_second: the measured training speed; None if it wasn't measured.
        memory_bytes: the measured peak memory in bytes; None if it wasn't measured.
        seconds: phase → measured seconds, as in its summary; empty if they weren't measured.
        validation_tokens: tokens that all its validations measured on; None if it isn't recorded.
        scored_by: its overrides that decide how it is measured, sorted; None if they aren't recorded.
        text: digest of the tokens that it was trained and validated on; None if it isn't recorded.
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
    seconds: Mapping[str, float] = field(default_factory=dict)
    validation_tokens: float | None = None
    scored_by: tuple[str, ...] | None = None
    text: str | None = None

    @property
    def evaluation_seconds(self) -> dict[str, float]:
        """Evaluation → measured seconds."""
        return Summary(seconds=self.seconds).evaluation_seconds


def finished_runs(root: Path) -> list[FinishedRun]:
    """Every finished run below the root, oldest first.

    Folders that can't be read are skipped: `lab status` lists them.
    """
    runs = []
    for run, record in run_records(root):
        with suppress(BrokenRecord):
            summary = run.summary
            if summary is None or summary.status != "finished":
                continue
            if (finished_run := _finished_run(record, summary)) is not None:
                runs.append(finished_run)
    return sorted(runs, key=lambda run: (run.created, run.sweep, run.arm, run.seed))


def _finished_run(record: RunRecord, summary: Summary) -> FinishedRun | None:
    """A finished run; None if its sweep, arm, seed or number of tokens isn't recorded."""
    costs, provenance = summary.costs, record.provenance
    if record.sweep is None or record.arm is None or record.seed is None or "tokens" not in costs:
        return None
    return FinishedRun(
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
        # Of the last attempt, on which the measured speed mostly depends.
        hardware=Hardware(provenance.device or "", provenance.cpu, provenance.threads, provenance.version("torch")),
        workload=record.workload,
        tokens_per_second=costs.get("tokens_per_second"),
        memory_bytes=costs.get("peak_memory_bytes"),
        seconds=summary.seconds,
        validation_tokens=costs.get("validation_tokens"),
        scored_by=_scoring_overrides(record.overrides) if record.overrides else None,
        text=summary.data_digest or record.text_read,
    )


_SCORING = ("data", "validation.tokens", "train.context", "train.mask_documents", "recipe", "evaluate")


def _scoring_overrides(overrides: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(text for text in overrides if _is_below(text, _SCORING)))


def tokenizer_settings(overrides: Sequence[str]) -> tuple[str, ...]:
    """The overrides that choose a tokenizer or set its options, sorted."""
    return tuple(sorted(text for text in overrides if _is_below(text, ("data.tokenizer",))))


def _is_below(override: str, paths: Sequence[str]) -> bool:
    """Whether an override sets one of the configuration paths, or something below it."""
    key = override.partition("=")[0].lstrip("+~").replace("/", ".")
    return any(key == path or key.startswith(f"{path}.") for path in paths)
