"""run.json: the identity of a run, its place in a sweep, and how it was made and run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from lab.records.atomic import write_json
from lab.records.checks import Fields, parse, read_bytes
from lab.records.naming import is_arm_name
from lab.records.run_files.provenance import ChangedComponents, ChangedSettings, Provenance, ProvenanceFacts
from lab.records.run_files.run_parts import (
    Code,
    Extensions,
    Imported,
    Need,
    Role,
    Workload,
    read_code,
    read_imported,
    read_need,
    read_role,
    read_workload,
)
from lab.records.sweep_files.labels import SweepLabels

RUN_FILE = "run.json"
VERSION = 3


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run.

    Attributes:
        identity: hexadecimal digest of the resolved configuration and of the text.
        text: digest of the text in the identity; None for a synthetic task, an imported model, and a run by a version
            of this lab whose identities had no text.
        sweep, arm, seed: those that it was made for; None if the file has none, as one edited by hand.
        order: the arm's place in the sweep.
        axes: swept axis → value; None for an option that the arm doesn't have.
        role: whether it reports its arm's result, or only helps to select the arm's tuned values.
        tuned: tuned axis → value; empty where nothing is tuned.
        labels: the sweep's question and settings when the run was made.
        experiment, overrides: the arguments of `lab train` that reproduce it.
        needs: the runs whose checkpoints it uses.
        components: `kind/name` → version of the component.
        costs: costs that follow from the configuration: `parameters`, `flops_per_token`, `kv_bytes_per_token`, …
        workload: None where it isn't recorded.
        code: the code that it was planned with; None where it isn't recorded.
        extensions: the origin of components that aren't the lab's.
        imported: the published model that it is; None for a run that is trained.
        created: when its folder was created, ISO 8601.
        provenance: how and where it ran; empty before it did.
        extra: other entries of the file. They are kept when the record is written.
    """

    identity: str
    text: str | None = None
    sweep: str | None = None
    arm: str | None = None
    seed: int | None = None
    order: float = 0
    axes: Mapping[str, object] = field(default_factory=dict)
    role: Role = "report"
    tuned: Mapping[str, object] = field(default_factory=dict)
    labels: SweepLabels = field(default_factory=SweepLabels)
    experiment: str | None = None
    overrides: tuple[str, ...] = ()
    needs: tuple[Need, ...] = ()
    components: Mapping[str, int] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    workload: Workload | None = None
    code: Code | None = None
    extensions: Extensions = field(default_factory=Extensions)
    imported: Imported | None = None
    created: str | None = None
    provenance: Provenance = field(default_factory=Provenance)
    extra: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, fields: Fields) -> RunRecord:
        """The record from the fields of a run.json.

        Raises:
            WrongValue: a value is wrong.
        """
        arm = fields.text("arm") if "arm" in fields else None
        if arm is not None and not is_arm_name(arm):
            raise fields.wrong("arm", "a name that is fit for a folder")
        provenance = fields.any("provenance")
        return cls(
            identity=fields.text("identity"),
            text=fields.text_or_none("text"),
            sweep=fields.text_or_none("sweep"),
            arm=arm,
            seed=fields.integer("seed") if "seed" in fields else None,
            order=fields.finite("order", 0),
            axes=fields.mapping("axes"),
            role=read_role(fields),
            tuned=fields.mapping("tuned"),
            labels=SweepLabels.of(fields),
            experiment=fields.text_or_none("experiment"),
            overrides=fields.texts("overrides"),
            needs=tuple(map(read_need, fields.mappings("needs"))),
            components={
                name: version for name, version in fields.numbers("components").items() if type(version) is int
            },
            costs=fields.numbers("costs"),
            workload=read_workload(fields),
            code=read_code(fields),
            extensions=Extensions.of_json(fields.mapping("extensions")),
            imported=read_imported(fields),
            created=fields.text_or_none("created"),
            provenance=Provenance(provenance) if isinstance(provenance, dict) else Provenance(),
            extra=fields.others(_KEYS),
        )

    @property
    def created_at(self) -> datetime | None:
        """When its folder was created; None where the recorded text isn't a date."""
        try:
            moment = datetime.fromisoformat(self.created or "")
        except ValueError:
            return None
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    @property
    def text_read(self) -> str | None:
        """Digest of the data that it is trained on; None while that isn't known."""
        return self.text or self.provenance.data

    def with_provenance(self, facts: Provenance | ProvenanceFacts) -> RunRecord:
        """A copy with more facts about how it ran; see `Provenance.with_facts`."""
        return replace(self, provenance=self.provenance.with_facts(facts))

    def with_accepted_code(self, digest: str) -> RunRecord:
        """A copy that records the digest of other code that its user accepted."""
        return replace(self, provenance=self.provenance.with_accepted_code(digest))

    def with_changed_settings(self, settings: ChangedSettings) -> RunRecord:
        """A copy that records settings that were changed before another attempt."""
        return replace(self, provenance=self.provenance.with_changed_settings(settings))

    def with_components(self, extensions: Extensions, change: ChangedComponents) -> RunRecord:
        """With components from other files, and a note of that."""
        return replace(self, extensions=extensions, provenance=self.provenance.with_changed_components(change))

    def as_json(self) -> dict[str, object]:
        """The file's content."""
        fields: dict[str, object] = {
            "version": VERSION,
            "identity": self.identity,
            "text": self.text,
            "sweep": self.sweep,
            "arm": self.arm,
            "seed": self.seed,
            "order": self.order,
            "axes": dict(self.axes),
            "role": self.role,
            "tuned": dict(self.tuned),
            **{key: value for key, value in self.labels.as_json().items() if value or key == "question"},
            "experiment": self.experiment,
            "overrides": list(self.overrides),
            "needs": [asdict(need) for need in self.needs],
            "components": dict(self.components),
            "costs": dict(self.costs),
            "workload": None if self.workload is None else asdict(self.workload),
            "code": None if self.code is None else asdict(self.code),
            "extensions": self.extensions.as_json() or None,
            "imported": None if self.imported is None else self.imported.as_json(),
            "created": self.created,
            "provenance": dict(self.provenance.facts) or None,
        }
        return {**{key: value for key, value in fields.items() if value is not None or key == "question"}, **self.extra}


def read_run(path: Path) -> RunRecord:
    """Read the record of a run.

    Raises:
        BrokenRecord: it is missing, can't be read, or a value in it is wrong.
    """
    return parse(path, read_bytes(path), RunRecord.of, newest=VERSION, what="a run's record")


def write_run(path: Path, record: RunRecord) -> None:
    """Replace the record in one step."""
    write_json(path, record.as_json())


_KEYS = frozenset(
    ("version", "identity", "text", "sweep", "arm", "seed", "order", "axes", "role", "tuned", "question", "baseline",
     "metrics", "match", "matching", "tune_metric", "equivalence", "experiment", "overrides", "needs", "components",
     "costs", "workload", "code", "extensions", "imported", "created", "provenance")
)  # fmt: skip
