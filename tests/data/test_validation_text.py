"""Validation text of a corpus's own, and corpora that are only evaluated on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from components.registry import OptionError
from lab.data import DataError
from lab.data.options import BPE, Byte, Data, Files
from lab.data.shards import TokenShards, prepare, prepare_evaluation
from tests.data.files_as_people_have_them import DOCUMENTS, lines

TRAIN, HELD_OUT = DOCUMENTS[:60], DOCUMENTS[60:]


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write("train.jsonl", TRAIN)
    write("val.jsonl", HELD_OUT)
    return tmp_path


def write(name: str, texts: Sequence[str]) -> None:
    Path(name).write_text(lines([{"text": text} for text in texts]))


def own(**options: object) -> Files:
    return Files(**{"paths": ("train.jsonl",), "validation_paths": ("val.jsonl",), **options})  # type: ignore[arg-type]


def texts(side: str, made: TokenShards) -> list[str]:
    """The documents of a side, whose tokens are bytes."""
    tokens = getattr(made, side)
    parts = np.split(tokens, np.flatnonzero(tokens == made.separator) + 1)[:-1]
    return [part[:-1].astype(np.uint8).tobytes().decode() for part in parts]


def test_a_validation_file_is_validated_on_and_everything_else_is_trained_on(cache: Path) -> None:
    made = prepare(Data(corpus=own()), cache)
    assert texts("train", made) == TRAIN
    assert texts("validation", made) == HELD_OUT
    assert (made.train_documents, made.validation_documents) == (60, 20)


def test_a_tokenizer_learns_nothing_from_the_validation_file(cache: Path) -> None:
    first = prepare(Data(corpus=own(), tokenizer=BPE(size=290)), cache)
    write("val.jsonl", ["zqzq " * 3000])
    second = prepare(Data(corpus=own(), tokenizer=BPE(size=290)), cache)
    assert second.digest != first.digest
    assert second.encode("zqzq Document") == first.encode("zqzq Document")


def test_a_fraction_beside_a_validation_file_is_refused() -> None:
    with pytest.raises(
        OptionError, match=r"validation_fraction: has no effect, as corpus 'files' names its validation"
    ):
        Data(corpus=own(), validation_fraction=0.1)


def test_a_file_that_is_trained_on_cannot_be_validated_on(cache: Path) -> None:
    Path("link.jsonl").symlink_to("train.jsonl")
    for paths in (("*.jsonl",), ("train.jsonl", "val.jsonl"), (".",)):
        with pytest.raises(
            DataError, match=r"corpus\.validation_paths: .*val\.jsonl is among the files of data\.corpus\.paths"
        ):
            own(paths=paths).open(cache)
    with pytest.raises(DataError, match=r"link\.jsonl is among the files"):
        own(validation_paths=("link.jsonl",)).open(cache)


def test_validation_documents_that_are_trained_on_are_refused_beyond_a_few(cache: Path) -> None:
    write("val.jsonl", [*HELD_OUT, TRAIN[3]])  # 1 of 21
    assert prepare(Data(corpus=own()), cache).tally.overlap == 1
    write("val.jsonl", [*HELD_OUT, TRAIN[3], TRAIN[4]])
    with pytest.raises(DataError, match=r"validation_paths: 2 of 22 validation documents are in the training text too"):
        prepare(Data(corpus=own()), cache)


def test_sides_without_text_are_named(cache: Path) -> None:
    write("empty.jsonl", [""])
    with pytest.raises(DataError, match="corpus 'files' holds no text for training"):
        prepare(Data(corpus=own(paths=("empty.jsonl",))), cache)
    with pytest.raises(DataError, match="corpus 'files' holds no text for validation"):
        prepare(Data(corpus=own(validation_paths=("empty.jsonl",))), cache)
    with pytest.raises(DataError, match=r"corpus\.validation_paths: no file matches 'vall\.jsonl'.*'val\.jsonl'"):
        own(validation_paths=("vall.jsonl",)).open(cache)


def test_a_corpus_of_validation_text_alone_is_evaluated_on_and_not_trained_on(cache: Path) -> None:
    data = Data(corpus=Files(validation_paths=("val.jsonl",)))
    made = prepare_evaluation(data, cache)
    assert texts("validation", made) == HELD_OUT
    assert len(made.train) == 0
    with pytest.raises(DataError, match="holds no text for training"):
        prepare(data, cache)
    with pytest.raises(OptionError, match="paths: must be a list of at least one"):
        Files()


def test_one_text_file_is_evaluated_on_as_a_whole(cache: Path) -> None:
    Path("book.txt").write_text("Once upon a time. " * 50)
    data = Data(corpus=Files(paths=("book.txt",)), validation_fraction=0.3)
    made = prepare_evaluation(data, cache)
    assert texts("validation", made) == ["Once upon a time. " * 50]
    assert (made.train_documents, made.validation_documents, made.validation_bytes) == (0, 1, 900)
    with pytest.raises(DataError, match=r"1 document at validation_fraction 0\.3 leave none for validation"):
        prepare(data, cache)


def test_a_corpus_of_several_documents_is_split_for_evaluation_as_ever(cache: Path) -> None:
    data = Data(corpus=Files(paths=("train.jsonl",)), tokenizer=Byte())
    assert prepare_evaluation(data, cache).digest == prepare(data, cache).digest
