"""From text to batches: corpora, tokenizers, token shards made once, and batches that depend on (seed, step) alone.

`options` says what is wanted and imports nothing heavy, `shards.prepare` makes it, `batches` deals it out.
"""

from lab.data.errors import DataError

__all__ = ["DataError"]
