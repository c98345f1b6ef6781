"""The provenance of a run, in its run.json and its summary: host, versions of libraries, kernels, data.

It informs people and decides nothing. So a fact of the wrong type counts as unknown instead of raising an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TypedDict, cast


class NativeFacts(TypedDict, total=False):
    """What a run records of a native library: key and compiler of its build, or cause and detail of why it had none.

    Attributes:
        key: digest of the sources, the compiler, its flags and the processor.
        compiler: the first line of the compiler's `--version`.
        cause: a value of `components.native.unavailable.NativeCause`.
        detail: the same in words.
    """

    key: str
    compiler: str
    cause: str
    detail: str


class ProvenanceFacts(TypedDict, total=False):
    """The facts that workers record.

    Attributes:
        commit, dirty: commit of the repository with the code, and whether it had changes; None without a repository.
        code_digest: digest of the code that ran.
        threads: number of threads of each process.
        kernels: layer kind → the attention kernel that it used; None where no layer has attention.
        kernels_passed_over: layer kind → another kernel → why it wasn't used.
        pieces: fused piece of a block → "fused", or "naive: " and why.
        native: native library that the process has asked for → its build, or why it wasn't available.
        data: digest of the text.
        processes, nodes: number of processes and nodes that trained the run together.
        strategy: how the processes shared the work; None for a single process.
        compile: whether the model was compiled, or why not.
        loss: the form in which the loss was computed.
        peak_flops_per_second, peak_basis: the peak that the model's FLOPs utilization refers to, and its source.
    """

    host: str
    platform: str
    cpu: str | None
    python: str
    torch: str | None
    lightning: str | None
    numpy: str | None
    commit: str | None
    dirty: bool | None
    code_digest: str
    device: str
    threads: int
    kernels: Mapping[str, str] | None
    kernels_passed_over: Mapping[str, Mapping[str, str]]
    pieces: Mapping[str, str]
    native: Mapping[str, NativeFacts]
    data: str
    processes: int
    nodes: int
    strategy: str | None
    compile: str | None
    loss: str
    peak_flops_per_second: float | None
    peak_basis: str


@dataclass(frozen=True)
class ChangedSettings:
    """Settings that were changed before a run was retried. None of them affects its result.

    Attributes:
        before_attempt: the first attempt with the changed settings.
        time: unix seconds.
        fields: path → (before, after).
    """

    before_attempt: int
    time: int
    fields: Mapping[str, tuple[object, object]]

    def as_json(self) -> dict[str, object]:
        return {
            "before_attempt": self.before_attempt,
            "time": self.time,
            "fields": {key: list(values) for key, values in self.fields.items()},
        }


@dataclass(frozen=True)
class ChangedComponents:
    """The user's file of components, as a run took it up before a further attempt, which began from the beginning.

    Attributes:
        before_attempt: the first attempt with it.
        time: unix seconds.
        before, after: SHA-256 of the file; None where the run had no file.
    """

    before_attempt: int
    time: int
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Provenance:
    """The recorded facts. A fact that is missing or of the wrong type is None.

    Attributes:
        facts: all facts, including those that this version of the lab doesn't know.
    """

    facts: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, facts: ProvenanceFacts) -> Provenance:
        """A provenance of these facts."""
        return cls(_plain(facts))

    @property
    def host(self) -> str | None:
        return self._text("host")

    @property
    def platform(self) -> str | None:
        return self._text("platform")

    @property
    def cpu(self) -> str | None:
        return self._text("cpu")

    @property
    def device(self) -> str | None:
        """`cpu`, or a GPU's name."""
        return self._text("device")

    @property
    def commit(self) -> str | None:
        return self._text("commit")

    @property
    def dirty(self) -> bool | None:
        value = self.facts.get("dirty")
        return value if isinstance(value, bool) else None

    @property
    def code_digest(self) -> str | None:
        return self._text("code_digest")

    @property
    def data(self) -> str | None:
        """Digest of the text."""
        return self._text("data")

    @property
    def strategy(self) -> str | None:
        return self._text("strategy")

    @property
    def compile(self) -> str | None:
        """Whether the model was compiled, or why not."""
        compiled = self.facts.get("compile")
        return None if compiled is None else str(compiled)

    @property
    def threads(self) -> int | None:
        return self._whole("threads")

    @property
    def processes(self) -> int | None:
        return self._whole("processes")

    @property
    def nodes(self) -> int | None:
        return self._whole("nodes")

    @property
    def kernels(self) -> Mapping[str, str]:
        """Layer kind → the attention kernel that it used; empty where it isn't known."""
        value = self.facts.get("kernels")
        return {key: str(name) for key, name in value.items()} if isinstance(value, Mapping) else {}

    @property
    def native(self) -> Mapping[str, NativeFacts]:
        """Native library → its build, or why it wasn't available; empty where it isn't known."""
        value = self.facts.get("native")
        if not isinstance(value, Mapping):
            return {}
        return {
            str(name): cast(NativeFacts, {key: text for key, text in facts.items() if isinstance(text, str)})
            for name, facts in value.items()
            if isinstance(facts, Mapping)
        }

    @property
    def earlier(self) -> tuple[Provenance, ...]:
        """Facts of earlier attempts that have changed since, the oldest first."""
        value = self.facts.get("earlier")
        if not isinstance(value, Sequence):
            return ()
        return tuple(Provenance(facts) for facts in value if isinstance(facts, Mapping))

    @property
    def accepted_code(self) -> tuple[str, ...]:
        """Digests of code that its user accepted, other than the code that it was made with."""
        value = self.facts.get("accepted_code")
        if isinstance(value, str) or not isinstance(value, Sequence):
            return ()
        return tuple(digest for digest in value if isinstance(digest, str))

    def version(self, library: str) -> str | None:
        """The version of a library, or of `python`, that it ran with."""
        return self._text(library)

    def subset(self, keys: Sequence[str]) -> dict[str, object]:
        """The facts under these keys, without those that are missing."""
        return {key: self.facts[key] for key in keys if key in self.facts}

    def with_facts(self, more: Provenance | ProvenanceFacts) -> Provenance:
        """A copy with more facts.

        A fact that changes, such as the host or the version of torch, is kept under `earlier`, oldest first: the result
        of a run that used two machines has to show both.
        """
        new = more.facts if isinstance(more, Provenance) else _plain(more)
        changed = {key: self.facts[key] for key, value in new.items() if key in self.facts and self.facts[key] != value}
        earlier = self._appended("earlier", changed) if changed else {}
        return Provenance({**self.facts, **new, **earlier})

    def with_accepted_code(self, digest: str) -> Provenance:
        """A copy that records the digest of other code that its user accepted."""
        return Provenance({**self.facts, **self._appended("accepted_code", digest)})

    def with_changed_settings(self, settings: ChangedSettings) -> Provenance:
        """A copy that records settings that were changed before another attempt."""
        return Provenance({**self.facts, **self._appended("changed_settings", settings.as_json())})

    def with_changed_components(self, components: ChangedComponents) -> Provenance:
        """With a file of components that was taken up before a further attempt."""
        return Provenance({**self.facts, **self._appended("changed_components", asdict(components))})

    def _appended(self, key: str, value: object) -> dict[str, object]:
        before = self.facts.get(key)
        return {key: [*before, value] if isinstance(before, list) else [value]}

    def _text(self, key: str) -> str | None:
        value = self.facts.get(key)
        return value if isinstance(value, str) else None

    def _whole(self, key: str) -> int | None:
        value = self.facts.get(key)
        return value if type(value) is int else None


def _plain(facts: ProvenanceFacts) -> dict[str, object]:
    return cast("dict[str, object]", dict(facts))
