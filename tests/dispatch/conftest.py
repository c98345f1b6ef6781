"""Run folders whose configuration tells the fake worker what to do."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lab.records import RunFolder
from tests.records.made import make_run


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., RunFolder]:
    """make(name, steps=, pause=, do=, deaf=) → a queued run below the root `tmp_path`."""

    def made(name: str, *, steps: int = 2, pause: float = 0.01, do: str = "nothing", deaf: bool = False) -> RunFolder:
        sweep, arm, seed = name.split("/")
        config = {"steps": steps, "pause": pause, "do": do, "deaf": deaf, "train": {"accelerator": "cpu"}}
        info = {
            "version": 1,
            "identity": hashlib.sha256(name.encode()).hexdigest()[:16],
            "sweep": sweep,
            "arm": arm,
            "seed": int(seed.removeprefix("seed-")),
        }
        return make_run(tmp_path / name, yaml.safe_dump(config), info)

    return made


@pytest.fixture
def until() -> Callable[..., None]:
    """until(condition): wait for it, and fail if it doesn't come."""

    def wait(condition: Callable[[], object], seconds: float = 300.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it never came"
            time.sleep(0.01)

    return wait
