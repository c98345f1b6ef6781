"""Starting to train imports no unused libraries, and changes nothing for other code that uses them."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
import lab.training.fit
print(sorted({"scipy", "transformers"} & set(sys.modules)))
import torchmetrics
from lightning_utilities.core.imports import RequirementCache, package_available
print(bool(RequirementCache("scipy")), bool(RequirementCache("transformers")), package_available("scipy"))
print(type(torchmetrics.__spec__.loader).__name__, float(torchmetrics.MeanMetric()(2.0)))
print(any(type(finder).__module__.startswith("lab") for finder in sys.meta_path))
from importlib.util import find_spec
import pytest
print(all(find_spec(name) for name in ("scipy.signal", "transformers")))
"""


def test_training_imports_neither_scipy_nor_transformers_and_both_stay_importable() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[]", "True True True", "SourceFileLoader 2.0", "False", "True"]
