"""A frozen configuration is changed only where that leaves the run the run that it was."""

from __future__ import annotations

import pytest
import yaml

from lab.composition.compose import compose
from lab.composition.frozen.amend import amend
from lab.composition.frozen.freeze import load_experiment, to_plain
from lab.composition.frozen.identity import identity
from lab.refusals import RequestError


@pytest.fixture(scope="module")
def config() -> dict[str, object]:
    plain = to_plain(compose("gemma2_tiny", ["train.global_batch=8"]).experiment)
    assert isinstance(plain, dict)
    return plain


def test_a_field_without_effect_on_the_result_may_change(config: dict[str, object]) -> None:
    text, changes = amend(config, ["train.micro_batch=2", "train.log_every=10"])
    assert changes == {"train.micro_batch": (None, 2)}, "what was so before is no change"
    after = yaml.safe_load(text)
    assert after["train"]["micro_batch"] == 2
    assert identity(load_experiment(after)) == identity(load_experiment(config))
    assert config["train"]["micro_batch"] is None, "the original is left alone"  # type: ignore[index]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.tokens=5k", "affects the result"),
        ("seed=3", "affects the result"),
        ("model.span.window=8", "affects the result"),
        ("model/heads=mha", "affects the result"),
        ("train.micro_bach=2", "did you mean 'train.micro_batch'"),
        ("train.micro_batch=3", "does not divide"),
        ("train.micro_batch=many", "train.micro_batch"),
        ("train.micro_batch=1,2", "several values"),
        ("~train.micro_batch", "train.micro_batch"),
    ],
)
def test_everything_else_is_refused_by_name(config: dict[str, object], override: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        amend(config, [override])
