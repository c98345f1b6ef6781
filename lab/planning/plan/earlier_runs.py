"""Runs that versions of the lab made which knew a text by its name alone: their identity is that of the configuration.

Such a run still counts as the planned one if it was trained on the same text, or has not ended: then its own text is
checked against its checkpoint when it goes on. A run that was trained on another text stands apart.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from lab.composition import memo
from lab.composition.frozen.identity import identity_with_text
from lab.planning.run_records import run_records
from lab.records import BrokenRecord


def run_identity(configuration: str, text: str | None, root: Path | None) -> tuple[str, str | None]:
    """The identity of a planned run, and the digest of the text in it.

    Args:
        configuration: the identity of its configuration.
        text: digest of the text that it would read now; None for a synthetic task.
        root: where an earlier run may stand; None to look nowhere.
    Returns:
        Of an earlier run, the identity of the configuration and None.
    """
    if text is not None and root is not None:
        texts = memo.cached(("earlier runs", root), lambda: _earlier_runs(root))
        if texts.get(configuration, _OTHER) in (None, text):
            return configuration, None
    return identity_with_text(configuration, text), text


_OTHER = ""


def _earlier_runs(root: Path) -> dict[str, str | None]:
    """Identity → digest of the text that the run was trained on, None where it has not ended."""
    texts: dict[str, str | None] = {}
    for run, record in run_records(root):
        if record.text is None and record.imported is None:
            text = record.provenance.data
            with suppress(BrokenRecord):
                if text is not None or not run.state.ended:
                    texts.setdefault(record.identity, text)
    return texts
