"""run.json: what a run is, of which sweep, and how it was made and run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from lab.records.atomic import write_json
from lab.records.checks import Fields, WrongValue, parse, read_bytes
from lab.records.labels import SweepLabels
from lab.records.naming import is_arm_name
from lab.records.provenance import ChangedSettings, Provenance, ProvenanceFacts

RUN = "run.json"
VERSION = 2

Role = Literal["report", "tune"]
_ROLES: dict[str, Role] = {"report": "report", "tune": "tune"}


@dataclass(frozen=True)
class Need:
    """A run that another consumes.

    Attributes:
        path: the configuration path that consumes it, such as `recipe.teacher`.
        identity: of the needed run; it stands at that path in the frozen configuration.
        run: its folder below the root, `sweep/arm/seed-n`.
        flops_per_token: what using it takes for each training token of the run that needs it.
    """

    path: str
    identity: str
    run: str
    flops_per_token: float = 0.0


@dataclass(frozen=True)
class Code:
    """The code of a process.

    Attributes:
        commit: of the repository that tracks the lab; None without one, as for an installed wheel.
        changes: SHA-256 of the uncommitted changes to tracked files; None where there are none, or no repository.
        digest: SHA-256 of the Python files that a worker runs. The same for a checkout and for the wheel that is built
            from it.
    """

    commit: str | None
    changes: str | None
    digest: str

    def describe(self) -> str:
        """In a few words for a person: `commit 1a2b3c4d with changes (digest 5e6f7a8b)`."""
        where = f"commit {self.commit[:8]}{' with changes' if self.changes else ''}" if self.commit else "no commit"
        return f"{where} (digest {self.digest[:8]})"


@dataclass(frozen=True)
class Workload:
    """What a step of training is, as far as its speed and memory go: equal workloads cost the same time.

    Attributes:
        digest: of the architecture, the shape of a step, precision, kernel, recipe and optimizer.
        parameters: of the trained model.
        flops_per_token: of training, a teacher's forward pass included.
        tokens_per_forward: tokens that one forward pass sees.
    """

    digest: str
    precision: str
    parameters: int
    flops_per_token: float
    tokens_per_forward: int


@dataclass(frozen=True)
class Extensions:
    """Where the components of a run come from that aren't the lab's.

    Attributes:
        path: of the user's own file of components; None where the run uses none of it.
        sha256: of that file.
        packages: entry point of an installed package → the package and its version.
    """

    path: str | None = None
    sha256: str | None = None
    packages: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_json(cls, entry: Mapping[str, object]) -> Extensions:
        """From the entry of a run.json.

        Raises:
            WrongValue: a value in it is wrong.
        """
        extensions = Fields(entry, "extensions.")
        own, packages = extensions.fields("file"), extensions.fields("packages")
        names = {name: packages.text(name) for name in extensions.mapping("packages")}
        return cls(own.text_or_none("path"), own.text("sha256") if own else None, names)

    def __bool__(self) -> bool:
        """Whether there are any such components."""
        return self.sha256 is not None or bool(self.packages)

    def as_json(self) -> dict[str, object]:
        own: dict[str, object] = {} if self.sha256 is None else {"file": {"path": self.path, "sha256": self.sha256}}
        return {**own, **({"packages": dict(self.packages)} if self.packages else {})}


@dataclass(frozen=True)
class Imported:
    """A published model that a run was made of.

    Attributes:
        weights: SHA-256 of its weights.
        source: the folder that it was read from.
    """

    weights: str
    source: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run.

    Attributes:
        identity: hexadecimal, of the resolved configuration and of what it names.
        sweep, arm, seed: that it was made for; None where a file, made by hand, doesn't say.
        order: the arm's place in the sweep.
        axes: value of every swept axis; None where the arm has no such option.
        role: whether it reports its arm's result, or only helps to select the arm's tuned values.
        tuned: the values of the tuned axes; empty where nothing is tuned.
        labels: what its sweep's plan said of the sweep when the run was made.
        experiment, overrides: what reproduces it: `lab train EXPERIMENT OVERRIDES…`.
        needs: runs whose checkpoints it consumes.
        components: `kind/name` → version of each component.
        costs: what is known from the configuration: `parameters`, `flops_per_token`, `kv_bytes_per_token`, …
        workload: None where the file doesn't say.
        code: what it was planned with; None where that was not recorded.
        extensions: where components come from that aren't the lab's.
        imported: where it is a published model; None for a run that is trained.
        created: when its folder was made, ISO 8601.
        provenance: under what circumstances it ran; empty before it did.
        extra: what the file holds besides. It is kept when the record is written.
    """

    identity: str
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
        """The record in the fields of a run.json.

        Raises:
            WrongValue: a value in it is wrong.
        """
        arm = fields.text("arm") if "arm" in fields else None
        if arm is not None and not is_arm_name(arm):
            raise fields.wrong("arm", "a name that is fit for a folder")
        provenance = fields.any("provenance")
        return cls(
            identity=fields.text("identity"),
            sweep=fields.text_or_none("sweep"),
            arm=arm,
            seed=fields.whole("seed") if "seed" in fields else None,
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
            workload=_workload(fields),
            code=read_code(fields),
            extensions=Extensions.of_json(fields.mapping("extensions")),
            imported=_imported(fields),
            created=fields.text_or_none("created"),
            provenance=Provenance(provenance) if isinstance(provenance, dict) else Provenance(),
            extra=fields.others(_KEYS),
        )

    @property
    def created_at(self) -> datetime | None:
        """When its folder was made; None where that isn't a date."""
        try:
            moment = datetime.fromisoformat(self.created or "")
        except ValueError:
            return None
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def with_provenance(self, facts: Provenance | ProvenanceFacts) -> RunRecord:
        """With more facts about how it ran; see `Provenance.added`."""
        return replace(self, provenance=self.provenance.added(facts))

    def accepting(self, digest: str) -> RunRecord:
        """With other code, by its digest, that its user agreed to."""
        return replace(self, provenance=self.provenance.accepting(digest))

    def with_changed_settings(self, settings: ChangedSettings) -> RunRecord:
        """With settings that were changed before a further attempt."""
        return replace(self, provenance=self.provenance.with_changed_settings(settings))

    def as_json(self) -> dict[str, object]:
        """The file's content."""
        known: dict[str, object] = {
            "version": VERSION,
            "identity": self.identity,
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
            "imported": None if self.imported is None else _imported_json(self.imported),
            "created": self.created,
            "provenance": dict(self.provenance.facts) or None,
        }
        return {**{key: value for key, value in known.items() if value is not None or key == "question"}, **self.extra}


def read_run(path: Path) -> RunRecord:
    """The record in a run.json.

    Raises:
        BrokenRecord: it is missing, can't be read, or a value in it is wrong.
    """
    return parse(path, read_bytes(path), RunRecord.of, newest=VERSION, what="a run's record")


def write_run(path: Path, record: RunRecord) -> None:
    """Replace the record in one step."""
    write_json(path, record.as_json())


_KEYS = frozenset(
    ("version", "identity", "sweep", "arm", "seed", "order", "axes", "role", "tuned", "question", "baseline", "metrics",
     "match", "matching", "tune_metric", "equivalence", "experiment", "overrides", "needs", "components", "costs",
     "workload", "code", "extensions", "imported", "created", "provenance")
)  # fmt: skip


def read_role(fields: Fields) -> Role:
    """The role in a run.json, or of a run in a plan.json."""
    role = fields.text("role", "report")
    if role not in _ROLES:
        raise fields.wrong("role", "'report' or 'tune'")
    return _ROLES[role]


def read_need(fields: Fields) -> Need:
    """A run that another consumes."""
    return Need(fields.text("path"), fields.text("identity"), fields.text("run"), fields.finite("flops_per_token", 0.0))


def read_code(fields: Fields) -> Code | None:
    """The `code` of a run.json or a plan.json; None where none is recorded, or none with a digest."""
    code = fields.fields("code")
    if not code or code.any("digest") is None:
        return None
    return Code(code.text_or_none("commit"), code.text_or_none("changes"), code.text("digest"))


def _workload(fields: Fields) -> Workload | None:
    workload = fields.fields("workload")
    if not workload:
        return None
    try:
        return Workload(
            digest=workload.text("digest"),
            precision=workload.text("precision"),
            parameters=workload.whole("parameters"),
            flops_per_token=workload.finite("flops_per_token"),
            tokens_per_forward=workload.whole("tokens_per_forward"),
        )
    except WrongValue:
        return None  # another version's: an estimate is made without it


def _imported(fields: Fields) -> Imported | None:
    if "imported" not in fields:
        return None
    imported = fields.fields("imported")
    return Imported(imported.text("weights"), imported.text_or_none("from"))


def _imported_json(imported: Imported) -> dict[str, object]:
    return {"weights": imported.weights, **({} if imported.source is None else {"from": imported.source})}
