"""The options alone: registered, complete, and light to import."""

from __future__ import annotations

import subprocess
import sys

from components import registry
from lab.data import DataError
from lab.data.options import Byte, Data, Stdlib
from lab.refusals import RequestError


def test_importing_the_options_loads_no_heavy_library() -> None:
    code = "import sys, lab.data.options; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert "lab.data.options" in loaded
    assert not loaded & {"torch", "numpy", "tokenizers", "datasets", "pyarrow", "lightning", "huggingface_hub"}


def test_every_corpus_and_tokenizer_is_registered_under_its_name() -> None:
    tasks = ["mqar", "associative_recall", "induction", "passkey", "selective_copying"]
    assert sorted(registry.names("corpus")) == sorted(["files", "hub", "stdlib", *tasks])
    assert registry.names("tokenizer") == ["byte", "ids", "bpe", "file"]


def test_data_needs_nothing_to_be_said() -> None:
    assert Data() == Data(corpus=Stdlib(), tokenizer=Byte(), validation_fraction=0.05, seed=None)


def test_a_data_error_is_a_users_mistake_and_a_value_error() -> None:
    assert issubclass(DataError, RequestError)
    assert issubclass(DataError, ValueError)
