"""A dataset of the Hugging Face Hub, or a local folder laid out like one, streamed through the `datasets` library.

A remote dataset is identified by the commit of its revision. The commit is cached, so that a machine without network
can use token shards that another machine has built.
"""

from __future__ import annotations

import dataclasses
import glob
import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from components.option_metadata import absent_at
from components.registry import OptionError, register
from lab.data.cache import write_atomically
from lab.data.content import Source, content_digest, digest_of
from lab.data.corpora.base import Corpus, CorpusSnapshot, Document, Item, SkippedRow
from lab.data.errors import DataError
from lab.data.formats.rows import NO_TEXT_FIX, BadRow, BadRowPolicy, text_of_row

_COMMIT = re.compile(r"[0-9a-f]{40}")


@register("hub")
class Hub(Corpus):
    """A dataset of the Hugging Face Hub by name, or a local folder of data files. Every row is a document.

    Needs the optional library: `pip install 'architecture-ablation-lab[hub]'`.

    Attributes:
        dataset: `owner/name` on the Hub, or a folder relative to the working folder. An existing folder takes
            precedence.
        config: the dataset's configuration; None for its default.
        split: the split to read. The lab holds out its validation documents from it, as from any corpus.
        field: the column that holds the text, or a path such as `messages[].content`.
        revision: branch, tag or commit on the Hub; None for the newest. A commit makes the text reproducible.
        streaming: read rows as they arrive; False downloads the dataset into the library's cache first. The rows are
            the same. Has no effect on a local folder.
        max_documents: maximum number of rows to read of `split`; None for all.
        max_bytes: maximum UTF-8 bytes of text; reading stops before the row that would exceed it. None for all.
        validation_split: the split of validation documents, so that none are held out of `split`; None to hold some
            out.
        on_bad_row: what becomes of a row without text at the field: `refuse` it, or `skip` and count it.
    """

    dataset: str
    config: str | None = None
    split: str = "train"
    field: str = "text"
    revision: str | None = None
    streaming: bool = dataclasses.field(default=True, metadata={"affects_result": False})
    max_documents: int | None = None
    max_bytes: int | None = None
    validation_split: str | None = dataclasses.field(default=None, metadata=absent_at(None))
    on_bad_row: BadRowPolicy = dataclasses.field(default="refuse", metadata=absent_at("refuse"))

    def __post_init__(self) -> None:
        for option in ("dataset", "split", "field"):
            if not getattr(self, option):
                raise OptionError(option, "must not be empty")
        for option in ("max_documents", "max_bytes"):
            limit = getattr(self, option)
            if limit is not None and limit < 1:
                raise OptionError(option, f"must be at least 1, or null for no limit, got {limit}")
        if self.validation_split in ("", self.split):
            raise OptionError("validation_split", f"must be another split than '{self.split}'")

    @property
    def has_own_validation(self) -> bool:
        return self.validation_split is not None

    def check_exists(self) -> None:
        self._folder()

    def open(self, cache: Path) -> CorpusSnapshot:
        options: list[object] = ["hub", self.config, self.split, self.field, self.max_documents, self.max_bytes]
        added = {"validation_split": self.validation_split, "on_bad_row": self.on_bad_row}
        if added != {"validation_split": None, "on_bad_row": "refuse"}:
            options.append(added)
        if folder := self._folder():
            names = glob.glob("**", root_dir=folder, recursive=True)
            sources = [Source(Path(name).as_posix(), folder / name) for name in sorted(names)]
            digest = content_digest([source for source in sources if source.path.is_file()], options, cache)
            return self._snapshot(digest, str(folder), None)
        commit = self._commit(cache)
        # Read at that commit: a branch may move between the digest and the reading.
        return self._snapshot(digest_of([self.dataset, commit, options]), self.dataset, commit)

    def _snapshot(self, digest: str, name: str, commit: str | None) -> CorpusSnapshot:
        def limited() -> Iterator[Item]:
            return self._limited(self._documents(name, commit, self.split))

        if (own := self.validation_split) is None:
            return CorpusSnapshot(digest, limited)
        return CorpusSnapshot(digest, limited, lambda: self._documents(name, commit, own))

    def _limited(self, items: Iterator[Item]) -> Iterator[Item]:
        limit = self.max_bytes
        for number, item in enumerate(items, 1):
            if self.max_documents is not None and number > self.max_documents:
                return
            if limit is not None and isinstance(item, Document):
                limit -= len(item.text.encode("utf-8"))
                if limit < 0:
                    return
            yield item

    def _documents(self, name: str, commit: str | None, split: str) -> Iterator[Item]:
        for number, row in enumerate(self._rows(name, commit, split), 1):
            text = text_of_row(row, self.field)
            if not isinstance(text, BadRow):
                yield Document(f"{split}#{number}", text)
                continue
            where = f"hub dataset '{self.dataset}', split '{split}', row {number}"
            if self.on_bad_row == "refuse":
                raise DataError(text.problem, kind="unreadable", part=where, fix=NO_TEXT_FIX)
            yield SkippedRow(where, text.reason, text.problem)

    def _folder(self) -> Path | None:
        folder = Path(os.getcwd(), Path(self.dataset).expanduser())
        if folder.is_dir():
            if self.revision is not None:
                problem = f"is for a dataset on the Hub; '{self.dataset}' is a folder here"
                raise DataError(problem, kind="conflict", key="corpus.revision", given=self.revision)
            return folder
        if self.dataset.startswith(("/", ".", "~")) or self.dataset.count("/") > 1:
            problem = f"there is no folder '{self.dataset}' (looked for {folder})"
            raise DataError(problem, kind="not_found", key="corpus.dataset", given=self.dataset)
        return None

    def _commit(self, cache: Path) -> str:
        """The commit of the revision; the cached one if the Hub can't be reached."""
        if self.revision is not None and _COMMIT.fullmatch(self.revision):
            return self.revision
        cached = cache / "hub" / digest_of([self.dataset, self.revision])
        try:
            commit = _fetch_commit(self.dataset, self.revision)
        except ConnectionError as error:
            if cached.is_file():
                return cached.read_text(encoding="utf-8")
            message = f"hub dataset '{self.dataset}': the Hub can't be reached and the dataset was never read here"
            raise DataError(f"{message} ({error})") from error
        with suppress(OSError):  # a read-only cache is still useful
            write_atomically(cached, commit)
        return commit

    def _rows(self, name: str, commit: str | None, split: str) -> Iterator[dict[str, object]]:
        _need_datasets()
        import datasets

        streaming = self.streaming or commit is None  # the library's cache of a folder relies on the files' times
        try:
            yield from datasets.load_dataset(name, self.config, split=split, revision=commit, streaming=streaming)
        except Exception as error:  # the library has no common base class for its errors
            raise DataError(f"hub dataset '{self.dataset}': {error}") from error


def _need_datasets() -> None:
    if importlib.util.find_spec("datasets") is None:
        raise DataError("corpus 'hub' needs the library datasets: pip install 'architecture-ablation-lab[hub]'")


def _fetch_commit(dataset: str, revision: str | None) -> str:
    """Ask the Hub for the commit of a revision.

    Raises:
        DataError: the Hub knows no such dataset or revision.
        ConnectionError: the Hub didn't answer.
    """
    _need_datasets()
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return str(HfApi().dataset_info(dataset, revision=revision, timeout=30).sha)
    except GatedRepoError as error:
        raise DataError(f"hub dataset '{dataset}' asks for its terms to be accepted and a token to be set") from error
    except RepositoryNotFoundError as error:
        raise DataError(f"hub dataset '{dataset}': no such dataset on the Hub, nor a folder here") from error
    except RevisionNotFoundError as error:
        raise DataError(f"hub dataset '{dataset}' has no revision '{revision}'") from error
    except HFValidationError as error:
        raise DataError(f"corpus.dataset: '{dataset}' is neither owner/name nor a folder here ({error})") from error
    except ConnectionError:
        raise
    except Exception as error:  # timeouts and server errors have the HTTP library's own types
        raise ConnectionError(str(error)) from error
