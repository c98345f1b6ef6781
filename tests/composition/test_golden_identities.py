"""Identities and config.yaml of shipped experiments are those of the lab that wrote `tests/fixtures/identities.json`.

A run that was trained before is found again only while they stay. A change that means to alter them raises a
component's version or `identity.FORMAT`, and writes the fixture anew.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from lab.composition.compose import compose
from lab.composition.frozen.freeze import to_yaml
from lab.composition.frozen.identity import identity

GOLDEN = json.loads((Path(__file__).parents[1] / "fixtures" / "identities.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("line", GOLDEN["experiments"])
def test_an_experiment_is_the_one_that_it_was(line: str) -> None:
    name, *overrides = line.split()
    experiment = compose(name, overrides).experiment
    config = hashlib.sha256(to_yaml(experiment).encode()).hexdigest()
    assert [identity(experiment), config] == GOLDEN["experiments"][line]
