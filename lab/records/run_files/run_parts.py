"""What a run.json says of a run in groups of fields: the runs that it needs, its code, its extensions, its workload."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lab.records.checks import Fields, WrongValue

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

    def as_json(self) -> dict[str, object]:
        """The entry of a run.json."""
        return {"weights": self.weights, **({} if self.source is None else {"from": self.source})}


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


def read_workload(fields: Fields) -> Workload | None:
    """The workload in a run.json; None where there is none, or one of another version."""
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
        return None  # another version's: the forecast does without it


def read_imported(fields: Fields) -> Imported | None:
    """The published model in a run.json; None for a run that is trained."""
    if "imported" not in fields:
        return None
    imported = fields.fields("imported")
    return Imported(imported.text("weights"), imported.text_or_none("from"))
