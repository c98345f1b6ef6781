"""docs/checkpoints.md: its sweep is planned as it stands there."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.planning.plan.build import plan_sweep
from tests.docs.blocks import blocks
from tests.docs.typed import write

DOC = Path(__file__).parents[2] / "docs" / "checkpoints.md"


def test_the_pages_sweep_compares_a_run_with_a_begin_token_to_one_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = [block for block in blocks(DOC) if block.file]
    write(tmp_path / block.file, block.text)
    monkeypatch.chdir(tmp_path)
    plan = plan_sweep("begin")
    vocabularies = {run.arm: run.experiment.data.tokenizer.vocab_size() for run in plan.runs}
    assert vocabularies == {"without": 257, "with": 258}
