"""Every file that people have is read as the documents in it, or is refused with its file and place."""

from __future__ import annotations

import csv
import json
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import pytest

from lab.composition.compose import compose
from lab.composition.frozen.freeze import load_experiment, to_plain
from lab.data import DataError
from lab.data.corpora.base import Document, SkippedRow
from lab.data.formats import encoding
from lab.data.options import Byte, Data, Files
from lab.data.shards import prepare
from tests.data.files_as_people_have_them import _U2028, CASES, DOCUMENTS, ROWS, lines, write_case, zst

READ: Mapping[str, tuple[list[str], Mapping[str, str]]] = {
    "plain": (DOCUMENTS, {}),
    "bom": (DOCUMENTS, {}),
    "bom_between_lines": (DOCUMENTS, {}),
    "crlf": (DOCUMENTS, {}),
    "utf16": (DOCUMENTS, {}),
    "u2028": ([row["text"] for row in _U2028], {}),
    "ndjson": (DOCUMENTS, {}),
    "json_ext": (DOCUMENTS, {}),
    "json_array": ([*DOCUMENTS, *DOCUMENTS[:40]], {}),
    "gz": (DOCUMENTS, {}),
    "gz_txt": ([DOCUMENTS[int(name)] for name in sorted(map(str, range(30)), key=lambda name: f"{name}.")], {}),
    "zst": (DOCUMENTS, {}),
    "zst_frames": (DOCUMENTS, {}),
    "zst_txt": ([DOCUMENTS[int(name)] for name in sorted(map(str, range(30)), key=lambda name: f"{name}.")], {}),
    "zst_csv": (DOCUMENTS, {}),
    "gz_parquet": (DOCUMENTS, {}),
    "nested": (DOCUMENTS, {"field": "data.text"}),
    "chat": (DOCUMENTS, {"field": "messages[].content"}),
    "turns": ([f"{text}\nYes." for text in DOCUMENTS], {"field": "messages[].content"}),
    "dotted": (DOCUMENTS, {"field": "meta.text"}),
    "emptyrow": ([text if i % 5 else "" for i, text in enumerate(DOCUMENTS)], {}),
    "nul": ([f"{text}\0x" for text in DOCUMENTS], {}),
    "special": ([f"{text}<|endoftext|>{text}" for text in DOCUMENTS], {}),
    "nofinalnl": (DOCUMENTS, {}),
    "txt": (DOCUMENTS[:30], {}),
    "md": (DOCUMENTS[:30], {}),
    "txt_bom": (DOCUMENTS[:30], {}),
    "txt_crlf": ([text.replace(". ", ".\r\n") for text in DOCUMENTS[:30]], {}),
    "txt_utf16": (DOCUMENTS[:30], {}),
    "txt_utf16be": (DOCUMENTS[:30], {}),
    "txt_one": (["\n\n".join(DOCUMENTS)], {}),
    "txt_bad_name": ([DOCUMENTS[int(name)] for name in sorted(map(str, range(30)), key=lambda name: f"{name}.")], {}),
    "mixed": (DOCUMENTS, {}),
    "csv": ([*DOCUMENTS, *DOCUMENTS[:20]], {}),
    "csv_bom_crlf": (DOCUMENTS, {}),
    "tsv": (DOCUMENTS, {}),
    "unicode dir é 日本": (DOCUMENTS, {}),
    "pq_large": (DOCUMENTS, {}),
    "pq_view": (DOCUMENTS, {}),
    "pq_dict": (DOCUMENTS, {}),
    "pq_largedict": (DOCUMENTS, {}),
    "pq_list": (DOCUMENTS, {"field": "text[]"}),
    "pq_struct": (DOCUMENTS, {"field": "doc.text"}),
    "pq_chat": (DOCUMENTS, {"field": "messages[].content"}),
    "pq_dotted": (DOCUMENTS, {"field": "doc.text"}),
    "pq_zero": ([], {}),
    "pq_zstd": (DOCUMENTS, {}),
    "pq_noext": ([*DOCUMENTS, *DOCUMENTS], {}),
}
"""Case → its documents, and the options that it takes."""

REFUSED = {
    "json_object": "data.json: holds one object over several lines",
    "json_array_cut": "data.json: its array doesn't end: the file is cut short",
    "gz_cut": "a.jsonl.gz: its .gz data is damaged",
    "gz_name": "a.jsonl.gz: is named .gz and doesn't begin as such a file does (byte 0 on is 7b 22)",
    "zst_cut": "a.jsonl.zst: its .zst data is damaged",
    "gz_in_txt": "a.txt: isn't text that can be read: it is gzip data (byte 0 on is 1f 8b",
    "nullrow": "a.jsonl:51: 'text' is null, expected text; correct the row, set data.corpus.field, or",
    "surrogate": "a.jsonl:51: character 1 is half of a surrogate pair",
    "truncated": "a.jsonl:80: is not JSON",
    "txt_latin1": "000.txt: isn't text that can be read: byte {latin1} (0xe9) is not UTF-8",
    "txt_utf16le_nobom": "000.txt: isn't text that can be read: byte 1 is 0 (binary data, or UTF-16 without",
    "txt_utf32": "000.txt: isn't text that can be read: it is UTF-32 text",
    "mixed_text": "corpus.paths: 'mixed_text' names files of rows or token ids (a.jsonl) and of text (story.txt)",
    "csv_cells": "a.csv: row 2: has 3 cells (line 5), and the header has 2",
    "csv_quote": "a.csv: row 1: is not CSV",
    "csv_semicolon": "a.csv: has no column 'text'; did you mean 'id;text'?",
    "pq_null": "a.parquet: row 1: 'text' is null",
    "pq_binary": "a.parquet: column 'text' should hold text, it holds binary",
    "pq_allnull": "a.parquet: row 1: 'text' is null",
    "pq_in_txt": "a.txt: isn't text that can be read: it is Parquet data (byte 0 on is 50 41 52 31)",
    "arrow": "data-00000-of-00001.arrow: is an Arrow file",
    "binary": "a.dat: isn't text that can be read: byte 15 is 0",
    "weights": "a.bin: is named .bin and holds a zip archive, not token ids",
    "text_bin": "a.bin: is named .bin and holds text, not token ids",
    "odd_bin": "a.bin: holds 33 bytes, which are no whole number of uint16 token ids",
    "npy_float": "a.npy: expected token ids as integers in one dimension, found float64 of shape (3,)",
}
"""Case → what its refusal says."""

SKIPPED = {
    "nullrow": ("a.jsonl:51", "'text' is null"),
    "surrogate": ("a.jsonl:51", "half of a surrogate pair"),
    "truncated": ("a.jsonl:80", "not JSON"),
    "csv_cells": ("a.csv: row 2", "number of cells"),
    "csv_quote": ("a.csv: row 1", "not CSV"),
    "pq_null": ("a.parquet: row 1", "'text' is null"),
}
"""Case → the one row that `on_bad_row: skip` leaves out, and why."""


def items(corpus: Files, cache: Path) -> list[Document | SkippedRow]:
    found = list(corpus.open(cache).documents())
    assert all(isinstance(item, Document | SkippedRow) for item in found)
    return found  # type: ignore[return-value]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_case_has_an_answer() -> None:
    assert {*READ, *REFUSED} == {*CASES}
    assert not {*READ} & {*REFUSED}


@pytest.mark.parametrize("case", READ)
def test_files_are_read_as_the_documents_in_them(case: str, work: Path, cache: Path) -> None:
    write_case(case, work)
    documents, options = READ[case]
    found = items(Files(paths=(case,), **options), cache)
    assert [item.text for item in found if isinstance(item, Document)] == documents
    assert len({item.key for item in found if isinstance(item, Document)}) == len(found) == len(documents)


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_with_its_file_and_place(case: str, work: Path, cache: Path) -> None:
    write_case(case, work)
    with pytest.raises(DataError) as refused:
        items(Files(paths=(case,)), cache)
    assert REFUSED[case].format(latin1=len(DOCUMENTS[0]) + 4) in str(refused.value)


@pytest.mark.parametrize("case", SKIPPED)
def test_bad_rows_are_skipped_where_that_is_asked_for_and_the_others_are_read(
    case: str, work: Path, cache: Path
) -> None:
    write_case(case, work)
    found = items(Files(paths=(case,), on_bad_row="skip"), cache)
    where, reason = SKIPPED[case]
    (skipped,) = [item for item in found if isinstance(item, SkippedRow)]
    assert skipped.where.endswith(where)
    assert skipped.reason == reason
    assert len(found) == {"csv_cells": 3, "csv_quote": 2}.get(case, 80)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("case", ["json_array", "utf16", "csv", "u2028", "txt_utf16be"])
def test_where_a_file_is_cut_into_chunks_changes_nothing(
    chunk: int, case: str, work: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "_CHUNK", chunk)
    write_case(case, work)
    assert [item.text for item in items(Files(paths=(case,)), cache)[:25]] == READ[case][0][:25]  # type: ignore[union-attr]


@pytest.mark.parametrize("chunk", [1, 2, 5, 1 << 20])
def test_an_array_of_odd_elements_is_read_as_json_reads_it(
    chunk: int, work: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "_CHUNK", chunk)
    texts = ['"quoted"', "\\", '\\"', "a, b] c} [d {e", "", "\n\t", "é\u2028日本🙂", "\\\\\\"]
    rows = [{"id": [1, {"x": [texts]}], "text": text} for text in texts]
    Path("a.json").write_text(json.dumps(rows) + "\n")
    Path("b.json").write_text(json.dumps(rows, indent=2, ensure_ascii=False))
    Path("c.json").write_text(" [ ] ")
    found = items(Files(paths=("*.json",)), cache)
    assert [item.text for item in found if isinstance(item, Document)] == texts * 2


def test_a_broken_element_does_not_hide_those_behind_it(work: Path, cache: Path) -> None:
    Path("a.json").write_text('[{"text": "one"}, {"text": nope}, 3, {"text": "four"}]')
    found = items(Files(paths=("a.json",), on_bad_row="skip"), cache)
    assert [item.reason if isinstance(item, SkippedRow) else item.text for item in found] == [
        "one",
        "not JSON",
        "not an object",
        "four",
    ]
    with pytest.raises(DataError, match=r"a\.json: row 2: is not JSON"):
        items(Files(paths=("a.json",)), cache)


def test_csv_cells_are_those_that_python_writes(work: Path, cache: Path) -> None:
    texts = ['say "hi"', "two\nlines", "two\r\nlines", "a,b;c\td", " blank ", "é", "x" * 300_000]
    for name, dialect in (("a.csv", csv.excel), ("b.tsv", csv.excel_tab)):
        with open(name, "w", newline="") as file:
            writer = csv.writer(file, dialect=dialect)
            writer.writerows([["n", "body"], *([i, text] for i, text in enumerate(texts))])
    found = items(Files(paths=("*.?sv",), field="body"), cache)
    assert [item.text for item in found if isinstance(item, Document)] == texts * 2


@pytest.mark.parametrize(
    ("row", "field", "message"),
    [
        ({"a": {"b": "x"}}, "a.c", "has no field 'a.c'; did you mean 'a.b'? (there are: a.b)"),
        ({"n": 1, "data": {"text": "x", "m": 2}}, "text", "has no field 'text'; did you mean 'data.text'?"),
        (
            {"chat": [{"role": "user", "content": "x"}]},
            "text",
            "has no field 'text' (there are: chat[].role, chat[].content)",
        ),
        ({"n": 1}, "text", "has no field 'text' (there are: n)"),
        ({"a": "x"}, "a.b", "'a' should hold 'b', found str"),
        ({"a": {"b": "x"}}, "a[].b", "'a' should be a list, found dict"),
        ({"a": [{"b": "x"}, {"b": None}]}, "a[].b", "'a[].b' is null"),
        ({"a": ["x"]}, "a", "'a' should be text, found list; 'a[]' joins the texts of a list"),
        ({"txt": "x"}, "text", "has no field 'text'; did you mean 'txt'?"),
    ],
)
def test_a_path_that_leads_to_no_text_is_refused_where_it_ends(
    row: object, field: str, message: str, work: Path, cache: Path
) -> None:
    Path("a.jsonl").write_text(lines([row]))
    with pytest.raises(DataError) as refused:
        items(Files(paths=("a.jsonl",), field=field), cache)
    assert f"a.jsonl:1: {message}" in str(refused.value)


def test_a_side_file_that_is_named_is_read(work: Path, cache: Path) -> None:
    write_case("mixed", work)
    found = items(Files(paths=("mixed/a.jsonl", "mixed/README.md")), cache)
    assert len(found) == 81
    assert found[0] == Document("README.md", "# My data\nscraped in 2021\n")


def test_skipped_and_empty_rows_are_counted_with_the_shards(work: Path, cache: Path) -> None:
    Path("a.jsonl").write_text(lines([{"text": None}, {"text": ""}, *ROWS, {"txt": "x"}, {"text": None}]))
    corpus = Files(paths=("a.jsonl",), on_bad_row="skip")
    for _ in range(2):  # built, and then found in the cache
        made = prepare(Data(corpus=corpus, tokenizer=Byte()), cache)
        assert (made.tally.empty, made.tally.skipped) == (1, {"'text' is null": 2, "no field 'text'": 1})
        assert made.train_documents + made.validation_documents == 80


def test_a_corpus_of_bad_rows_only_is_refused(work: Path, cache: Path) -> None:
    write_case("plain", work)
    with pytest.raises(DataError, match="all its rows are skipped, 80 of them as no field 'body'"):
        prepare(Data(corpus=Files(paths=("plain",), field="body", on_bad_row="skip")), cache)


def test_the_digest_changes_where_the_reading_has_changed(work: Path, cache: Path) -> None:
    """Shards that were built of the same bytes by older rules aren't taken for those of today."""
    from lab.data.content import Source, content_digest

    def as_before(name: str) -> str:
        return content_digest([Source(name, work / name)], ["files", "text", None], cache)

    Path("a.txt").write_text("text")
    Path("a.jsonl").write_text('{"text": "x"}')
    for name in ("a.txt", "a.jsonl"):
        assert Files(paths=(name,)).open(cache).digest == as_before(name)
    Path("b.txt").write_bytes(b"\xef\xbb\xbftext")
    Path("b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "x"}')
    Path("b.json").write_text('[{"text": "x"}]')
    Path("b.csv").write_text("text\nx")
    Path("b.txt.zst").write_bytes(zst(b"text"))
    for name in ("b.txt", "b.jsonl", "b.json", "b.csv", "b.txt.zst"):
        assert Files(paths=(name,)).open(cache).digest != as_before(name)
    assert Files(paths=("a.jsonl",), on_bad_row="skip").open(cache).digest != as_before("a.jsonl")


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.jsonl.zst"])
def test_memory_is_that_of_a_document(name: str, work: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "_CHUNK", 1 << 16)
    row = json.dumps({"text": "x" * 4000})
    content = {
        "a.json": "[" + ",".join([row] * 2500) + "]",
        "a.csv": "text\n" + "\n".join(["x" * 4000] * 2500),
        "a.jsonl.zst": f"{row}\n" * 2500,
    }[name].encode()
    Path(name).write_bytes(zst(content) if name.endswith(".zst") else content)  # 10 MB of text
    del content
    tracemalloc.start()
    try:
        size = sum(len(item.text) for item in Files(paths=(name,)).open(cache).documents())  # type: ignore[union-attr]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size == 10_000_000
    assert peak < 2_000_000


def test_a_run_of_before_reads_its_text_files_though_its_configuration_names_the_default_field(
    work: Path, cache: Path
) -> None:
    Path("a.txt").write_text("text")
    frozen = to_plain(compose("gemma2_tiny", ["data/corpus=files", "data.corpus.paths=[a.txt]"]).experiment)
    frozen["data"]["corpus"] = {"name": "files", "paths": ["a.txt"], "field": "text", "split_at": None}
    corpus = load_experiment(frozen).data.corpus
    assert [item.text for item in items(corpus, cache)] == ["text"]
