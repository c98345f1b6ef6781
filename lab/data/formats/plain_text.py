"""Text files: a document each, or several between which a text of the user's choice stands."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from lab.data.formats.encoding import text_chunks


def read_text(path: Path, split_at: str | None) -> Iterator[tuple[int | None, str]]:
    """(None, text) of the whole file, or (number from 1, text) of the parts that `split_at` separates.

    Raises:
        DataError: the file isn't text.
    """
    if split_at is None:
        yield None, "".join(text_chunks(path))
        return
    rest, numbers = "", itertools.count(1)
    for chunk in text_chunks(path):
        *texts, rest = (rest + chunk).split(split_at)
        for text in texts:
            yield next(numbers), text
    yield next(numbers), rest
