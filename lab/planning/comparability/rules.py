"""Which metrics of two runs can be compared, and what keeps the others from it.

Two values of a metric are comparable if they have the same unit and are measured on the same sample. So a loss in nats
per token needs the same tokenizer, and every loss needs the same text, scored in the same way. A part that neither run
recorded keeps nothing from being compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from lab.planning.comparability.scoring import WHOLE, Digest, Evaluated, Plain, Scoring
from lab.planning.config_paths import ABSENT, differences

Subject = Literal[
    "tokenizer", "text", "task", "context", "document masking", "validation sample", "scored bytes", "recipe",
    "data order", "evaluation", "device", "component versions",
]  # fmt: skip

BITS_PER_BYTE = "val/bits_per_byte"
"""The metric that can be compared across tokenizers, if the same bytes are scored."""

_OWN_IDS = ("byte", "ids")
"""Tokenizers whose ids depend on their options alone."""

_OWN_SAMPLE = ("tasks",)
"""Evaluators that measure on the same sample with every tokenizer and every training text."""

_SPEEDS = ("tokens_per_second", "seconds", "mfu")
_SIZES = ("bytes",)


@dataclass(frozen=True)
class Unlikeness:
    """Something in which two runs differ, and on which the unit or the sample of a metric depends.

    Attributes:
        subject: what differs.
        detail: how: `size 1024, baseline 300`.
    """

    subject: Subject
    detail: str

    @property
    def text(self) -> str:
        """`tokenizer (size 1024, baseline 300)`."""
        return f"{self.subject} ({self.detail})"


def unlikenesses(metric: str, run: Scoring, baseline: Scoring) -> tuple[Unlikeness, ...]:
    """Everything that keeps a metric of a run from being compared with the baseline's; empty if it can be compared."""
    return tuple(dict.fromkeys((*_versions(run, baseline), *_of_metric(metric, run, baseline))))


def _of_metric(metric: str, run: Scoring, baseline: Scoring) -> Iterator[Unlikeness]:
    group, last = metric.partition("/")[0], metric.rsplit("/", 1)[-1]
    if group == "unigram":
        yield from _tokenizer(run, baseline)
        yield from _text(run, baseline)
    elif group == "val":
        yield from _text(run, baseline)
        yield from _passes(run, baseline)
        yield from _unit_and_sample(last, run, baseline)
    elif group == "train":
        yield from _tokenizer(run, baseline)
        yield from _text(run, baseline, ("tokens", "corpus"))
        yield from _passes(run, baseline)
        yield from _options("recipe", run.recipe, baseline.recipe)
        if run.data_seed != baseline.data_seed:
            seeds = _shown(run.data_seed), _shown(baseline.data_seed)
            yield Unlikeness("data order", "data.seed {}, baseline {}".format(*seeds))
    else:
        yield from _evaluation(metric, run, baseline)


def _versions(run: Scoring, baseline: Scoring) -> Iterator[Unlikeness]:
    """Components that both use, in versions that compute something else."""
    differing = [
        f"{name} {version}, baseline {baseline.components[name]}"
        for name, version in run.components.items()
        if baseline.components.get(name, version) != version
    ]
    if differing:
        yield Unlikeness("component versions", "; ".join(differing))


def _passes(run: Scoring, baseline: Scoring) -> Iterator[Unlikeness]:
    """What a token's loss is conditioned on: longer contexts and other documents give a lower loss."""
    yield from _values("context", "train.context", run.context, baseline.context)
    if run.mask_documents != baseline.mask_documents:
        yield Unlikeness("document masking", "only in the arm" if run.mask_documents else "only in the baseline")


def _unit_and_sample(
    last: str, run: Scoring, baseline: Scoring, scored: tuple[float | None, float | None] | None = None
) -> Iterator[Unlikeness]:
    """Whether the same tokens are scored; for bits per byte with two tokenizers, whether the same bytes are.

    Args:
        last: the last part of the metric's name.
        scored: the share of the validation text that each of the two scores; by default that of validation.
    """
    shares = scored or (run.scored_share(), baseline.scored_share())
    tokenizer = list(_tokenizer(run, baseline))
    whole = all(share is not None and share >= WHOLE for share in shares)
    if not tokenizer:
        if not (whole or _same_windows(run, baseline)):
            values = _shown(run.validation_tokens), _shown(baseline.validation_tokens)
            yield Unlikeness("validation sample", "validation.tokens {}, baseline {}".format(*values))
    elif not last.endswith("bits_per_byte"):
        yield from tokenizer
    elif not whole:
        arm, other = ("an unknown share" if share is None else f"{100 * share:.3g}%" for share in shares)
        yield Unlikeness("scored bytes", f"{arm} of the validation text, baseline {other}, cut by another tokenizer")


def _same_windows(run: Scoring, baseline: Scoring) -> bool:
    """Whether two runs with the same tokenizer and context score the same windows of a text."""
    scored = run.scored()
    return run.validation_tokens == baseline.validation_tokens or (scored is not None and scored == baseline.scored())


def _tokenizer(run: Scoring, baseline: Scoring) -> Iterator[Unlikeness]:
    if _same(run, baseline, "tokens"):
        return
    options = list(_options("tokenizer", run.tokenizer, baseline.tokenizer))
    yield from options
    if options or run.tokenizer.get("name") in (None, *_OWN_IDS):
        return
    if _same(run, baseline, "tokenizer") is False:
        yield Unlikeness("tokenizer", "the same options, but other content")
    elif run.tokenizer.get("name") == "bpe" and _same(run, baseline, "corpus") is False:
        yield Unlikeness("tokenizer", "trained on another text")


_VALIDATION: tuple[Digest, ...] = ("tokens", "validation", "corpus")


def _text(run: Scoring, baseline: Scoring, digests: tuple[Digest, ...] = _VALIDATION) -> Iterator[Unlikeness]:
    """Whether both read the same text.

    Args:
        digests: those of which one that is equal shows that the texts are the same.
    """
    same = [_same(run, baseline, digest) for digest in digests]
    if True in same:
        return
    subject: Subject = "task" if run.is_task or baseline.is_task else "text"
    options = list(_options(subject, run.data, baseline.data))
    if options:
        yield from options
    elif False in same[1:]:
        yield Unlikeness(subject, "its content has changed between the runs")
    elif same[0] is False and not run.is_task:
        if any(_options("tokenizer", run.tokenizer, baseline.tokenizer)):
            yield Unlikeness(subject, "not known to be the same: an earlier version of the lab didn't record it")
        else:
            yield Unlikeness(subject, "its content, or that of the tokenizer, has changed between the runs")


def _same(run: Scoring, baseline: Scoring, digest: Digest) -> bool | None:
    """Whether two digests are equal; None if one isn't known."""
    if digest not in run.digests or digest not in baseline.digests:
        return None
    return run.digests[digest] == baseline.digests[digest]


def _evaluation(metric: str, run: Scoring, baseline: Scoring) -> Iterator[Unlikeness]:
    """Whether an evaluator measured the same on both."""
    name, _, rest = metric.partition("/")
    part, last = rest.partition("/")[0], metric.rsplit("/", 1)[-1]
    own, other = (scoring.evaluations.get(name, Evaluated()) for scoring in (run, baseline))
    yield from _options("evaluation", own.options, other.options)
    yield from _values("evaluation", "version", own.version, other.version)
    if last.endswith(_SPEEDS):
        devices = own.device or run.device, other.device or baseline.device
        yield from _values("device", "trained or measured on", *devices)
        return
    if last.endswith(_SIZES) or own.options.get("points"):
        return
    context, tokens = own.options.get("context"), own.options.get("tokens")
    if isinstance(context, int):
        run, baseline = replace(run, context=context), replace(baseline, context=context)
    if own.evaluator in _OWN_SAMPLE:
        yield from _values("context", "train.context", run.context, baseline.context)
        return
    yield from _passes(run, baseline)
    if part in own.texts and part in other.texts:
        if own.texts[part] != other.texts[part]:
            tokenizer = list(_tokenizer(run, baseline))
            yield from tokenizer or [Unlikeness("text", f"the content of {part} has changed between the runs")]
        return
    memorised = last.endswith("memorised")
    yield from _text(run, baseline, ("tokens", "corpus") if memorised else _VALIDATION)
    if isinstance(tokens, int):
        run, baseline = (replace(scoring, validation_tokens=tokens) for scoring in (run, baseline))
    yield from _unit_and_sample(last, run, baseline, (_share(run, own), _share(baseline, other)))


def _share(scoring: Scoring, evaluated: Evaluated) -> float | None:
    """The share of the validation text that an evaluation predicts; None if it isn't known."""
    if evaluated.scored is None or not scoring.held_out:
        return scoring.scored_share()
    return evaluated.scored / scoring.held_out


def _options(subject: Subject, run: Plain, baseline: Plain) -> Iterator[Unlikeness]:
    """An unlikeness if some options differ. An option that only a newer version has is off in an older one."""
    off = (ABSENT, None, False)
    details = [
        f"{key} {_shown(value)}, baseline {_shown(other)}"
        for key, (value, other) in differences(run, baseline).items()
        if run and baseline and not (value in off and other in off)
    ]
    if details:
        yield Unlikeness(subject, "; ".join(details))


def _values(subject: Subject, key: str, run: object, baseline: object) -> Iterator[Unlikeness]:
    """An unlikeness if both values are known and differ."""
    if run is not None and baseline is not None and run != baseline:
        yield Unlikeness(subject, f"{key} {_shown(run)}, baseline {_shown(baseline)}")


def _shown(value: object) -> str:
    if value is None:
        return "null"
    return f"{value:,}" if type(value) is int else str(value)
