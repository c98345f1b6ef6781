"""Files that are whole or absent: written under a temporary name in the same folder, then renamed.

A reader sees the old content or the new, never a part; so does the next process after a crash in mid-write.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Replace the file's content by `text` (UTF-8) in one step. The folder must exist.

    Raises:
        OSError: the old content then still stands and nothing is left behind.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """As `write_text`, of bytes."""
    # Not tempfile: its files are readable by their owner alone, and a lab shares its runs.
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

    Non-finite floats are kept, as the NaN and Infinity that Python's reader understands: the loss of a diverged run
    must come back as what it was.
    """
    write_text(path, json.dumps(obj, indent=1, ensure_ascii=False) + "\n")
