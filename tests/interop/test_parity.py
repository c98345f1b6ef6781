"""Seventeen published architectures: the lab's decoder is the transformers library's model, and every option counts."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from components.architecture import Architecture
from components.registry import OptionError
from tests.interop.flips import IDLE, flips
from tests.interop.parity import BOUNDS, TABLE, Pair, batch, decoder, errors, exported_alike, relative_error, rounding
from tests.interop.tiny import CASES, VARIANTS

BOTH = CASES | VARIANTS


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_logits_and_every_gradient_equal_the_library_s(
    pair: Callable[[str], Pair], name: str, dtype: torch.dtype
) -> None:
    found = errors(BOTH[name], pair(name), dtype)
    assert found.logits <= BOUNDS[dtype]
    assert found.gradients <= BOUNDS[dtype], found.worst


@pytest.mark.parametrize("name", ["Mixtral", "gpt-oss", "Gemma 2"])
def test_in_fp32_gradients_are_as_near_to_fp64_as_the_library_s(name: str, tmp_path: Path) -> None:
    ours, library = zip(*(rounding(CASES[name], tmp_path / str(seed), seed) for seed in range(7)), strict=True)
    assert statistics.median(ours) <= 1.6 * statistics.median(library)


@pytest.mark.parametrize("name", BOTH)
def test_the_library_loads_what_the_lab_exports_as_the_same_model(
    pair: Callable[[str], Pair], name: str, tmp_path: Path
) -> None:
    assert exported_alike(pair(name), tmp_path / "exported")


def breaks(architecture: Architecture, pair: Pair, expected: torch.Tensor) -> bool:
    """Whether the imported weights don't fit the architecture, or compute something else in it."""
    try:
        model = decoder(architecture, pair.state)
    except (OptionError, RuntimeError):
        return True
    with torch.no_grad():
        try:
            logits = model(batch()[0])
        except (ValueError, IndexError):
            return True
    return logits.shape != expected.shape or not relative_error(logits, expected) <= 1e-4


@pytest.mark.parametrize("name", CASES)
def test_every_option_of_a_family_changes_the_output(pair: Callable[[str], Pair], name: str) -> None:
    one = pair(name)
    with torch.no_grad():
        expected = decoder(one.architecture, one.state)(batch()[0])
    assert not breaks(one.architecture, one, expected)
    idle = []
    for path, others in flips(one.architecture):
        if others and not any(breaks(other, one, expected) for other in others):
            idle.append(path)
    assert set(idle) <= set(IDLE), sorted(set(idle) - set(IDLE))


def test_the_committed_table_holds_its_bounds() -> None:
    rows = [line.split("|")[1:-1] for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    measured = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows[1:]}
    assert list(measured) == list(CASES)
    for name, (model, parameters, *found, export) in measured.items():
        assert model == f"`{CASES[name].published}`"
        assert re.fullmatch(r"[\d,]+", parameters)
        single, double = [float(value) for value in found[:2]], [float(value) for value in found[2:]]
        assert max(single) <= BOUNDS[torch.float32], name
        assert max(double) <= BOUNDS[torch.float64], name
        assert export == "the same", name
