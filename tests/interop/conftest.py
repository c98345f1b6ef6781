"""Tiny checkpoints of the published architectures, saved once by the transformers library and imported once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch

from tests.interop.parity import Pair, imported
from tests.interop.tiny import CASES, VARIANTS


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    @cache
    def of(name: str) -> Pair:
        return imported((CASES | VARIANTS)[name], tmp_path_factory.mktemp("checkpoint"))

    return of
