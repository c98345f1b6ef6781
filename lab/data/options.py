"""The options of a run's data. Importing this registers every corpus and tokenizer and loads no heavy library."""

from __future__ import annotations

from dataclasses import dataclass, field

from components.registry import OptionError
from lab.data.corpora.base import Corpus
from lab.data.corpora.files import Files
from lab.data.corpora.hub import Hub
from lab.data.corpora.stdlib import Stdlib
from lab.data.synthetic.tasks import MQAR, AssociativeRecall, Induction, Passkey, SelectiveCopying, Task
from lab.data.tokenizers.options import BPE, Byte, File, Ids, Tokenizer

__all__ = [
    "BPE", "MQAR", "AssociativeRecall", "Byte", "Corpus", "Data", "File", "Files", "Hub", "Ids", "Induction", "Passkey",
    "SelectiveCopying", "Stdlib", "Task", "Tokenizer",
]  # fmt: skip

_VALIDATION_FRACTION = 0.05


@dataclass(frozen=True, kw_only=True)
class Data:
    """Text, its tokenizer and its validation split; or a synthetic task and its ids.

    Attributes:
        corpus: the source of the text, or a task whose items are generated on the fly.
        tokenizer: turns the text into token ids.
        validation_fraction: the share of documents held out for validation, in (0, 0.5]. A task keeps the default, as
            does a corpus that names its validation text.
        seed: decides the order of the training data, or the items of a task; None for the run's seed.
    """

    corpus: Corpus = field(default_factory=Stdlib)
    tokenizer: Tokenizer = field(default_factory=Byte)
    validation_fraction: float = _VALIDATION_FRACTION
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.validation_fraction <= 0.5:
            raise OptionError("validation_fraction", f"must lie in (0, 0.5], got {self.validation_fraction}")
        if self.corpus.has_own_validation and self.validation_fraction != _VALIDATION_FRACTION:
            raise OptionError(
                "validation_fraction",
                f"has no effect, as corpus '{self.corpus.name}' names its validation text",
                given=self.validation_fraction,
                fix=f"leave it out, or set it to its default, {_VALIDATION_FRACTION:g}",
            )
        if isinstance(self.corpus, Task):
            self._check_task(self.corpus)
        elif isinstance(self.tokenizer, Ids):
            raise OptionError(
                "tokenizer",
                f"'ids' reads no text such as corpus '{self.corpus.name}'; it is for tasks, such as data=mqar",
            )

    @property
    def held_out_fraction(self) -> float | None:
        """The share of documents that is held out; None if the corpus names its validation text."""
        return None if self.corpus.has_own_validation else self.validation_fraction

    def _check_task(self, task: Task) -> None:
        if not isinstance(self.tokenizer, Ids):
            raise OptionError(
                "tokenizer",
                f"corpus '{task.name}' generates ids and has no text for '{self.tokenizer.name}' to read; use "
                "data/tokenizer=ids",
            )
        if self.validation_fraction != _VALIDATION_FRACTION:
            raise OptionError(
                "validation_fraction",
                f"corpus '{task.name}' has no documents to hold out: its validation items are generated "
                "separately; leave it out",
            )
