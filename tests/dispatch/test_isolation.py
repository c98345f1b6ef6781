"""What a run leaves behind in its process doesn't reach the next."""

from __future__ import annotations

import logging
import os
import random
import resource
import sys
from pathlib import Path

import numpy as np
import pytest

from lab.dispatch.worker.isolation import isolated, reset


def test_a_runs_surroundings_are_put_back_even_after_its_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEPT", "before")
    monkeypatch.delenv("ADDED", raising=False)
    folder, paths, arguments, level = os.getcwd(), list(sys.path), list(sys.argv), logging.getLogger().level
    handlers = list(logging.getLogger().handlers)

    def run() -> None:
        os.environ.update(KEPT="after", ADDED="1")
        os.chdir(tmp_path)
        sys.path.insert(0, "elsewhere")
        sys.argv.append("--x")
        logging.getLogger().addHandler(logging.NullHandler())
        logging.getLogger().setLevel(3)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), isolated():
        run()
    assert os.environ["KEPT"] == "before"
    assert "ADDED" not in os.environ
    assert os.getcwd() == folder
    assert (sys.path, sys.argv) == (paths, arguments)
    assert (logging.getLogger().level, logging.getLogger().handlers) == (level, handlers)


def test_numerical_libraries_begin_each_run_alike() -> None:
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()

    def draws() -> tuple[float, float, float, object, object]:
        drawn = torch.rand(1)
        return random.random(), float(np.random.rand()), float(drawn), drawn.dtype, drawn.requires_grad

    try:
        reset(3, 1)
        first = draws()
        assert torch.get_num_threads() == 1
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.set_num_threads(2)
        torch.set_float32_matmul_precision("medium")
        torch.use_deterministic_algorithms(True)
        draws()
        reset(3, 1)
        assert draws() == first
        assert torch.get_num_threads() == 1
        assert torch.is_grad_enabled()
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.are_deterministic_algorithms_enabled()
        reset(4, 1)
        assert draws()[2] != first[2]
    finally:
        reset(0, threads)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep the peak for good")
def test_a_runs_peak_memory_is_not_its_predecessors() -> None:
    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    size = 200 << 20
    held = np.ones(size, dtype=np.uint8)
    high = peak()
    del held
    reset(0, None)
    assert peak() < high - size // 2
