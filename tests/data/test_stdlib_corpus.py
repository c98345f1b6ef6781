"""The text that every Python carries."""

from __future__ import annotations

import ast
import sysconfig
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest

from components.registry import OptionError
from lab.data import DataError
from lab.data.options import Stdlib


def test_prose_is_the_topics_of_the_language_reference(cache: Path) -> None:
    documents = list(Stdlib(parts=("prose",)).open(cache).documents())
    assert [document.text for document in documents] == [topics[name] for name in sorted(topics)]
    assert documents[0].key == f"pydoc_data/topics.py#{min(topics)}"


def test_code_is_the_library_without_tests_packages_or_what_differs_between_machines(cache: Path) -> None:
    documents = {document.key: document.text for document in Stdlib(parts=("code",)).open(cache).documents()}
    assert list(documents) == sorted(documents)
    assert documents["json/decoder.py"] == (Path(sysconfig.get_path("stdlib")) / "json/decoder.py").read_text("utf-8")
    ast.parse(documents["asyncio/base_events.py"])
    parts = {part for key in documents for part in key.split("/")[:-1]}
    assert not parts & {"test", "tests", "idle_test", "site-packages", "pydoc_data", "__pycache__"}
    assert not any("sysconfigdata" in key or "sitecustomize" in key for key in documents)
    assert 5e6 < sum(map(len, documents.values())) < 30e6


def test_the_whole_is_code_then_prose(cache: Path) -> None:
    keys = [document.key for document in Stdlib().open(cache).documents()]
    prose = [key.startswith("pydoc_data/") for key in keys]
    assert prose == sorted(prose)
    assert {True, False} <= set(prose)


def test_the_order_of_parts_changes_nothing(cache: Path) -> None:
    assert Stdlib(parts=("prose", "code")).open(cache).digest == Stdlib().open(cache).digest
    assert Stdlib(parts=("code",)).open(cache).digest != Stdlib().open(cache).digest


def test_a_python_without_its_source_is_told_so(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(DataError, match=r"has no source code.*parts=\[prose\]"):
        Stdlib(parts=("code",)).open(cache)
    with pytest.raises(DataError, match=r"topics\.py: this Python doesn't have it.*parts=\[code\]"):
        Stdlib(parts=("prose",)).open(cache)


@pytest.mark.parametrize("parts", [(), ("code", "code"), ("poetry",)])
def test_parts_that_cannot_be_meant_are_refused(parts: Any) -> None:
    with pytest.raises(OptionError, match="parts"):
        Stdlib(parts=parts)
