"""Which text a run is evaluated on: its own, or another corpus, in the tokens that its model knows either way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from lab.composition.frozen.freeze import to_plain
from lab.composition.frozen.recompose import recompose
from lab.data.content import file_digest
from lab.data.corpora.base import Corpus
from lab.data.options import Data
from lab.data.tokenizers.encoder import Encoder
from lab.data.tokenizers.options import BPE, Tokenizer
from lab.evaluation.base import LoadedRun
from lab.records import TOKENIZER
from lab.refusals import RequestError

MAY_SET = ("data.corpus", "data.validation_fraction")


class Kept(Tokenizer):
    """A run's tokenizer as its folder keeps it: learnt from the run's own text, whatever it is used on."""

    def __init__(self, tokenizer: Tokenizer, folder: Path) -> None:
        self._tokenizer = tokenizer
        self._folder = folder

    def vocab_size(self) -> int:
        return self._tokenizer.vocab_size()

    def key(self) -> object:
        files = sorted(path for path in self._folder.iterdir() if path.is_file())
        return ["kept", self._tokenizer.key(), {path.name: file_digest(path) for path in files}]

    def fit(self, texts: Callable[[], Iterable[str]]) -> Encoder:
        return self._tokenizer.load(self._folder)

    def load(self, folder: Path) -> Encoder:
        return self._tokenizer.load(self._folder)


def data_of(loaded: LoadedRun, overrides: Sequence[str] = ()) -> Data:
    """The data that overrides such as `data/corpus=files` make of the run's, with the run's own tokenizer.

    Only held-out documents are evaluated on, of another corpus too.

    Raises:
        RequestError: the overrides are wrong, or what they hold out was trained on.
    """
    own = loaded.experiment.data
    plain = to_plain(loaded.experiment)
    data = recompose(plain, overrides, may_set=MAY_SET, what="lab eval").data if overrides else own
    if data.corpus == own.corpus and data.validation_fraction > own.validation_fraction:
        raise RequestError(
            f"data.validation_fraction: {data.validation_fraction:g} would hold out text that the run was trained "
            f"on: it held out {own.validation_fraction:g}"
        )
    return data if data == own else _read_by(loaded, data)


def of_corpus(loaded: LoadedRun, corpus: Corpus, validation_fraction: float) -> Data:
    """A corpus as the run's model reads it, with the run's own tokenizer.

    Raises:
        RequestError: the run keeps none.
    """
    own = loaded.experiment.data
    data = replace(own, corpus=corpus, validation_fraction=validation_fraction)
    return data if data == own else _read_by(loaded, data)


def _read_by(loaded: LoadedRun, data: Data) -> Data:
    """Other data than the run's own, in its tokens."""
    kept, tokenizer = loaded.run.path / TOKENIZER, loaded.experiment.data.tokenizer
    if kept.is_dir():
        return replace(data, tokenizer=Kept(tokenizer, kept))
    if isinstance(tokenizer, BPE):
        raise RequestError(f"{loaded.run.name} keeps no tokenizer, and the one that it learnt can't be learnt again")
    return data
