"""summary.json: the final metrics and the costs of a run, written once when the run ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lab.records.atomic import write_json
from lab.records.checks import BrokenRecord, Fields, parse
from lab.records.run_files.progress import read_seconds
from lab.records.run_files.provenance import Provenance

SUMMARY_FILE = "summary.json"
VERSION = 1

Result = Literal["finished", "diverged"]
_RESULTS: dict[str, Result] = {"finished": "finished", "diverged": "diverged"}


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The result of a run.

    Attributes:
        status: finished or diverged; preempted in memory only, for a run that was stopped; None if the file has none,
            as one edited by hand.
        reason: why it diverged or was stopped.
        metrics: name → final value, NaN and infinities included. Metrics that were never measured are left out.
        costs: name → cost: `tokens`, `steps`, `seconds`, `tokens_per_second`, `mfu`, `peak_memory_bytes`, …
        seconds: phase → seconds, `start-up`, `training`, `validation`, `checkpoints` and `evaluations/NAME`; together
            the wall-clock time of all attempts. A phase may have parts, such as `start-up/data`, which count on their
            own. Empty in files of earlier versions.
        cpu_seconds: phase → processor seconds of the process that trained it; empty in files of earlier versions.
        data_digest: digest of the text that it was trained on; None where that isn't known.
        data: other facts about the text, such as its sizes.
        provenance: how and where it ran.
        extra: other entries of the file, such as a teacher. They are kept when the record is written.
    """

    status: str | None = None
    reason: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    cpu_seconds: Mapping[str, float] = field(default_factory=dict)
    data_digest: str | None = None
    data: Mapping[str, object] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)
    extra: Mapping[str, object] = field(default_factory=dict)

    @property
    def result(self) -> Result | None:
        """The status of a run that has its result; None for others."""
        return _RESULTS.get(self.status or "")

    @property
    def validation_tokens(self) -> int | None:
        """Tokens of its whole validation text; None for a synthetic task, and where it isn't recorded."""
        tokens = self.data.get("validation_tokens")
        return tokens if type(tokens) is int else None

    @property
    def text_parts(self) -> Mapping[str, str]:
        """Digests of the `corpus`, the `tokenizer` and the `validation` text, as far as they are recorded."""
        parts = self.data.get("parts")
        if not isinstance(parts, Mapping):
            return {}
        return {str(name): digest for name, digest in parts.items() if isinstance(digest, str)}

    @property
    def evaluation_seconds(self) -> dict[str, float]:
        """Evaluation → seconds that it took in the run's own attempts."""
        prefix = "evaluations/"
        return {name.removeprefix(prefix): value for name, value in self.seconds.items() if name.startswith(prefix)}

    @property
    def steps(self) -> int | None:
        """Optimizer steps that its weights were trained for."""
        steps = self.costs.get("steps")
        return steps if isinstance(steps, int) else None

    def as_json(self) -> dict[str, object]:
        """The file's content."""
        digest = {} if self.data_digest is None else {"digest": self.data_digest}
        fields: dict[str, object] = {
            "version": VERSION,
            "status": self.status,
            "reason": self.reason,
            "metrics": dict(self.metrics),
            "costs": dict(self.costs),
            "seconds": dict(self.seconds) or None,
            "cpu_seconds": dict(self.cpu_seconds) or None,
            "data": {**digest, **self.data} or None,
            "provenance": dict(self.provenance.facts) or None,
        }
        return {**{key: value for key, value in fields.items() if value is not None or key == "reason"}, **self.extra}


def read_summary(path: Path) -> Summary | None:
    """Read a summary; None where there is no file.

    Raises:
        BrokenRecord: it can't be read, or a value in it is wrong.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BrokenRecord(path, error.strerror or str(error)) from None
    return parse(path, content, _summary, newest=VERSION, what="a summary")


def write_summary(path: Path, summary: Summary) -> None:
    """Replace the record in one step."""
    write_json(path, summary.as_json())


_KEYS = frozenset(("version", "status", "reason", "metrics", "costs", "seconds", "cpu_seconds", "data", "provenance"))


def _summary(fields: Fields) -> Summary:
    data, provenance = fields.any("data"), fields.any("provenance")
    data = data if isinstance(data, dict) else {}
    digest, reason = data.get("digest"), fields.any("reason")
    return Summary(
        status=fields.text_or_none("status"),
        reason=None if reason is None else str(reason),
        metrics=fields.measurements("metrics"),
        costs=fields.numbers("costs"),
        seconds=read_seconds(fields, "seconds"),
        cpu_seconds=read_seconds(fields, "cpu_seconds"),
        data_digest=digest if isinstance(digest, str) else None,
        data={key: value for key, value in data.items() if key != "digest"},
        provenance=Provenance(provenance) if isinstance(provenance, dict) else Provenance(),
        extra=fields.others(_KEYS),
    )
