"""The files in experiments/model are the published models: their counts, their configurations."""

from __future__ import annotations

import pytest

from lab.composition.search_path import available
from lab.interop.configuration import load_architecture, to_hf_config
from lab.interop.family import families
from lab.interop.meaning import meaning
from tests.interop.hub import CONFIGS, PARAMETERS
from tests.interop.parity import parameters, published, their_parameters
from tests.interop.tiny import CASES

WITH_DROPOUT = {"gpt2", "starcoder2_7b"}


def test_every_published_model_and_every_family_is_looked_at() -> None:
    files = {name for name in available("experiments", "model") if not name.endswith("_tiny")}
    assert files == set(PARAMETERS)
    assert {case.published for case in CASES.values()} == set(CONFIGS)
    assert {case.model_type for case in CASES.values()} == set(families())


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_those_published_and_those_of_the_library(name: str) -> None:
    architecture = published(name)
    assert parameters(architecture) == PARAMETERS[name]
    assert their_parameters(architecture) == PARAMETERS[name]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_hub_s_configuration_is_the_file_in_experiments(name: str) -> None:
    architecture = load_architecture(CONFIGS[name], without_dropout=name in WITH_DROPOUT)
    assert meaning(architecture) == meaning(published(name))
    assert architecture.init == published(name).init


@pytest.mark.parametrize("name", CONFIGS)
def test_a_published_model_is_written_as_the_family_that_it_is_of(name: str) -> None:
    written = to_hf_config(published(name), CONFIGS[name]["model_type"])
    for key in set(written) & set(CONFIGS[name]) - {"sliding_window"}:
        if "pdrop" not in key and "dropout" not in key:
            assert written[key] == CONFIGS[name][key] or {written[key], CONFIGS[name][key]} <= {
                "gelu",
                "gelu_pytorch_tanh",
            }
