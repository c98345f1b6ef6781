"""docs/notebook.ipynb runs from its first cell to its last, on a sweep such as `make demo` makes."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from tests.comparison.fake_runs import fake_sweep

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"


def executed(cell: dict[str, Any], names: dict[str, Any]) -> Any:
    """Run a code cell among the names of those before it, and give what it ends with, as a notebook would show it."""
    tree = ast.parse("".join(cell["source"]))
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "notebook", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "notebook", "eval"), names)


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    losses = {"gemma2": [3.1, 3.2], "mha": [3.0, 3.3], "global_only": [3.2, None]}
    axes = {"model/heads": "mha", "model/span": "global"}
    fake_sweep(tmp_path / "runs", losses, sweep="quickstart", axes=axes, curves=True)
    names: dict[str, Any] = {}
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    runs, means, differences, *_ = (executed(cell, names) for cell in cells if cell["cell_type"] == "code")
    assert len(runs) == 6
    assert list(runs["status"]).count("diverged") == 1
    assert means.loc["mha", "mean"] == pytest.approx(3.15)
    assert means.loc["global_only", "count"] == 1
    assert differences.loc[1, "mha"] == pytest.approx(0.1)
    assert pandas.isna(differences.loc[1, "global_only"])
    lines = names["axes"].get_lines()
    assert [line.get_label() for line in lines] == sorted(losses)
    assert all(len(line.get_xdata()) > 10 for line in lines)
