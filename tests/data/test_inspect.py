"""What `lab data` tells of a corpus is what training reads of it, and what would end a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lab.data import DataError, inspect
from lab.data.inspect import Inspection, inspect_data
from lab.data.options import BPE, Byte, Data, File, Files, Hub, Stdlib, Tokenizer
from lab.data.shards import prepare
from tests.data.files_as_people_have_them import CASES, DOCUMENTS, lines, write_case
from tests.data.test_formats import READ, REFUSED


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def inspected(case: str, cache: Path, **options: object) -> Inspection:
    write_case(case, Path())
    return inspect_data(Data(corpus=Files(paths=(case,), **options), validation_fraction=0.2), cache=cache)  # type: ignore[arg-type]


SPLITTABLE = [(case, Byte()) for case in READ if len(READ[case][0]) > 1]
LEARNT_FROM = [(case, BPE(size=280)) for case in ("plain", "emptyrow", "gz_parquet")]


@pytest.mark.parametrize(("case", "tokenizer"), [*SPLITTABLE, *LEARNT_FROM])
def test_its_figures_are_those_of_the_shards(case: str, tokenizer: Tokenizer, cache: Path) -> None:
    write_case(case, Path())
    corpus = Files(paths=(case,), **READ[case][1])
    data = Data(corpus=corpus, tokenizer=tokenizer, validation_fraction=0.2)
    seen, made = inspect_data(data, cache=cache), prepare(data, cache)
    assert (seen.train_documents, seen.validation_documents) == (made.train_documents, made.validation_documents)
    assert seen.text_bytes == made.train_bytes + made.validation_bytes
    assert seen.tokens == len(made.train) + len(made.validation)
    assert seen.bytes_per_token == pytest.approx(seen.text_bytes / seen.tokens)
    assert seen.problems == []
    assert seen.is_complete
    assert sum(file.empty for file in seen.files) == made.tally.empty


@pytest.mark.parametrize("case", [case for case in REFUSED if case not in ("mixed_text", "arrow")])
def test_what_a_run_would_refuse_is_listed_with_the_rest(case: str, cache: Path) -> None:
    seen = inspected(case, cache)
    wanted = REFUSED[case].format(latin1=len(DOCUMENTS[0]) + 4).partition("; correct")[0]
    assert any(wanted in problem for problem in seen.problems), seen.problems


def test_every_bad_row_and_file_is_counted_at_once(cache: Path) -> None:
    Path("d").mkdir()
    Path("d/a.jsonl").write_text(lines([{"text": None}, {"text": "x"}, {"text": None}, {"txt": "y"}, 3]))
    Path("d/b.jsonl").write_bytes(b"\x1f\x8b")
    Path("d/c.jsonl").write_text(lines([{"text": text} for text in DOCUMENTS]))
    seen = inspect_data(Data(corpus=Files(paths=("d",))), cache=cache)
    assert seen.documents == 81
    assert seen.skipped == {"'text' is null": 2, "no field 'text'": 1, "not an object": 1}
    assert [file.documents for file in seen.files] == [1, 0, 80]
    assert len(seen.problems) == 4
    assert "b.jsonl: isn't text that can be read: it is gzip data" in seen.problems[0]
    assert "a.jsonl:1: 'text' is null, expected text (1 more like it)" in seen.problems[1]
    Path("d/b.jsonl").unlink()
    assert inspect_data(Data(corpus=Files(paths=("d",), on_bad_row="skip")), cache=cache).problems == []


def test_files_that_are_left_out_are_listed_with_the_reason(cache: Path) -> None:
    seen = inspected("mixed", cache)
    assert {each.path.name: each.reason for each in seen.left_out} == {
        "README.md": "stands beside files of rows or token ids",
        "LICENSE": "stands beside files of rows or token ids",
        "a.jsonl.sha256": "stands beside files of rows or token ids",
        "dataset_info.json": "describes the data",
        ".gitattributes": "hidden",
        ".cache": "hidden",
    }
    assert [file.name for file in seen.files] == ["a.jsonl"]


@pytest.mark.parametrize(
    ("case", "file_format", "note"),
    [
        ("bom", "JSON lines", "byte order mark left out"),
        ("txt_utf16", "text", "UTF-16"),
        ("txt_crlf", "text", "CR LF line ends are kept"),
        ("zst_csv", "CSV, .zst", None),
        ("json_array", "JSON", None),
        ("pq_large", "Parquet", None),
    ],
)
def test_formats_and_what_is_done_to_the_text_are_named(
    case: str, file_format: str, note: str | None, cache: Path
) -> None:
    file = inspected(case, cache).files[0]
    assert (file.format, file.notes) == (file_format, [note] if note else [])
    assert file.size == len(CASES[case][file.name])


def test_reading_stops_at_the_limit_and_says_so(cache: Path) -> None:
    write_case("txt", Path())
    seen = inspect_data(Data(corpus=Files(paths=("txt",))), max_bytes=300, cache=cache)
    assert not seen.is_complete
    assert 300 <= seen.text_bytes < 600
    assert [file.is_read for file in seen.files].count(False) == 30 - seen.documents
    assert len(seen.files) == 30
    assert seen.problems == []


def test_first_lines_are_those_of_the_first_documents(cache: Path) -> None:
    Path("a.txt").write_text("one\ntwo\nthree\nfour|" + "x|y|z")
    seen = inspect_data(Data(corpus=Files(paths=("a.txt",), split_at="|")), cache=cache)
    assert seen.examples == [("a.txt#1", "one\ntwo\nthree"), ("a.txt#2", "x"), ("a.txt#3", "y")]


def test_token_files_show_the_text_that_their_tokenizer_makes_of_them(cache: Path) -> None:
    write_case("plain", Path())
    made = prepare(Data(corpus=Files(paths=("plain",)), tokenizer=BPE(size=300)), cache)
    made.keep_tokenizer(Path("tokenizer"))
    made.train.tofile("a.bin")
    seen = inspect_data(Data(corpus=Files(paths=("a.bin",)), tokenizer=File(path="tokenizer")), cache=cache)
    assert seen.tokens == len(made.train)
    assert seen.text_bytes == made.train_bytes
    assert seen.examples[0][1] == DOCUMENTS[0]
    np.array([1, 2, 60_000], "<u2").tofile("b.bin")
    (problem,) = inspect_data(
        Data(corpus=Files(paths=("*.bin",)), tokenizer=File(path="tokenizer")), cache=cache
    ).problems
    assert "b.bin: token 2 is 60,000; the tokenizer's ids are 0 to 299" in problem


def test_validation_files_are_marked_and_compared_with_the_training_text(cache: Path) -> None:
    Path("train.jsonl").write_text(lines([{"text": text} for text in DOCUMENTS]))
    Path("val.jsonl").write_text(lines([{"text": text} for text in DOCUMENTS[:3]]))
    seen = inspect_data(Data(corpus=Files(paths=("train.jsonl",), validation_paths=("val.jsonl",))), cache=cache)
    assert [(file.name, file.is_validation) for file in seen.files] == [("val.jsonl", True), ("train.jsonl", False)]
    assert (seen.train_documents, seen.validation_documents) == (80, 3)
    assert "3 of 3 validation documents are in the training text too" in seen.problems[0]


def test_one_document_that_cannot_be_split_is_a_problem(cache: Path) -> None:
    seen = inspected("txt_one", cache)
    assert "1 document at validation_fraction 0.2 leave none for validation" in seen.problems[0]
    assert seen.documents == 1


def test_a_tokenizer_that_the_text_is_too_small_for_is_a_problem(cache: Path) -> None:
    write_case("plain", Path())
    seen = inspect_data(Data(corpus=Files(paths=("plain",)), tokenizer=BPE(size=9000)), cache=cache)
    assert seen.tokens is None
    assert "tokenizer.size: the training split has merges for" in seen.problems[0]


def test_of_much_text_no_tokenizer_is_learnt(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect, "_LEARNT_FROM", 1000)
    write_case("plain", Path())
    seen = inspect_data(Data(corpus=Files(paths=("plain",)), tokenizer=BPE(size=280)), cache=cache)
    assert (seen.documents, seen.tokens, seen.problems) == (80, None, [])


def test_other_corpora_are_shown_as_a_whole(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = inspect_data(Data(corpus=Stdlib(parts=("prose",))), cache=cache)
    assert [(file.name, file.format) for file in seen.files] == [("all documents", "corpus stdlib")]
    assert seen.documents > 30
    rows = [{"text": text} for text in DOCUMENTS] + [{"text": None}]
    monkeypatch.setattr(Hub, "_rows", lambda *arguments: iter(rows))
    Path("mine").mkdir()
    seen = inspect_data(Data(corpus=Hub(dataset="mine")), cache=cache)
    assert (seen.documents, seen.skipped) == (80, {"'text' is null": 1})
    assert "split 'train', row 81: 'text' is null" in seen.problems[0]


def test_a_corpus_that_is_not_there_is_refused(cache: Path) -> None:
    with pytest.raises(DataError, match="no file matches 'nowhere'"):
        inspect_data(Data(corpus=Files(paths=("nowhere",))), cache=cache)
