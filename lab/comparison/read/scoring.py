"""How the metrics of finished runs were measured: what their configurations, summaries and evaluations tell."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

import yaml

from lab.comparison.read.results import RunResult
from lab.planning.comparability.scoring import Digest, Evaluated, Scoring, evaluations_of, scoring_of
from lab.records import BrokenRecord, EvaluationRecord, read_evaluation

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PARTS: tuple[Digest, ...] = ("tokenizer", "validation", "corpus")
_SECTIONS = re.compile(r"^(?=\S)", re.MULTILINE)
_SCORED = ("data:", "train:", "validation:", "recipe:", "evaluate:")
"""The sections of a configuration that decide how a run is measured."""


class Scorings:
    """The scorings of a sweep's runs. Configurations that are scored in the same way are parsed once.

    Args:
        metrics: the metrics to compare. Of the evaluations, only theirs are read.
    """

    def __init__(self, metrics: Iterable[str]) -> None:
        self._evaluations = evaluations_of(metrics)
        self._parsed: dict[str, Scoring] = {}

    def of(self, run: RunResult) -> Scoring:
        """How a run was measured. What can't be read counts as not known."""
        if run.folder is None:
            return Scoring()
        scoring, record, summary = self._configured(run), run.record, run.summary
        digests: dict[Digest, str] = {}
        if record is not None:
            scoring = replace(scoring, components=record.components, device=record.provenance.device)
            digests |= {} if record.text_read is None else {"tokens": record.text_read}
        if summary is not None:
            digests |= {} if summary.data_digest is None else {"tokens": summary.data_digest}
            parts = summary.text_parts
            digests |= {part: parts[part] for part in _PARTS if part in parts}
        evaluations = {name: found for name in self._evaluations if (found := _evaluated(run, name)) is not None}
        return replace(
            scoring,
            digests=digests,
            held_out=None if summary is None else summary.validation_tokens,
            evaluations={**scoring.evaluations, **evaluations},
        )

    def _configured(self, run: RunResult) -> Scoring:
        assert run.folder is not None
        try:
            text = run.folder.config_path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return Scoring()
        # Parsing is slow, two seconds for a thousand files, and most arms differ in other sections alone.
        sections = "".join(section for section in _SECTIONS.split(text) if section.startswith(_SCORED))
        if sections not in self._parsed:
            config = _mapping(sections)
            if not config:  # in another style, or with references to other sections
                return scoring_of(_mapping(text))
            self._parsed[sections] = scoring_of(config)
        return self._parsed[sections]


def _mapping(text: str) -> dict[str, object]:
    """The mapping in a YAML text; empty if there is none."""
    with suppress(yaml.YAMLError):
        config = yaml.load(text, Loader=_LOADER)
        if isinstance(config, dict):
            return config
    return {}


def _evaluated(run: RunResult, name: str) -> Evaluated | None:
    """How an evaluation was made; None if it isn't there or can't be read."""
    assert run.folder is not None
    with suppress(BrokenRecord, OSError, ValueError):
        evaluation = read_evaluation(run.folder.path, name)
        return Evaluated(
            evaluator=evaluation.evaluator,
            options=evaluation.options,
            version=evaluation.evaluator_version,
            device=evaluation.device,
            texts=_texts(evaluation),
            scored=evaluation.metrics.get("tokens"),
        )
    return None


def _texts(evaluation: EvaluationRecord) -> dict[str, str]:
    digests = evaluation.details.get("digests")
    if not isinstance(digests, dict):
        return {}
    return {str(name): str(digest) for name, digest in digests.items() if name != "own"}
