"""Which arms can be compared with the baseline in which metrics, and which arms mix runs of different kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from lab.comparison.read.results import ArmResults, RunResult, SweepResults
from lab.comparison.read.scoring import Scorings
from lab.comparison.statistics.paired import seed_list
from lab.planning.comparability.rules import BITS_PER_BYTE, Unlikeness, unlikenesses
from lab.planning.comparability.scoring import Scoring


@dataclass(frozen=True)
class Mixture:
    """Something that should be the same for all seeds of an arm, and isn't.

    Attributes:
        subject: `code`, `text`, `own components`, or a component such as `norm/rmsnorm`.
        seeds: value, shortened for a person → the seeds that ran with it.
    """

    subject: str
    seeds: Mapping[str, tuple[int, ...]]

    @property
    def text(self) -> str:
        """`code: 1a2b3c4d in seeds 0, 1; 5e6f7a8b in seed 2`."""
        return f"{self.subject}: " + "; ".join(f"{value} in {seed_list(seeds)}" for value, seeds in self.seeds.items())


def compared_metrics(sweep: SweepResults, scorings: Mapping[str, Mapping[int, Scoring]]) -> tuple[str, ...]:
    """The sweep's metrics, with bits per byte where one of them depends on the tokenizer and the arms have several."""
    if BITS_PER_BYTE in sweep.metrics or sweep.baseline not in sweep.arms:
        return sweep.metrics
    measured = all(arm.values(BITS_PER_BYTE) for arm in sweep.arms.values() if arm.finished)
    unlike = unlike_arms(sweep, sweep.metrics, scorings)
    tokenizers = [
        arm
        for arms in unlike.values()
        for arm, reasons in arms.items()
        if any(reason.subject == "tokenizer" for reason in reasons)
    ]
    if not (measured and tokenizers):
        return sweep.metrics
    return (*sweep.metrics, BITS_PER_BYTE)


def scorings_of(sweep: SweepResults) -> dict[str, dict[int, Scoring]]:
    """Arm → seed → how the run was measured."""
    scorings = Scorings(sweep.metrics)
    return {arm.name: {seed: scorings.of(run) for seed, run in arm.runs.items()} for arm in sweep.arms.values()}


def unlike_arms(
    sweep: SweepResults, metrics: tuple[str, ...], scorings: Mapping[str, Mapping[int, Scoring]]
) -> dict[str, dict[str, tuple[Unlikeness, ...]]]:
    """Metric → arm → why it can't be compared: one of its seeds isn't measured like the baseline's."""
    unlike: dict[str, dict[str, tuple[Unlikeness, ...]]] = {metric: {} for metric in metrics}
    baseline = sweep.arms.get(sweep.baseline)
    for arm in sweep.arms.values() if baseline is not None else ():
        if arm is baseline:
            continue
        for metric in metrics:
            seeds = _pairs(arm, sweep.arms[sweep.baseline], metric)
            pairs = [(scorings[arm.name][seed], scorings[sweep.baseline][seed]) for seed in seeds]
            reasons = dict.fromkeys(reason for pair in pairs for reason in unlikenesses(metric, *pair))
            if reasons:
                unlike[metric][arm.name] = tuple(reasons)
    return unlike


def _pairs(arm: ArmResults, baseline: ArmResults, metric: str) -> list[int]:
    """The seeds that both have measured; before there is one, those that both have begun, or will."""
    measured = arm.values(metric).keys() & baseline.values(metric).keys()
    begun = {
        seed for seed in arm.runs.keys() & baseline.runs.keys() if arm.runs[seed].folder and baseline.runs[seed].folder
    }
    return sorted(measured or begun)


def mixtures(arm: ArmResults) -> tuple[Mixture, ...]:
    """In what the finished runs of an arm differ, apart from their seed."""
    runs = {seed: run for seed, run in arm.runs.items() if run.finished and run.record is not None}
    facts: dict[str, Callable[[RunResult], str | None]] = {
        "code": code_of,
        "own components": _own_components,
        "text": trained_text,
    }
    found = [Mixture(subject, seeds) for subject, fact in facts.items() if len(seeds := _by_value(runs, fact)) > 1]
    return (*found, *_component_mixtures(runs))


def code_of(run: RunResult) -> str | None:
    """The digests of the code that ran a run, in their order; None if they aren't known."""
    if run.record is None:
        return None
    provenance = run.record.provenance
    digests = [attempt.code_digest for attempt in (*provenance.earlier, provenance)]
    if not any(digests) and run.record.code is not None:
        digests = [run.record.code.digest]
    return ", then ".join(dict.fromkeys(digest[:8] for digest in digests if digest)) or None


def trained_text(run: RunResult) -> str | None:
    """The digest of the text that a run was trained on; None if it isn't known."""
    digest = None if run.summary is None else run.summary.data_digest
    if digest is None and run.record is not None:
        digest = run.record.text_read
    return None if digest is None else digest[:8]


def _own_components(run: RunResult) -> str | None:
    """The digests of the user's file and of packages of components; None without any."""
    digests = () if run.record is None else run.record.extensions.code.values()
    return ", ".join(digest[:8] for digest in digests) or None


def _component_mixtures(runs: Mapping[int, RunResult]) -> Iterator[Mixture]:
    names = dict.fromkeys(name for run in runs.values() if run.record is not None for name in run.record.components)
    for name in names:

        def version(run: RunResult, name: str = name) -> str | None:
            number = None if run.record is None else run.record.components.get(name)
            return None if number is None else f"version {number}"

        seeds = _by_value(runs, version)
        if len(seeds) > 1:
            yield Mixture(name, seeds)


def _by_value(runs: Mapping[int, RunResult], fact: Callable[[RunResult], str | None]) -> dict[str, tuple[int, ...]]:
    """Value → seeds, for the runs of which it is known."""
    seeds: dict[str, tuple[int, ...]] = {}
    for seed, run in runs.items():
        value = fact(run)
        if value is not None:
            seeds[value] = (*seeds.get(value, ()), seed)
    return seeds
