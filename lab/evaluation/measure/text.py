"""The evaluation text of a run: its own or another corpus, always with the run's own tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from lab.composition.frozen.freeze import to_plain
from lab.composition.frozen.recompose import paths_of, recompose
from lab.data.content import file_digest
from lab.data.corpora.base import Corpus
from lab.data.errors import DataError
from lab.data.options import Data, Files
from lab.data.tokenizers.encoder import Encoder
from lab.data.tokenizers.options import BPE, Tokenizer
from lab.evaluation.base import LoadedRun
from lab.records import TOKENIZER
from lab.refusals import RequestError

MAY_SET = ("data.corpus", "data.validation_fraction")
_OWN_VALIDATION = {"data.corpus.validation_paths", "data.corpus.validation_split"}
"""Options beside which a fraction has no effect: the run's own isn't kept."""


class SavedTokenizer(Tokenizer):
    """The tokenizer in a run's folder. It isn't trained again on other text."""

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


def evaluation_data(loaded: LoadedRun, overrides: Sequence[str] = ()) -> Data:
    """The run's data after overrides such as `data/corpus=files`, with the run's own tokenizer.

    Evaluators use the validation split, of other corpora too.

    Raises:
        RequestError: an override is wrong, or the validation split would contain training text.
    """
    own = loaded.experiment.data
    plain = to_plain(loaded.experiment)
    names = {path for path, _ in paths_of(overrides)}
    if names & _OWN_VALIDATION and "data.validation_fraction" not in names:
        overrides = (*overrides, f"data.validation_fraction={Data().validation_fraction:g}")
    data = recompose(plain, overrides, may_set=MAY_SET, what="lab eval").data if overrides else own
    if data.corpus == own.corpus and data.validation_fraction > own.validation_fraction:
        raise RequestError(
            f"data.validation_fraction: {data.validation_fraction:g} would hold out text that the run was trained "
            f"on: it held out {own.validation_fraction:g}"
        )
    refuse_trained_on(own, data.corpus)
    return data if data == own else _with_own_tokenizer(loaded, data)


def corpus_data(loaded: LoadedRun, corpus: Corpus, validation_fraction: float) -> Data:
    """A corpus with the run's own tokenizer.

    Raises:
        RequestError: the run has no tokenizer for it.
    """
    own = loaded.experiment.data
    refuse_trained_on(own, corpus)
    fraction = Data().validation_fraction if corpus.has_own_validation else validation_fraction
    data = replace(own, corpus=corpus, validation_fraction=fraction)
    return data if data == own else _with_own_tokenizer(loaded, data)


def refuse_trained_on(own: Data, corpus: Corpus) -> None:
    """Refuse files of a corpus that are also files of the run's training text, where another corpus divides them.

    If the run's files aren't on this machine, that can't be told.

    Raises:
        RequestError: with one of the files.
    """
    if not isinstance(own.corpus, Files) or not isinstance(corpus, Files) or corpus == own.corpus:
        return
    with suppress(DataError):
        trained = {found.source.path.resolve() for found in own.corpus.find()[0].files}
        found, named = corpus.find()
        for file in (found if named is None else named).files:
            if file.source.path.resolve() in trained:
                problem = f"{file.source.path} is also in the run's own text, which this corpus would divide otherwise"
                fix = "evaluate on the run's own corpus, which knows what was held out"
                raise RequestError(problem, kind="conflict", key="data.corpus", fix=fix)


def _with_own_tokenizer(loaded: LoadedRun, data: Data) -> Data:
    """Replace the tokenizer of other data with the run's."""
    folder, tokenizer = loaded.run.path / TOKENIZER, loaded.experiment.data.tokenizer
    if folder.is_dir():
        return replace(data, tokenizer=SavedTokenizer(tokenizer, folder))
    if isinstance(tokenizer, BPE):
        raise RequestError(f"{loaded.run.name} keeps no tokenizer, and the one that it learnt can't be learnt again")
    return data
