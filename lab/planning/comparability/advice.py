"""What to do instead if a metric can't be compared."""

from __future__ import annotations

from collections.abc import Iterable

from lab.planning.comparability.rules import BITS_PER_BYTE, Subject, Unlikeness

_ADVICE: dict[Subject, str] = {
    "tokenizer": f"write `metrics: [{BITS_PER_BYTE}]`, and `validation.tokens: null` to score the same bytes",
    "scored bytes": "write `validation.tokens: null`, so that all of the validation text is scored in every arm",
    "text": "train and validate the arms on one text",
    "task": "give the arms one task with the same options",
    "context": (
        "score all arms with one context, such as `evaluate.same: {name: perplexity, context: 64}` and `metrics: "
        "[same/loss]`"
    ),
    "document masking": "mask documents in all arms or in none",
    "validation sample": "give the arms the same validation.tokens",
    "recipe": "compare val/loss, which every recipe measures on the text",
    "data order": "give the arms the same data.seed, or none",
    "evaluation": "evaluate the arms again with the same options",
    "device": "measure speed on one kind of device",
    "component versions": "train the runs of the older version again: `lab submit` does, where a version has changed",
}


def advice(metric: str, reasons: Iterable[Unlikeness]) -> str | None:
    """What makes the metric, or another one, comparable; None if nothing keeps it from being compared."""
    subjects = dict.fromkeys(reason.subject for reason in reasons)
    fixes = [_ADVICE[subject] for subject in subjects]
    return "; ".join(fixes) or None
