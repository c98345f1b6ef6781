from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from components.registry import OptionError, options
from lab.training.options import Train, Validation


def train(**changes: Any) -> Train:
    return Train(**({"tokens": 1000, "context": 16, "global_batch": 4} | changes))


@pytest.mark.parametrize(("tokens", "steps"), [(1, 1), (64, 1), (65, 2), (640, 10)])
def test_steps_cover_the_budget_with_whole_steps(tokens: int, steps: int) -> None:
    assert train(tokens=tokens).steps == steps


def test_a_micro_batch_that_does_not_divide_is_refused_with_both_figures() -> None:
    with pytest.raises(OptionError, match="micro_batch: 3 does not divide the global batch 4"):
        train(micro_batch=3)


def test_no_micro_batch_means_the_whole_batch_at_once() -> None:
    assert train().sequences_per_forward == 4
    assert train(micro_batch=2).sequences_per_forward == 2


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("tokens", 0),
        ("context", 0),
        ("global_batch", 0),
        ("micro_batch", 0),
        ("log_every", 0),
        ("grad_clip", 0.0),
        ("checkpoint_minutes", 0.0),
        ("checkpoint_minutes", float("nan")),
        ("precision", "fp16"),
        ("accelerator", "tpu"),
        ("compile", "always"),
    ],
)
def test_values_that_mean_nothing_are_refused_by_name(option: str, value: object) -> None:
    with pytest.raises(OptionError) as refused:
        train(**{option: value})
    assert refused.value.option == option


def test_how_a_run_proceeds_is_no_part_of_what_it_is() -> None:
    assert {option.name for option in options(Train) if not option.affects_result} == {
        "micro_batch",
        "compile",
        "log_every",
        "checkpoint_minutes",
        "accelerator",
    }


@pytest.mark.parametrize(("every", "interval"), [(None, None), (1, 1), (95, 1), (97, 2), (640, 10)])
def test_validation_intervals_round_to_whole_steps(every: int | None, interval: int | None) -> None:
    assert Validation(every=every, tokens=10).interval(64) == interval


@pytest.mark.slow
def test_configuring_loads_neither_torch_nor_lightning() -> None:
    code = """
import sys
import lab.training.options, lab.training.progress.outcome
from lab.training.optimizers import optimizer, schedule
optimizer.AdamW(), schedule.Cosine()
assert "torch" not in sys.modules
import lab.training.experiment
assert not {"lightning", "tensorboard"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
