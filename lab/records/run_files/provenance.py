"""Under what circumstances a run ran, as its run.json and its summary record it: host, versions, kernels, data.

Workers write it and nothing decides by it, so a fact that isn't what it should be is taken for one that isn't known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict, cast


class ProvenanceFacts(TypedDict, total=False):
    """What workers record.

    Attributes:
        commit, dirty: of the repository that holds the code; None without one.
        code_digest: of the code that ran.
        threads: of each process.
        kernels: layer kind → the attention kernel that it used; None where no layer attends.
        kernels_passed_over: layer kind → another kernel → why it wasn't used.
        data: digest of the text.
        processes, nodes: that trained the run together.
        strategy: how they shared the work; None for a single process.
        compile: what became of compilation.
        loss: the form in which the loss was computed.
        peak_flops_per_second, peak_basis: what the model's FLOPs utilization is measured against.
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
    """Settings that were changed before a run was tried again. None of them affects its result.

    Attributes:
        before_attempt: the attempt that first ran with them.
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
class Provenance:
    """The recorded facts. One that isn't there, or isn't of its type, is None.

    Attributes:
        facts: all of them, also those that this version of the lab doesn't know.
    """

    facts: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, facts: ProvenanceFacts) -> Provenance:
        """The provenance with these facts."""
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
        """What became of compilation."""
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
        """Layer kind → the attention kernel that it used; empty where that isn't known."""
        value = self.facts.get("kernels")
        return {key: str(name) for key, name in value.items()} if isinstance(value, Mapping) else {}

    @property
    def earlier(self) -> tuple[Provenance, ...]:
        """What earlier attempts recorded otherwise, the oldest first."""
        value = self.facts.get("earlier")
        if not isinstance(value, Sequence):
            return ()
        return tuple(Provenance(facts) for facts in value if isinstance(facts, Mapping))

    @property
    def accepted_code(self) -> tuple[str, ...]:
        """Digests of other code than it was made with that its user agreed to."""
        value = self.facts.get("accepted_code")
        if isinstance(value, str) or not isinstance(value, Sequence):
            return ()
        return tuple(digest for digest in value if isinstance(digest, str))

    def version(self, library: str) -> str | None:
        """The version of a library, or of `python`, with which it ran."""
        return self._text(library)

    def chosen(self, keys: Sequence[str]) -> dict[str, object]:
        """The facts under these keys that are there."""
        return {key: self.facts[key] for key in keys if key in self.facts}

    def added(self, more: Provenance | ProvenanceFacts) -> Provenance:
        """With more facts.

        A fact that an earlier attempt recorded otherwise (another host, another torch) is kept under `earlier`, oldest
        first: a result that two machines had a hand in must say so.
        """
        new = more.facts if isinstance(more, Provenance) else _plain(more)
        changed = {key: self.facts[key] for key, value in new.items() if key in self.facts and self.facts[key] != value}
        earlier = self._appended("earlier", changed) if changed else {}
        return Provenance({**self.facts, **new, **earlier})

    def accepting(self, digest: str) -> Provenance:
        """With other code that its user agreed to."""
        return Provenance({**self.facts, **self._appended("accepted_code", digest)})

    def with_changed_settings(self, settings: ChangedSettings) -> Provenance:
        """With settings that were changed before a further attempt."""
        return Provenance({**self.facts, **self._appended("changed_settings", settings.as_json())})

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
