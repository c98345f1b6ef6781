"""docs/slurm.md, tried as a new user would: on a real cluster, in an empty folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import blocks, commands
from tests.docs.typed import typed_in, write
from tests.slurm.cluster import Cluster

PAGE = Path(__file__).parents[2] / "docs" / "slurm.md"


@pytest.mark.slow
def test_the_pages_commands_do_what_it_says(cluster: Cluster, tmp_path: Path) -> None:
    tools, work = tmp_path / "bin", tmp_path / "work"
    tools.mkdir()
    work.mkdir()
    environment = {**cluster.environment(), "XDG_CONFIG_HOME": str(tmp_path / "config"), "OMP_NUM_THREADS": "1"}
    run = typed_in(work, tools, environment)
    tried = []
    for block in blocks(PAGE):
        if block.file:
            write(work / block.file, block.text)
        if block.language == "console":
            tried += [command.line for command in commands(block) if run(command)]
    assert "lab submit small --on slurm --wait" in tried
    assert sum("--show-sbatch" in line for line in tried) == 3
