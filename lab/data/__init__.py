"""From text to batches: corpora, tokenizers, cached token shards, and batches that depend on (seed, step) alone.

`options` describes the data and imports no heavy library, `shards.prepare` builds the shards, and `batches` reads them.
"""

from lab.data.errors import DataError

__all__ = ["DataError"]
