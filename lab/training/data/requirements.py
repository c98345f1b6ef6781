"""What a run requires of texts, files and libraries, checked before it starts.

A text is checked by its exact number of tokens if it has been tokenized on this machine, or if it is small and in files
of the user's own. Another one is tokenized when the first run starts; until then its number of tokens isn't known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from components.registry import OptionError
from lab.data.batches import refuse_too_short
from lab.data.cache import default_cache
from lab.data.corpora.base import Document, TokenStream
from lab.data.options import Data, Files, Task
from lab.data.shards import prepare, token_counts
from lab.refusals import RequestError, Where
from lab.training.experiment import Experiment

SMALL_TEXT = 1 << 20
"""Characters up to which a text is tokenized for the check."""


def known_token_counts(data: Data, digest: str | None) -> dict[str, int] | None:
    """The numbers of tokens of the splits, `train` and `validation`; None if they aren't known before a run starts.

    Args:
        digest: of the text, from `lab.data.text_digest`; None for a synthetic task.
    Raises:
        DataError: the text is small, and can't be read or divided.
    """
    if digest is None:
        return None
    counts = token_counts(digest)
    if counts is None and isinstance(data.corpus, Files) and _is_small(data):
        text = prepare(data)
        counts = {"train": len(text.train), "validation": len(text.validation)}
    return counts


def check_requirements(experiment: Experiment, counts: dict[str, int] | None) -> None:
    """Check the text's size, and what the evaluators read.

    Args:
        counts: of the text, from `known_token_counts`.
    Raises:
        RequestError: with the key.
    """
    if counts is not None:
        for split in ("train", "validation"):
            what = "the training text" if split == "train" else "the validation text"
            _at("train.context", partial(refuse_too_short, counts[split], experiment.train.context, what))
    for name, evaluator in experiment.evaluate.items():
        needs = evaluator.needs(experiment)
        key = f"evaluate.{name}"
        for option, context in needs.held_out.items():
            if counts is None:
                break
            check = partial(refuse_too_short, counts["validation"], context, "the validation text")
            _at(f"{key}.{option}", check)
        for option, corpus in needs.corpora.items():
            if isinstance(corpus, Task):
                raise RequestError.of_option(OptionError(option, f"{corpus.name} is a task and has no text"), key=key)
            _at(f"{key}.{option}", corpus.check_exists)
        for option, path in needs.files:
            if not path.is_file():
                raise RequestError(f"{path}: no such file", kind="not_found", key=f"{key}.{option}", given=str(path))


def unchecked_requirements(experiment: Experiment, counts: dict[str, int] | None) -> Iterator[str]:
    """What `check_requirements` can't check on this machine, one line each."""
    if counts is None and not isinstance(experiment.data.corpus, Task):
        yield f"the number of tokens of corpus '{experiment.data.corpus.name}', which the first run tokenizes"
    for name, evaluator in experiment.evaluate.items():
        for module in evaluator.needs(experiment).missing_modules:
            yield f"evaluate.{name}, as {module} isn't installed here"


def held_out_shortage(experiment: Experiment, counts: dict[str, int] | None) -> int | None:
    """The validation tokens that a run will measure on if the text has fewer than `validation.tokens`; else None."""
    if counts is None or experiment.validation.tokens is None:
        return None
    context = experiment.train.context
    available = (counts["validation"] - 1) // context * context
    return available if available < experiment.validation.tokens else None


def _at(key: str, check: Callable[[], object]) -> None:
    try:
        check()
    except RequestError as error:
        raise error.within(Where(key=key)) from None


def _is_small(data: Data) -> bool:
    """Whether all text of a corpus is at most SMALL_TEXT characters; reads no more than that."""
    size = 0
    snapshot = data.corpus.open(default_cache())
    for read in (snapshot.documents, snapshot.validation):
        for item in read() if read is not None else ():
            if isinstance(item, Document):
                size += len(item.text)
            elif isinstance(item, TokenStream):
                size += item.ids.size
            if size > SMALL_TEXT:
                return False
    return True
