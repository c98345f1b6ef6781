"""The differences between two runs, or between a run and the run that would be planned in its place now.

Differences that change the identity are listed apart from those that don't: fields that don't affect the result, the
code, the text of the user's own components, and the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from lab.composition import extensions, memo
from lab.composition.frozen.freeze import load_experiment, to_plain
from lab.composition.frozen.identity import (
    component_versions,
    current_text_digest,
    identity_with_text,
    reads_text,
)
from lab.composition.search_path import available
from lab.planning.config_paths import ABSENT, differences, flatten
from lab.planning.plan.build import plan_sweep, plan_train
from lab.planning.plan.model import PlannedRun
from lab.records import Code, Extensions, RunFolder
from lab.refusals import RequestError
from lab.training.experiment import Experiment

VERSION = 1
NOW = "planned now"
UNKNOWN = "not known"

Differences = Mapping[str, tuple[object, object]]
"""Key → (value of the first run, value of the second run); ABSENT if a run has no such key."""

_PLACES = ("torch", "lightning", "numpy", "python", "host", "platform", "cpu", "device", "threads")


@dataclass(frozen=True)
class ComparedRun:
    """One of the two runs.

    Attributes:
        name: the run's name; `NOW` for a run that is only planned.
        identity: its identity.
        config: its configuration.
        components: `kind/name` → version of its components.
        quiet: keys of the configuration that don't affect the result.
        code: the version of the code; None if it is unknown.
        own: the origins of the components that aren't the lab's.
        place: versions of libraries, and the machine; empty for a run that is only planned.
        text: the digest of the text that it is trained on; None for a synthetic task, and if it is unknown.
        text_problem: why the text that it would be trained on can't be used; None if it can, or isn't needed.
    """

    name: str
    identity: str
    config: Mapping[str, object]
    components: Mapping[str, int]
    quiet: frozenset[str]
    code: Code | None = None
    own: Extensions = field(default_factory=Extensions)
    place: Mapping[str, object] = field(default_factory=dict)
    text: str | None = None
    text_problem: str | None = None


@dataclass(frozen=True)
class RunDifferences:
    """The differences between two runs.

    Attributes:
        a: the first run.
        b: the second run.
        config: differences in dotted keys that affect the result.
        components: differences in the versions of components, by `kind/name`.
        text: the digest of the text, if it differs or one is unknown.
        quiet: differences in dotted keys that don't affect the result.
        code: differences in commit, changes and digest, if both are known.
        own: differences in the SHA-256 of the user's file of components, and of packages of components.
        place: differences in libraries and machine, if both are known.
    """

    a: ComparedRun
    b: ComparedRun
    config: Differences
    components: Differences
    text: Differences
    quiet: Differences
    code: Differences
    own: Differences
    place: Differences

    @property
    def is_same_run(self) -> bool:
        """Whether both have the same identity."""
        return self.a.identity == self.b.identity

    def as_dict(self) -> dict[str, object]:
        """The content of `--json`. An entry leaves out a run that has no such key."""
        parts = ("config", "components", "text", "quiet", "code", "own", "place")
        return {
            "version": VERSION,
            "a": {"run": self.a.name, "identity": self.a.identity},
            "b": {"run": self.b.name, "identity": self.b.identity},
            "same": self.is_same_run,
            **({} if self.b.text_problem is None else {"text_problem": self.b.text_problem}),
            **{part: {key: _sides(pair) for key, pair in getattr(self, part).items()} for part in parts},
        }


def compare_runs(a: RunFolder, b: RunFolder) -> RunDifferences:
    """Compare two runs.

    Raises:
        BrokenRecord: a run folder can't be read.
    """
    return _differences(_of_folder(a), _of_folder(b))


def compare_with_plan(run: RunFolder, root: Path) -> RunDifferences:
    """Compare a run with the run that its sweep, or its experiment with its overrides, would plan in its place now.

    If the text can't be used now, the planned run is taken to have the text on which the run was trained, and says
    why in `text_problem`.

    Raises:
        BrokenRecord: the run folder can't be read.
        RequestError: there is no such run in the plan any more, or planning is refused.
    """
    with memo.scope():
        try:
            return _differences(_of_folder(run), _of_plan(_planned_for(run, root)))
        except RequestError as error:  # if without the text it can be planned, the text is to blame
            unread, problem = _planned_for(run, root, reads_text=False), str(error)
        trained = _of_folder(run)
        # Runs of earlier versions have the identity of their configuration alone.
        planned = replace(_of_configuration(unread), text=trained.text, text_problem=problem)
        identity = identity_with_text(unread.identity, run.record.text)
        return _differences(trained, replace(planned, identity=identity))


def _planned_for(run: RunFolder, root: Path, *, reads_text: bool = True) -> PlannedRun:
    record = run.record
    sweep, experiment, arm = record.sweep or "", record.experiment or "", record.arm or ""
    if sweep in available("sweeps"):
        arms = plan_sweep(sweep, root=root, reads_text=reads_text).arms
        if arm not in arms:
            problem, names = f"sweep '{sweep}' no longer has an arm '{arm}'", tuple(arms)[:20]
            raise RequestError(problem, kind="not_found", part=run.name, given=arm, expected=names)
        for planned in arms[arm]:
            if planned.seed == record.seed and planned.cell.settings == record.tuned:
                return planned
        seeds = ", ".join(map(str, sorted({planned.seed for planned in arms[arm]})))
        problem = f"sweep '{sweep}' no longer has this run of arm '{arm}'; its seeds are {seeds}"
        raise RequestError(problem, kind="not_found", part=run.name)
    if experiment not in available("experiments"):
        problem = f"neither its sweep '{sweep}' nor its experiment '{experiment}' exists any more"
        raise RequestError(problem, kind="not_found", part=run.name)
    return plan_train(experiment, record.overrides, root=root, reads_text=reads_text).runs[0]


def _of_folder(run: RunFolder) -> ComparedRun:
    record, config = run.record, run.config
    quiet: frozenset[str] = frozenset()
    text = record.text_read
    # If this version of the lab can't read the configuration, every key may affect the result.
    with suppress(RequestError), extensions.of_run(run.path, record):
        experiment = load_experiment(config)
        quiet = _quiet(experiment)
        text = text if reads_text(experiment) else None
    return ComparedRun(
        name=run.name,
        identity=record.identity,
        config=config,
        components=record.components,
        quiet=quiet,
        code=record.code,
        own=record.extensions,
        place=record.provenance.subset(_PLACES),
        text=text,
    )


def _of_plan(run: PlannedRun) -> ComparedRun:
    return replace(_of_configuration(run), text=current_text_digest(run.experiment))


def _of_configuration(run: PlannedRun) -> ComparedRun:
    """A planned run, its text aside."""
    return ComparedRun(
        name=NOW,
        identity=run.identity,
        config=to_plain(run.experiment),
        components=component_versions(run.experiment),
        quiet=_quiet(run.experiment),
        code=run.code,
        own=run.extensions,
    )


def _quiet(experiment: Experiment) -> frozenset[str]:
    """Keys that don't affect the result."""
    all_keys, identifying = (
        {key for key, _ in flatten(to_plain(experiment, results_only=only))} for only in (False, True)
    )
    return frozenset(all_keys - identifying)


def _differences(a: ComparedRun, b: ComparedRun) -> RunDifferences:
    quiet = a.quiet | b.quiet
    config = differences(a.config, b.config)
    code = differences(asdict(a.code), asdict(b.code)) if a.code and b.code else {}
    place = {key: (a.place[key], b.place[key]) for key in _PLACES if key in a.place and key in b.place}
    return RunDifferences(
        a,
        b,
        config={key: pair for key, pair in config.items() if key not in quiet},
        components=differences(a.components, b.components),
        text={} if a.text == b.text else {"text": (a.text or UNKNOWN, b.text or UNKNOWN)},
        quiet={key: pair for key, pair in config.items() if key in quiet},
        code=code,
        own=_own_differences(a.own, b.own),
        place={key: pair for key, pair in place.items() if pair[0] != pair[1]},
    )


def _own_differences(a: Extensions, b: Extensions) -> Differences:
    """Of packages only where both digests are known, as older runs recorded none."""
    names = set(a.edited(b)) | ({extensions.FILE} if a.sha256 != b.sha256 else set())
    return {name: (a.code.get(name, ABSENT), b.code.get(name, ABSENT)) for name in sorted(names)}


def _sides(pair: tuple[object, object]) -> dict[str, object]:
    return {side: value for side, value in zip("ab", pair, strict=True) if value != ABSENT}
