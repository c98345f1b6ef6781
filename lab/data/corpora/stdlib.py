"""Text that comes with Python: no download, and the same on every machine with the same Python version."""

from __future__ import annotations

import importlib
import io
import os
import sysconfig
import tokenize
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from components.registry import OptionError, register
from lab.data.content import Source, content_digest
from lab.data.corpora.base import Corpus, CorpusSnapshot, Document
from lab.data.errors import DataError

_TESTS = {"test", "tests", "idle_test"}
_THIRD_PARTY = {"site-packages", "dist-packages", "__pycache__", "lib-dynload"}
# Written by the build or the distribution: their content differs between machines with the same version.
_INSTALLATION_PREFIXES = ("_sysconfigdata", "sitecustomize", "usercustomize", "config-")
_TOPICS = "pydoc_data/topics.py"


@register("stdlib")
class Stdlib(Corpus):
    """The standard library of the running Python: its code without tests, and the language reference as prose.

    Attributes:
        parts: `code` is about 11 MB in about 800 documents, one per module; `prose` is about 0.5 MB in about 80
            documents, one per topic of `help()`.
    """

    parts: tuple[Literal["code", "prose"], ...] = ("code", "prose")

    def __post_init__(self) -> None:
        if not self.parts or not set(self.parts) <= {"code", "prose"}:
            raise OptionError("parts", f"must name at least one of 'code' and 'prose', got {list(self.parts)}")
        if len(set(self.parts)) < len(self.parts):
            raise OptionError("parts", f"names a part twice: {list(self.parts)}")

    def open(self, cache: Path) -> CorpusSnapshot:
        sources = self._sources()
        return CorpusSnapshot(content_digest(sources, ["stdlib"], cache), partial(_documents, sources))

    def _sources(self) -> list[Source]:
        root = Path(sysconfig.get_path("stdlib"))
        sources: list[Source] = []
        if "code" in self.parts:
            sources += sorted(_modules(root), key=lambda source: source.key)
            if not sources:
                raise DataError(f"{root}: this Python has no source code there; use parts=[prose] or another corpus")
        if "prose" in self.parts:
            if not (root / _TOPICS).is_file():
                raise DataError(f"{root / _TOPICS}: this Python doesn't have it; use parts=[code] or another corpus")
            sources.append(Source(_TOPICS, root / _TOPICS))
        return sources


def _documents(sources: list[Source]) -> Iterator[Document]:
    for source in sources:
        if source.key == _TOPICS:
            topics = importlib.import_module("pydoc_data.topics").topics
            yield from (Document(f"{_TOPICS}#{topic}", topics[topic]) for topic in sorted(topics))
        else:
            yield Document(source.key, _source_code(source.path))


def _modules(root: Path) -> Iterator[Source]:
    excluded = _TESTS | _THIRD_PARTY | {"pydoc_data"}
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in excluded and not _is_installation_specific(name)]
        for name in files:
            if name.endswith(".py") and not _is_installation_specific(name):
                path = Path(folder, name)
                yield Source(path.relative_to(root).as_posix(), path)


def _is_installation_specific(name: str) -> bool:
    return name.startswith(_INSTALLATION_PREFIXES)


def _source_code(path: Path) -> str:
    try:
        content = path.read_bytes()
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        return content.decode(encoding)
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: can't be read as Python source ({error})") from error
