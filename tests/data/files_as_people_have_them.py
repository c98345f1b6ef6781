"""Small data files as people have them, each in a folder of its own: 80 documents as rows, or 30 as text files."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

WORDS = tuple("the quick brown fox jumps over a lazy dog while seven wizards box quietly and mix bold jugs".split())  # noqa: SIM905


def document(number: int) -> str:
    draw = random.Random(number)
    return f"Document {number}. " + " ".join(draw.choice(WORDS) for _ in range(20)) + "."


DOCUMENTS = [document(number) for number in range(80)]
ROWS: list[object] = [{"text": text, "id": number} for number, text in enumerate(DOCUMENTS)]


def lines(rows: Sequence[object], ascii_only: bool = True) -> str:
    return "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows)


def zst(content: bytes) -> bytes:
    compressed: bytes = pa.compress(content, "zstd", asbytes=True)
    return compressed


def parquet(table: pa.Table, **options: object) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def npy(values: Sequence[object], dtype: str | None = None) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(values, dtype))
    return file.getvalue()


def llmc(
    ids: Sequence[int], magic: int = 20240520, version: int = 1, dtype: str = "<u2", count: int | None = None
) -> bytes:
    """A token file as llm.c's dev/data scripts write it."""
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(ids) if count is None else count
    return header.tobytes() + np.array(ids, dtype).tobytes()


def _arrow() -> bytes:
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, pa.schema([("text", pa.string())])) as stream:
        stream.write_table(pa.table({"text": DOCUMENTS}))
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _csv(rows: Sequence[str], delimiter: str = ",") -> bytes:
    return (f"id{delimiter}text\n" + "\n".join(f'{i}{delimiter}"{text}"' for i, text in enumerate(rows))).encode()


def _texts(change: Callable[[str], bytes] = str.encode, name: str = "{:03}.txt") -> dict[str, bytes]:
    return {name.format(number): change(text) for number, text in enumerate(DOCUMENTS[:30])}


def _with(number: int, value: object) -> list[object]:
    return [{"text": value if i == number else text} for i, text in enumerate(DOCUMENTS)]


def _column(kind: pa.DataType) -> bytes:
    return parquet(pa.table({"text": pa.array(DOCUMENTS).cast(kind)}))


_LARGE_DICTIONARY = pa.DictionaryArray.from_arrays(
    pa.array(range(80), pa.int32()), pa.array(DOCUMENTS, pa.large_string())
)
_DOTTED = {"doc.text": DOCUMENTS, "doc": [{"text": f"WRONG {text}"} for text in DOCUMENTS]}
_ZSTD = {"text": DOCUMENTS, "meta": [{"a": [1]}] * 80}
_JSON = lines(ROWS)
_U2028 = [{"text": text.replace(". ", ".\u2028 ", 1) + "\x85"} for text in DOCUMENTS]

CASES: dict[str, dict[str, bytes]] = {
    "plain": {"a.jsonl": _JSON.encode()},
    "bom": {"a.jsonl": _JSON.encode("utf-8-sig")},
    "bom_between_lines": {"a.jsonl": b"".join(line.encode("utf-8-sig") for line in _JSON.splitlines(keepends=True))},
    "crlf": {"a.jsonl": _JSON.replace("\n", "\r\n").encode()},
    "utf16": {"a.jsonl": _JSON.encode("utf-16")},
    "u2028": {"a.jsonl": lines(_U2028, ascii_only=False).encode()},
    "ndjson": {"a.ndjson": lines(ROWS[:40]).encode(), "b.ndjson": lines(ROWS[40:]).encode()},
    "json_ext": {
        f"c4-train.{i:05d}-of-00008.json": lines(ROWS[i * 10 : i * 10 + 10]).encode() for i in range(8)
    },
    "json_array": {"data.json": json.dumps(ROWS).encode(), "data2.json": json.dumps(ROWS[:40], indent=1).encode()},
    "json_object": {"data.json": json.dumps({"rows": ROWS}, indent=1).encode()},
    "json_array_cut": {"data.json": json.dumps(ROWS).encode()[:-20]},
    "gz": {"a.jsonl.gz": gzip.compress(_JSON.encode())},
    "gz_txt": _texts(lambda text: gzip.compress(text.encode()), "{}.txt.gz"),
    "gz_cut": {"a.jsonl.gz": gzip.compress(_JSON.encode())[:-20]},
    "gz_name": {"a.jsonl.gz": _JSON.encode()},
    "zst": {"a.jsonl.zst": zst(_JSON.encode())},
    "zst_frames": {"a.jsonl.zst": zst(lines(ROWS[:40]).encode()) + zst(lines(ROWS[40:]).encode())},
    "zst_txt": _texts(lambda text: zst(text.encode()), "{}.txt.zst"),
    "zst_cut": {"a.jsonl.zst": zst(_JSON.encode())[:-20]},
    "zst_csv": {"a.csv.zst": zst(_csv(DOCUMENTS))},
    "gz_parquet": {"a.parquet.gz": gzip.compress(_column(pa.string()))},
    "gz_in_txt": {"a.txt": gzip.compress(b"text")},
    "nested": {"a.jsonl": lines([{"id": i, "data": {"text": text}} for i, text in enumerate(DOCUMENTS)]).encode()},
    "chat": {"a.jsonl": lines([{"messages": [{"role": "user", "content": text}]} for text in DOCUMENTS]).encode()},
    "turns": {"a.jsonl": lines([{"messages": [{"content": t}, {"content": "Yes."}]} for t in DOCUMENTS]).encode()},
    "dotted": {"a.jsonl": lines([{"meta.text": text, "meta": {"text": "WRONG"}} for text in DOCUMENTS]).encode()},
    "nullrow": {"a.jsonl": lines(_with(50, None)).encode()},
    "emptyrow": {"a.jsonl": lines([{"text": text if i % 5 else ""} for i, text in enumerate(DOCUMENTS)]).encode()},
    "surrogate": {"a.jsonl": lines(_with(50, "\ud83d")).encode()},
    "nul": {"a.jsonl": lines([{"text": text + "\0x"} for text in DOCUMENTS]).encode()},
    "special": {"a.jsonl": lines([{"text": f"{text}<|endoftext|>{text}"} for text in DOCUMENTS]).encode()},
    "nofinalnl": {"a.jsonl": _JSON.rstrip().encode()},
    "truncated": {"a.jsonl": _JSON.encode()[:-20]},
    "txt": _texts(),
    "md": _texts(name="{:03}.md"),
    "txt_bom": _texts(lambda text: text.encode("utf-8-sig")),
    "txt_crlf": _texts(lambda text: text.replace(". ", ".\r\n").encode()),
    "txt_latin1": _texts(lambda text: f"{text} café".encode("latin-1")),
    "txt_utf16": _texts(lambda text: text.encode("utf-16")),
    "txt_utf16be": _texts(lambda text: b"\xfe\xff" + text.encode("utf-16-be")),
    "txt_utf16le_nobom": _texts(lambda text: text.encode("utf-16-le")),
    "txt_utf32": _texts(lambda text: text.encode("utf-32")),
    "txt_one": {"book.txt": "\n\n".join(DOCUMENTS).encode()},
    "txt_bad_name": {os.fsdecode(b"caf\xe9%d.txt" % i): text.encode() for i, text in enumerate(DOCUMENTS[:30])},
    "mixed": {
        "a.jsonl": _JSON.encode(),
        "README.md": b"# My data\nscraped in 2021\n",
        "LICENSE": b"CC0",
        "a.jsonl.sha256": b"deadbeef  a.jsonl\n",
        "dataset_info.json": b'{\n "rows": 80\n}',
        ".gitattributes": b"*.jsonl lfs",
        ".cache/old.jsonl": b'{"text": "WRONG"}',
    },
    "mixed_text": {"a.jsonl": _JSON.encode(), "story.txt": b"Once upon a time."},
    "csv": {"a.csv": _csv(DOCUMENTS), "b.csv": _csv(DOCUMENTS[:20])},
    "csv_bom_crlf": {"a.csv": "\ufeff".encode() + _csv(DOCUMENTS).replace(b"\n", b"\r\n")},
    "csv_cells": {"a.csv": b'id,text\n1,"a ""b"",\nc"\n\n2,d,e\n3,f\n'},
    "csv_quote": {"a.csv": b'id,text\n1,"a"b\n2,c\n'},
    "csv_semicolon": {"a.csv": b"id;text\n1;a\n"},
    "tsv": {"a.tsv": _csv(DOCUMENTS, "\t")},
    "unicode dir é 日本": {"a b.jsonl": _JSON.encode()},
    "pq_large": {"a.parquet": _column(pa.large_string())},
    "pq_view": {"a.parquet": _column(pa.string_view())},
    "pq_dict": {"a.parquet": parquet(pa.table({"text": pa.array(DOCUMENTS).dictionary_encode()}))},
    "pq_largedict": {"a.parquet": parquet(pa.table({"text": _LARGE_DICTIONARY}))},
    "pq_null": {"a.parquet": parquet(pa.table({"text": [None, *DOCUMENTS[1:]]}))},
    "pq_binary": {"a.parquet": _column(pa.binary())},
    "pq_list": {"a.parquet": parquet(pa.table({"text": [[text] for text in DOCUMENTS]}))},
    "pq_struct": {"a.parquet": parquet(pa.table({"doc": [{"text": text} for text in DOCUMENTS]}))},
    "pq_chat": {"a.parquet": parquet(pa.table({"messages": [[{"content": text}] for text in DOCUMENTS]}))},
    "pq_dotted": {"a.parquet": parquet(pa.table(_DOTTED))},
    "pq_zero": {"a.parquet": parquet(pa.table({"text": pa.array([], pa.string())}))},
    "pq_allnull": {"a.parquet": parquet(pa.table({"text": pa.nulls(80)}))},
    "pq_zstd": {"a.parquet": parquet(pa.table(_ZSTD), compression="zstd", row_group_size=7)},
    "pq_noext": {"a.pq": _column(pa.string()), "part-0000": _column(pa.string())},
    "pq_in_txt": {"a.txt": _column(pa.string())},
    "arrow": {"data-00000-of-00001.arrow": _arrow()},
    "binary": {"a.dat": b"text, and then \x00\x01\x02"},
    "weights": {"a.bin": b"PK\x03\x04" + bytes(100)},
    "text_bin": {"a.bin": b"this is text that somebody called .bin\n" * 100},
    "odd_bin": {"a.bin": bytes(33)},
    "npy_float": {"a.npy": npy([0.0, 1.0, 2.0])},
}  # fmt: skip


def write_case(name: str, folder: Path) -> None:
    """Write a case's files below a folder, in one named after the case."""
    for file, content in CASES[name].items():
        path = folder / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
