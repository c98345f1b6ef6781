"""A researcher's own files: text, JSON, CSV, Parquet, token ids; streamed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from components.option_metadata import absent_at, none_means
from components.registry import OptionError, register
from lab.data.content import content_digest
from lab.data.corpora.base import Corpus, CorpusSnapshot, Item
from lab.data.corpora.file_search import FoundFile, FoundFiles, find_files
from lab.data.errors import DataError
from lab.data.formats.encoding import byte_order_mark
from lab.data.formats.rows import DEFAULT_FIELD, BadRowPolicy, ReadingOptions
from lab.data.formats.table import TEXT, first_bytes, is_as_before, read


@register("files")
class Files(Corpus):
    """Your own files: text, JSON lines, JSON arrays, CSV, Parquet and token ids, also as .gz and .zst.

    docs/data.md says how each is read. A row of a file is a document, as is a text file, in UTF-8 or UTF-16.

    Attributes:
        paths: files, folders (with all files below them) and globs (`**` for any depth), relative to the working
            folder. Keys are relative to the deepest folder that contains all of them.
        field: where the text of a row is: a field or column, or a path such as `meta.text` or `messages[].content`;
            None for `text`.
        split_at: the text between two documents of a plain text file, such as `<|endoftext|>`; None for one document
            per file.
        on_bad_row: what becomes of a row that is broken, or has no text at the field: `refuse` it, or `skip` and count
            it.
        validation_paths: files of validation documents, so that none are held out of `paths`; None to hold some out.
            `paths` may then be empty, for a corpus to evaluate on.
    """

    paths: tuple[str, ...] = ()
    field: str | None = dataclasses.field(default=None, metadata=none_means(DEFAULT_FIELD))
    split_at: str | None = None
    on_bad_row: BadRowPolicy = dataclasses.field(default="refuse", metadata=absent_at("refuse"))
    validation_paths: tuple[str, ...] | None = dataclasses.field(default=None, metadata=absent_at(None))

    def __post_init__(self) -> None:
        for option in ("paths", "validation_paths"):
            paths = getattr(self, option)
            may_be_empty = option == "paths" and self.validation_paths is not None
            if isinstance(paths, str) or (paths == () and not may_be_empty):
                raise OptionError(option, f"must be a list of at least one path or glob, got {paths!r}")
        if self.field == "":
            raise OptionError("field", "must name a field, got ''")
        if self.split_at == "":
            raise OptionError("split_at", "must be some text, or null for one document a file, got ''")

    @property
    def has_own_validation(self) -> bool:
        return self.validation_paths is not None

    def check_exists(self) -> None:
        self.find()

    def find(self) -> tuple[FoundFiles, FoundFiles | None]:
        """The files of the training text, or of all text, and those of the validation text where it is named.

        Raises:
            DataError: a path names no file, an option has no effect on any of them, or a file is in both.
        """
        found = find_files(self.paths, "paths") if self.paths else FoundFiles((), ())
        own = None if self.validation_paths is None else find_files(self.validation_paths, "validation_paths")
        self._check_used([*found.files, *(own.files if own else ())])
        if own is not None:
            _check_apart(found, own)
        return found, own

    def open(self, cache: Path) -> CorpusSnapshot:
        found, own = self.find()
        options = self.reading_options
        digest = self._digest(found, cache)
        if own is None:
            return CorpusSnapshot(digest, lambda: _documents(found.files, options))
        digest = content_digest([], ["files with validation", digest, self._digest(own, cache)], cache)
        return CorpusSnapshot(digest, lambda: _documents(found.files, options), lambda: _documents(own.files, options))

    @property
    def reading_options(self) -> ReadingOptions:
        return ReadingOptions(self.field or DEFAULT_FIELD, self.split_at, self.on_bad_row)

    def _digest(self, found: FoundFiles, cache: Path) -> str:
        """The digest of the content and of how it is read.

        Text, JSON lines and Parquet have the digest that they always had where they are read as they always were, so
        that runs of before know their text again. Whatever else changes the documents is added to it.
        """
        sources = [each.source for each in found.files]
        options: list[object] = ["files", self.field or DEFAULT_FIELD, self.split_at]
        formats = {each.format for each in found.files if not is_as_before(each.source.path, each.format)}
        added: dict[str, object] = {}
        if formats:
            added["formats"] = sorted(f"{each.name} {each.version}" for each in formats)
        if any(_has_mark(each) for each in found.files):
            added["byte_order_mark"] = "left out"
        if self.on_bad_row != "refuse":
            added["on_bad_row"] = self.on_bad_row
        return content_digest(sources, [*options, added] if added else options, cache)

    def _check_used(self, files: Sequence[FoundFile]) -> None:
        """Raise DataError if an option has no effect on any of the files."""
        kinds = {each.format.holds for each in files}
        names = ", ".join(sorted({each.format.name for each in files}))
        if self.split_at is not None and "text" not in kinds:
            raise _unused("split_at", f"divides plain text files, and all files found are {names}", self.split_at)
        if "rows" in kinds:
            return
        if self.field is not None:
            raise _unused("field", f"names a field of rows, and all files found are {names}", self.field)
        if self.on_bad_row != "refuse":
            raise _unused("on_bad_row", f"is about rows, and all files found are {names}", self.on_bad_row)


def _unused(option: str, problem: str, given: str) -> DataError:
    return DataError(problem, kind="conflict", key=f"corpus.{option}", given=given, fix="leave it out")


def _check_apart(found: FoundFiles, own: FoundFiles) -> None:
    """Refuse a file that is both trained and validated on."""
    trained = {each.source.path.resolve() for each in found.files}
    for each in own.files:
        if each.source.path.resolve() in trained:
            problem = f"{each.source.path} is among the files of data.corpus.paths too"
            fix = "leave it out there, or a validation loss would be that of text that was trained on"
            raise DataError(problem, kind="conflict", key="corpus.validation_paths", fix=fix)


def _has_mark(found: FoundFile) -> bool:
    """Whether a byte order mark is left out of a file that was read with it before."""
    path = found.source.path
    may_have = is_as_before(path, found.format) and (found.format is TEXT or path.suffix.lower() == ".jsonl")
    try:
        return may_have and byte_order_mark(first_bytes(path)) != b""
    except OSError as error:
        raise DataError(f"can't be read ({error.strerror or error})", kind="unreadable", file=path) from error


def _documents(files: Sequence[FoundFile], options: ReadingOptions) -> Iterator[Item]:
    for each in files:
        path = each.source.path
        try:
            yield from read(each.source, each.format, options)
        except OSError as error:
            raise DataError(f"can't be read ({error.strerror or error})", kind="unreadable", file=path) from error
