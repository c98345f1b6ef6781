"""Small corpora and a cache of their own for every test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Read once, when the Hub's library is first imported.
os.environ["HF_HUB_OFFLINE"] = "1"

WORDS = ["the", "quick", "brown", "fox", "over", "a", "lazy", "dog", "while", "naïve", "façades", "—", "東京", "🙂\n"]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def texts() -> dict[str, str]:
    """40 documents by key, each different, with words in common."""
    return {f"part{i % 3}/doc{i:02}.txt": " ".join(WORDS[: 4 + i % 13]) * (1 + i % 5) + f" № {i}" for i in range(40)}


@pytest.fixture
def folder(tmp_path: Path, texts: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Those documents as files below the working folder's `corpus`."""
    for key, text in texts.items():
        path = tmp_path / "work" / "corpus" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work" / "corpus"
