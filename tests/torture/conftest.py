"""Long storms and long simulations, at full size. `make torture` runs them (`pytest -m torture`); nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is in this folder, and leave it out unless the mark is asked for."""
    here = Path(__file__).parent
    long = [item for item in items if item.path.is_relative_to(here)]
    for item in long:
        item.add_marker(pytest.mark.torture)
    if "torture" not in config.option.markexpr:
        items[:] = [item for item in items if item not in set(long)]
        config.hook.pytest_deselected(items=long)
