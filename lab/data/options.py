"""What a run is trained on, as options. Importing this registers every corpus and tokenizer and loads no library."""

from __future__ import annotations

from dataclasses import dataclass, field

from components.registry import OptionError
from lab.data.corpus import Corpus
from lab.data.files import Files
from lab.data.hub import Hub
from lab.data.stdlib import Stdlib
from lab.data.tokenizer import BPE, Byte, File, Tokenizer

__all__ = ["BPE", "Byte", "Corpus", "Data", "File", "Files", "Hub", "Stdlib", "Tokenizer"]


@dataclass(frozen=True, kw_only=True)
class Data:
    """Text, how it becomes tokens, and what is held out.

    Attributes:
        corpus: where the text comes from.
        tokenizer: what turns it into token ids.
        validation_fraction: the share of documents that is held out and never trained on, in (0, 0.5].
        seed: of the order of the training data; None for the run's seed.
    """

    corpus: Corpus = field(default_factory=Stdlib)
    tokenizer: Tokenizer = field(default_factory=Byte)
    validation_fraction: float = 0.05
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.validation_fraction <= 0.5:
            raise OptionError("validation_fraction", f"must lie in (0, 0.5], got {self.validation_fraction}")
