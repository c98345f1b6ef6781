"""Atomic writes: a file is written under a temporary name in the same folder and then renamed.

A reader sees the old content or the new content, never a part, even after a crash during the write.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Replace the file's content by `text`, as UTF-8, in one step. The folder must exist.

    Raises:
        OSError: it can't be written. The old content is unchanged, and no temporary file is left.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the file's content by bytes, as `write_text` does."""
    # Not tempfile: only the owner can read its files, and the runs of a lab are shared.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            # Without it some file systems make the rename durable before the content: an empty file after a crash.
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_json(path: Path, obj: object) -> None:
    """Replace the file's content by `obj` as indented JSON.

    Floats that aren't finite are written as NaN and Infinity, which Python's reader accepts: the loss of a diverged run
    must be read back unchanged.
    """
    write_text(path, json.dumps(obj, indent=1, ensure_ascii=False) + "\n")
