"""Which text a run reads: one digest of the corpus as it is now, of the tokenizer, and of how the text is divided.

Planning puts it into a run's identity, and the token shards that are made of the text are stored under it.
"""

from __future__ import annotations

from pathlib import Path

from lab.data.cache import default_cache
from lab.data.content import digest_of
from lab.data.corpora.base import CorpusSnapshot
from lab.data.options import Data
from lab.data.synthetic.tasks import Task

SHARDS_VERSION = 1
"""Raised when token shards of the same text are stored in another way."""


def text_digest(data: Data, cache: Path | None = None) -> str | None:
    """The digest of a run's text, as hexadecimal digits; None for a synthetic task, which its options describe.

    Costs a look at each file's size and times where the text was read before.

    Args:
        data: the options.
        cache: where digests of unchanged files are kept; by default `lab.data.cache.default_cache()`.
    Raises:
        DataError: the corpus or the tokenizer is missing, or can't be read.
    """
    if isinstance(data.corpus, Task):
        return None
    snapshot = data.corpus.open(default_cache() if cache is None else cache)
    return digest_of_snapshot(data, snapshot, data.held_out_fraction)


def digest_of_snapshot(data: Data, snapshot: CorpusSnapshot, fraction: float | None) -> str:
    """The digest of a text whose corpus has been opened.

    Args:
        fraction: that is held out; None for the corpus's own validation documents, or for everything.
    """
    parts = [data.corpus.version, data.tokenizer.version, data.tokenizer.key(), fraction]
    return digest_of([SHARDS_VERSION, snapshot.digest, *parts])


def part_digests(data: Data, snapshot: CorpusSnapshot, fraction: float | None) -> dict[str, str]:
    """The digests of the `corpus` with its split and of the `tokenizer`, by which runs are known to share one of them.

    Args:
        fraction: as in `digest_of_snapshot`.
    """
    return {
        "corpus": digest_of([data.corpus.version, snapshot.digest, fraction]),
        "tokenizer": digest_of([data.tokenizer.version, data.tokenizer.key()]),
    }
