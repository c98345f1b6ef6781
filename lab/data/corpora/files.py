"""Local text files, JSON lines and Parquet, streamed."""

from __future__ import annotations

import glob
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

from components.registry import OptionError, register, suggestion
from lab.data.content import Source, content_digest
from lab.data.corpora.base import Corpus, CorpusSnapshot, Document
from lab.data.errors import DataError

_CHUNK = 1 << 20  # characters of a divided text in memory at a time
_DEFAULT_FIELD = "text"
_ROW_SUFFIXES = {".jsonl", ".parquet"}
_ROWS = 256  # rows of a Parquet file in memory at a time


@register("files")
class Files(Corpus):
    """Your own files: every row of a .jsonl or .parquet file is a document, any other file is UTF-8 text.

    Attributes:
        paths: files, folders (with all files below them) and globs (`**` for any depth), relative to the working
            folder. Keys are relative to the deepest folder that contains all of them.
        field: the field of a JSON line, or column of a Parquet file, that holds the text.
        split_at: the text between two documents of a plain text file, such as `<|endoftext|>`; None for one document
            per file.
    """

    paths: tuple[str, ...]
    field: str = _DEFAULT_FIELD
    split_at: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.paths, str) or not self.paths:
            raise OptionError("paths", f"must be a list of at least one path or glob, got {self.paths!r}")
        if not self.field:
            raise OptionError("field", "must name a field, got ''")
        if self.split_at == "":
            raise OptionError("split_at", "must be some text, or null for one document a file, got ''")

    def open(self, cache: Path) -> CorpusSnapshot:
        sources = self._sources()
        digest = content_digest(sources, ["files", self.field, self.split_at], cache)
        return CorpusSnapshot(digest, lambda: self._documents(sources))

    def _documents(self, sources: list[Source]) -> Iterator[Document]:
        for source in sources:
            try:
                yield from self._read(source)
            except OSError as error:
                raise DataError(f"{source.path}: can't be read ({error.strerror or error})") from error

    def _read(self, source: Source) -> Iterator[Document]:
        match source.path.suffix.lower():
            case ".jsonl":
                return json_lines(source, self.field)
            case ".parquet":
                return parquet_rows(source, self.field)
        return plain_text(source, self.split_at)

    def _sources(self) -> list[Source]:
        paths: dict[Path, None] = {}
        folders = []
        for pattern in self.paths:
            matches, folder = _matches(pattern)
            paths |= dict.fromkeys(matches)
            folders.append(folder)
        root = os.path.commonpath(folders)
        sources = [Source(Path(os.path.relpath(path, root)).as_posix(), path) for path in paths]
        self._check_used(sources)
        return sorted(sources, key=lambda source: source.key)

    def _check_used(self, sources: list[Source]) -> None:
        """Raise DataError if an option has no effect on any of the files."""
        has_rows = {source.path.suffix.lower() in _ROW_SUFFIXES for source in sources}
        if self.split_at is not None and False not in has_rows:
            raise DataError("corpus.split_at: divides plain text files, and all files found are .jsonl or .parquet")
        if self.field != _DEFAULT_FIELD and True not in has_rows:
            raise DataError("corpus.field: names a field of .jsonl or .parquet files, and none was found")


def _matches(pattern: str) -> tuple[list[Path], Path]:
    """The files that a path, folder or glob names, and the folder that contains all of them."""
    full = os.path.normpath(os.path.join(os.getcwd(), os.path.expanduser(pattern)))
    if os.path.isfile(full):
        return [Path(full)], Path(full).parent
    if os.path.isdir(full):
        matches, folder = glob.glob(os.path.join(glob.escape(full), "**"), recursive=True), Path(full)
    else:
        matches, folder = glob.glob(full, recursive=True), _before_wildcards(full)
    files = [Path(match) for match in matches if os.path.isfile(match)]
    if not files:
        siblings = sorted(os.listdir(folder)) if folder.is_dir() else []
        names = suggestion(Path(full).name, siblings) if 0 < len(siblings) <= 20 else ""
        raise DataError(f"corpus.paths: no file matches '{pattern}' (looked for {full}){names}")
    return files, folder


def _before_wildcards(pattern: str) -> Path:
    parts = Path(pattern).parts
    fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return Path(*parts[:fixed])


def plain_text(source: Source, split_at: str | None) -> Iterator[Document]:
    """The file as one document, or the parts that `split_at` separates, numbered from 1."""
    try:
        if split_at is None:
            yield Document(source.key, source.path.read_bytes().decode("utf-8"))
            return
        with open(source.path, encoding="utf-8", newline="") as file:
            rest, numbers = "", itertools.count(1)
            while chunk := file.read(_CHUNK):
                *texts, rest = (rest + chunk).split(split_at)
                for text in texts:
                    yield Document(f"{source.key}#{next(numbers)}", text)
            yield Document(f"{source.key}#{next(numbers)}", rest)
    except UnicodeDecodeError as error:
        reason = f"byte 0x{error.object[error.start]:02x}, {error.reason}"
        raise DataError(f"{source.path}: is not UTF-8 text ({reason}); leave it out, or convert it") from error


def json_lines(source: Source, field: str) -> Iterator[Document]:
    """One document per line that isn't blank, numbered by line from 1."""
    with open(source.path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{source.path}, line {number}"
            try:
                row = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}: is not JSON ({error}); expected an object with '{field}'") from error
            if not isinstance(row, dict):
                raise DataError(f"{where}: expected an object with '{field}', found {type(row).__name__}")
            if field not in row:
                raise DataError(f"{where}: has no field '{field}'{suggestion(field, row)}; set corpus.field")
            text = row[field]
            if not isinstance(text, str):
                raise DataError(f"{where}: '{field}' should be text, found {type(text).__name__}")
            yield Document(f"{source.key}#{number}", text)


def parquet_rows(source: Source, field: str) -> Iterator[Document]:
    """One document per row, numbered from 1."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(source.path) as file:
            schema = file.schema_arrow
            if field not in schema.names:
                names = suggestion(field, schema.names)
                raise DataError(f"{source.path}: has no column '{field}'{names}; set corpus.field")
            column = schema.field(field).type
            if pa.types.is_dictionary(column):
                column = column.value_type
            if not (pa.types.is_string(column) or pa.types.is_large_string(column) or pa.types.is_string_view(column)):
                raise DataError(f"{source.path}: column '{field}' should hold text, it holds {column}")
            batches = file.iter_batches(_ROWS, columns=[field])
            texts = itertools.chain.from_iterable(rows.column(0).to_pylist() for rows in batches)
            for number, text in enumerate(texts, 1):
                if text is None:
                    raise DataError(f"{source.path}, row {number}: '{field}' is null, expected text")
                yield Document(f"{source.key}#{number}", text)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{source.path}: is not a readable Parquet file ({error})") from error
