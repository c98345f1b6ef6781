"""Groups of fields of run.json: the runs that a run needs, its code, extensions, workload and imported model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lab.records.checks import Fields, WrongValue

Role = Literal["report", "tune"]
_ROLES: dict[str, Role] = {"report": "report", "tune": "tune"}


@dataclass(frozen=True)
class Need:
    """A run that another run needs.

    Attributes:
        path: the configuration path that names it, such as `recipe.teacher`.
        identity: of the needed run; it is the value at that path in the frozen configuration.
        run: its folder below the root, `sweep/arm/seed-n`.
        flops_per_token: FLOPs that its use costs for each training token of the run that needs it.
    """

    path: str
    identity: str
    run: str
    flops_per_token: float = 0.0


@dataclass(frozen=True)
class Code:
    """The code of a process.

    Attributes:
        commit: of the repository that tracks the lab; None without a repository, as for an installed wheel.
        changes: SHA-256 of the uncommitted changes to tracked files; None without changes or without a repository.
        digest: SHA-256 of the Python files that a worker runs. A checkout and the wheel built from it have the same
            digest.
    """

    commit: str | None
    changes: str | None
    digest: str

    def describe(self) -> str:
        """A short description for a person: `commit 1a2b3c4d with changes (digest 5e6f7a8b)`."""
        where = f"commit {self.commit[:8]}{' with changes' if self.changes else ''}" if self.commit else "no commit"
        return f"{where} (digest {self.digest[:8]})"


@dataclass(frozen=True)
class Workload:
    """What determines the speed and memory of a training step. Equal workloads take equal time.

    Attributes:
        digest: of the architecture, the shape of a step, precision, kernel, recipe and optimizer.
        parameters: number of parameters of the trained model.
        flops_per_token: training FLOPs for each token, including a teacher's forward pass.
        tokens_per_forward: tokens in one forward pass.
    """

    digest: str
    precision: str
    parameters: int
    flops_per_token: float
    tokens_per_forward: int


@dataclass(frozen=True)
class Extensions:
    """The origin of a run's components that aren't the lab's.

    Attributes:
        path: path of the user's own file of components; None where the run uses none of it.
        sha256: SHA-256 of that file.
        packages: entry point of an installed package → the package and its version.
        digests: entry point → SHA-256 of the package's code; empty where it isn't recorded.
    """

    path: str | None = None
    sha256: str | None = None
    packages: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def code(self) -> dict[str, str]:
        """The digests of all their code: `lab_components.py`, or `package NAME` → SHA-256."""
        own = {} if self.sha256 is None else {Path(self.path or "lab_components.py").name: self.sha256}
        return own | {f"package {name}": digest for name, digest in self.digests.items()}

    def edited(self, now: Extensions) -> tuple[str, ...]:
        """The names, as in `code`, of the code that has another digest now. Unknown digests don't count."""
        return tuple(name for name, digest in self.code.items() if now.code.get(name, digest) != digest)

    @classmethod
    def of_json(cls, entry: Mapping[str, object]) -> Extensions:
        """The extensions from their entry in a run.json.

        Raises:
            WrongValue: a value is wrong.
        """
        extensions = Fields(entry, "extensions.")
        own, packages = extensions.fields("file"), extensions.fields("packages")
        names = {name: packages.text(name) for name in extensions.mapping("packages")}
        code = extensions.fields("digests")
        digests = {name: code.text(name) for name in extensions.mapping("digests")}
        return cls(own.text_or_none("path"), own.text("sha256") if own else None, names, digests)

    def __bool__(self) -> bool:
        """Whether there are any such components."""
        return self.sha256 is not None or bool(self.packages)

    def as_json(self) -> dict[str, object]:
        own: dict[str, object] = {} if self.sha256 is None else {"file": {"path": self.path, "sha256": self.sha256}}
        packages = {"packages": dict(self.packages), "digests": dict(self.digests)}
        return own | {key: value for key, value in packages.items() if value}


@dataclass(frozen=True)
class Imported:
    """The published model that an imported run is.

    Attributes:
        weights: SHA-256 of its weights.
        source: the folder that it was read from; None where it isn't recorded.
        ignored: keys of its config.json and names of its tensors that the import left out at the user's request.
        config: keys of its config.json that its architecture doesn't hold, such as the ids of special tokens.
        generation: the content of its generation_config.json; None if it had none.
    """

    weights: str
    source: str | None = None
    ignored: tuple[str, ...] = ()
    config: Mapping[str, object] = field(default_factory=dict)
    generation: Mapping[str, object] | None = None

    def as_json(self) -> dict[str, object]:
        """The entry of a run.json."""
        entry: dict[str, object] = {
            "weights": self.weights,
            "from": self.source,
            "ignored": list(self.ignored) or None,
            "config": dict(self.config) or None,
            "generation": None if self.generation is None else dict(self.generation),
        }
        return {key: value for key, value in entry.items() if value is not None}


def read_role(fields: Fields) -> Role:
    """The `role` in a run.json, or in a row of a plan.json."""
    role = fields.text("role", "report")
    if role not in _ROLES:
        raise fields.wrong("role", "'report' or 'tune'")
    return _ROLES[role]


def read_need(fields: Fields) -> Need:
    """An entry of `needs` in a run.json or a plan.json."""
    return Need(fields.text("path"), fields.text("identity"), fields.text("run"), fields.finite("flops_per_token", 0.0))


def read_code(fields: Fields) -> Code | None:
    """The `code` in a run.json or a plan.json; None where it, or its digest, isn't recorded."""
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
            parameters=workload.integer("parameters"),
            flops_per_token=workload.finite("flops_per_token"),
            tokens_per_forward=workload.integer("tokens_per_forward"),
        )
    except WrongValue:
        return None  # another version's: the forecast does without it


def read_imported(fields: Fields) -> Imported | None:
    """The published model in a run.json; None for a run that is trained."""
    if "imported" not in fields:
        return None
    imported = fields.fields("imported")
    return Imported(
        weights=imported.text("weights"),
        source=imported.text_or_none("from"),
        ignored=imported.texts("ignored"),
        config=imported.mapping("config"),
        generation=imported.mapping_or_none("generation"),
    )
