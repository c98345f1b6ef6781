"""A researcher's own files: what is read, in which order, and what is said of what can't be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.registry import OptionError
from lab.data import DataError
from lab.data.options import Files


def read(corpus: Files, cache: Path) -> dict[str, str]:
    documents = list(corpus.open(cache).documents())
    assert len({document.key for document in documents}) == len(documents)
    return {document.key: document.text for document in documents}


def write_lines(path: Path, *rows: object) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.parametrize("paths", [("corpus",), ("corpus/**/*.txt",), ("corpus/*/doc*.txt", "corpus/part0/doc00.txt")])
def test_folders_and_globs_give_each_file_once_by_its_path_in_the_corpus(
    paths: tuple[str, ...], folder: Path, texts: dict[str, str], cache: Path
) -> None:
    found = read(Files(paths=paths), cache)
    assert found == texts
    assert list(found) == sorted(texts)


def test_keys_and_digest_do_not_depend_on_where_the_corpus_lies(folder: Path, cache: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "elsewhere" / "deep")
    here, there = Files(paths=("corpus",)), Files(paths=(str(tmp_path / "elsewhere" / "deep"),))
    assert read(here, cache) == read(there, cache)
    assert here.open(cache).digest == there.open(cache).digest


def test_text_is_kept_to_the_last_character(tmp_path: Path, cache: Path) -> None:
    text = "tabs\t, \r\n and \r alone, \ufeff, trailing space \n\n"
    (tmp_path / "odd [1].txt").write_bytes(text.encode())
    assert read(Files(paths=(str(tmp_path / "odd [1].txt"),)), cache) == {"odd [1].txt": text}


@pytest.mark.parametrize("chunk", [1, 3, 1 << 20])
def test_a_text_file_is_divided_at_the_text_between_documents(
    chunk: int, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.data.formats.encoding._CHUNK", chunk)
    (tmp_path / "stories.txt").write_bytes("one\r\n<|e|>twö<|e|><|e|>thr|e|>ee".encode())
    found = read(Files(paths=(str(tmp_path / "stories.txt"),), split_at="<|e|>"), cache)
    assert found == {
        "stories.txt#1": "one\r\n",
        "stories.txt#2": "twö",
        "stories.txt#3": "",
        "stories.txt#4": "thr|e|>ee",
    }


def test_json_lines_are_documents_numbered_by_line(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "one", "n": 1}\n\n  \n{"body": "two\\u2028\\n"}', encoding="utf-8")
    assert read(Files(paths=(str(tmp_path / "*.jsonl"),), field="body"), cache) == {
        "a.jsonl#1": "one",
        "a.jsonl#4": "two\u2028\n",
    }


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_rows_are_documents(kind: pa.DataType, tmp_path: Path, cache: Path) -> None:
    rows = [f"row {i} 🙂" for i in range(1000)]
    pq.write_table(pa.table({"n": range(1000), "text": pa.array(rows).cast(kind)}), tmp_path / "a.parquet")
    assert read(Files(paths=(str(tmp_path),)), cache) == {f"a.parquet#{i}": row for i, row in enumerate(rows, 1)}


def test_rows_are_streamed(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\nnonsense\n')
    documents = Files(paths=(str(tmp_path),)).open(cache).documents()
    assert [next(documents).text, next(documents).text] == ["one", "two"]
    with pytest.raises(DataError, match=r"a\.jsonl:3: is not JSON"):
        next(documents)


def _parquet(table: dict[str, list[object]]) -> Callable[[Path], None]:
    return lambda path: pq.write_table(pa.table(table), path)


def _bytes(content: bytes) -> Callable[[Path], None]:
    return lambda path: (path.write_bytes(content), None)[1]


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        (
            "a.jsonl",
            _bytes(b'{"text": "x"}\n{"txt": "y", "id": 3}\n'),
            r"a\.jsonl:2: has no field 'text'; did you mean 'txt'",
        ),
        ("a.jsonl", _bytes(b'{"text": "x"}\n\n{"text": '), r"a\.jsonl:3: is not JSON"),
        ("a.jsonl", _bytes(b'{"text": "x"}\n{"text": "\xff"}'), r"a\.jsonl:2: is not JSON .*utf-8"),
        ("a.jsonl", _bytes(b'["text"]'), r"a\.jsonl:1: expected an object with 'text', found list"),
        ("a.jsonl", _bytes(b'{"text": null}'), r"a\.jsonl:1: 'text' is null, expected text"),
        ("a.parquet", _bytes(b"PAR1 but no more"), r"a\.parquet: is not a readable Parquet file"),
        ("a.parquet", _parquet({"texts": ["x"], "n": [1]}), r"a\.parquet: has no column 'text'; did you mean 'texts'"),
        (
            "a.parquet",
            _parquet({"doc": [{"text": "x", "n": 1}]}),
            r"a\.parquet: has no column 'text'; did you mean 'doc\.text'\?",
        ),
        ("a.parquet", _parquet({"chat": [[{"content": "x"}]]}), r"no column 'text' \(there are: chat\[\]\.content\)"),
        ("a.parquet", _parquet({"text": [1]}), r"a\.parquet: column 'text' should hold text, it holds int64"),
        ("a.parquet", _parquet({"text": ["x", None]}), r"a\.parquet: row 2: 'text' is null"),
        ("a.txt", _bytes(b"caf\xe9"), r"a\.txt: isn't text that can be read: byte 3 \(0xe9\) is not UTF-8"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_file_and_line(
    name: str, write: Callable[[Path], None], message: str, tmp_path: Path, cache: Path
) -> None:
    write(tmp_path / name)
    with pytest.raises(DataError, match=message):
        read(Files(paths=(str(tmp_path / name),)), cache)


def test_a_divided_file_that_is_not_utf8_is_named_too(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one|caf\xe9")
    with pytest.raises(DataError, match=r"a\.txt: isn't text that can be read: byte 7 \(0xe9\) is not UTF-8"):
        read(Files(paths=(str(tmp_path / "a.txt"),), split_at="|"), cache)


def test_a_pattern_that_matches_nothing_is_named_with_what_is_near(folder: Path, cache: Path) -> None:
    with pytest.raises(DataError, match=r"no file matches 'corpus/part1/doc10.text'.*did you mean 'doc10\.txt'"):
        Files(paths=("corpus/part0", "corpus/part1/doc10.text")).open(cache)
    with pytest.raises(DataError, match=r"no file matches 'nowhere/\*\.txt'"):
        Files(paths=("nowhere/*.txt",)).open(cache)


def test_a_file_that_vanishes_while_it_is_read_is_named(folder: Path, cache: Path) -> None:
    reading = Files(paths=("corpus",)).open(cache)
    (folder / "part0" / "doc00.txt").unlink()
    with pytest.raises(DataError, match=r"doc00\.txt: can't be read \(No such file"):
        list(reading.documents())


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"paths": ()}, "paths"),
        ({"paths": "a.txt"}, "paths"),
        ({"paths": ("a",), "field": ""}, "field"),
        ({"paths": ("a",), "split_at": ""}, "split_at"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, object], option: str) -> None:
    with pytest.raises(OptionError) as refused:
        Files(**options)  # type: ignore[arg-type]
    assert refused.value.option == option


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.jsonl", {"split_at": "|"}, "split_at: divides plain text"),
        ("a.txt", {"field": "body"}, "field: names a field"),
        ("a.txt", {"field": "text"}, "field: names a field of rows, and all files found are text"),
        ("a.txt", {"on_bad_row": "skip"}, "on_bad_row: is about rows"),
    ],
)
def test_an_option_that_no_file_would_heed_is_refused(
    name: str, options: dict[str, str], message: str, tmp_path: Path, cache: Path
) -> None:
    (tmp_path / name).write_text('{"text": "a|b"}')
    with pytest.raises(DataError, match=message):
        Files(paths=(str(tmp_path),), **options).open(cache)
    (tmp_path / "b.txt").write_text("x")
    (tmp_path / "b.jsonl").write_text('{"text": "x"}')
    Files(paths=(str(tmp_path / "*.txt"), str(tmp_path / "*.jsonl")), **options).open(cache)
