"""Names of the folders that `lab train` makes: short enough to read, and different for different settings."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from lab.dispatch.control.preparation.prepare import prepare
from lab.planning.arms.names import LONGEST_SHORT_NAME, arm_name, short_arm_name
from lab.planning.plan.build import plan_train

MANY = {
    "model.d_model": 64,
    "train.tokens": "200k",
    "train.context": 256,
    "validation.tokens": 16_000,
    "model/heads": "mha",
}


def test_a_short_name_is_left_as_it_is() -> None:
    assert short_arm_name({"model/heads": "mha", "train.tokens": "200k"}) == "heads=mha,tokens=200k"
    assert short_arm_name({}) == "base"


def test_a_long_name_has_the_first_settings_and_a_digest_of_all() -> None:
    name = short_arm_name(MANY)
    assert re.fullmatch(r"d_model=64,train.tokens=200k-[0-9a-f]{8}", name)
    assert len(name) <= LONGEST_SHORT_NAME < len(arm_name(MANY))
    assert short_arm_name(MANY | {"model/heads": "gqa"}) != name


def test_one_setting_that_is_too_long_is_cut() -> None:
    name = short_arm_name({"data.corpus.paths": f"[{'/folder' * 20}]"})
    assert len(name) <= LONGEST_SHORT_NAME
    assert name.startswith("paths=")
    assert name != short_arm_name({"data.corpus.paths": f"[{'/folder' * 19}]"})


def test_a_run_under_an_older_longer_name_is_found_and_not_made_again(tmp_path: Path) -> None:
    overrides = [f"{key}={value}" for key, value in MANY.items()]
    (planned,) = plan_train("gemma2_tiny", overrides).runs
    older = replace(planned, arm=arm_name(MANY), baseline=arm_name(MANY))
    (made,) = prepare([older], tmp_path).order
    (found,) = prepare([planned], tmp_path).order
    assert found.path == made.path
    assert [path.name for path in (tmp_path / "gemma2_tiny").iterdir() if path.is_dir()] == [arm_name(MANY)]
