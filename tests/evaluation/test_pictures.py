"""`lab eval RUN… EVALUATOR --out DIR` draws what was found of each run, in its place and under its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lab.evaluation import pictures
from lab.records import EvaluationCurve
from tests.evaluation.conftest import Done, Trained


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures stay matplotlib's figures."""
    monkeypatch.setattr(pictures, "_png", lambda figure: figure)


def curve(*points: tuple[float, float]) -> EvaluationCurve:
    return EvaluationCurve("context (tokens)", "loss (nats a token)", points)


@pytest.mark.usefixtures("figures")
def test_curves_are_lines_of_a_colour_an_arm() -> None:
    runs = [
        ("spans/local/seed-0", curve((8, 3.0), (16, 2.5), (256, 2.4))),
        ("spans/local/seed-1", curve((8, 3.1), (16, 2.6))),
        ("spans/global/seed-0", curve((8, 2.9), (16, 2.2))),
    ]
    figure: Any = pictures.curves(runs)
    (axis,) = figure.axes
    for (_, drawn), line in zip(runs, axis.get_lines(), strict=True):
        assert list(zip(*line.get_data(), strict=True)) == list(drawn.points)
    first, second, third = (line.get_color() for line in axis.get_lines())
    assert first == second != third
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["local", "global"]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("context (tokens)", "loss (nats a token)")
    assert axis.get_xscale() == "log", "contexts double"


@pytest.mark.usefixtures("figures")
@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["quickstart/a/seed-0"], ["quickstart/a/seed-0"]),
        (["quickstart/a/seed-0", "quickstart/a/seed-1"], ["seed-0", "seed-1"]),
        (["one/base/seed-0", "two/base/seed-0"], ["one/base", "two/base"]),
        (["imported/mine", "one/base/seed-0"], ["imported/mine", "one/base"]),
    ],
)
def test_runs_have_distinct_labels(names: list[str], labels: list[str]) -> None:
    figure: Any = pictures.curves([(name, curve((0, 1.0), (1, 2.0))) for name in names])
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == labels
    assert len({line.get_color() for line in figure.axes[0].get_lines()}) == len(names)
    assert figure.axes[0].get_xscale() == "linear"


@pytest.mark.usefixtures("figures")
def test_metrics_that_end_alike_share_a_panel() -> None:
    runs = [
        ("s/a/seed-0", {"own/loss": 1.0, "code/loss": 2.0, "own/bits": 3.0, "own/loss_stderr": 0.25}),
        ("s/b/seed-0", {"own/loss": 1.5, "own/bits": 3.5}),
    ]
    figure: Any = pictures.metrics(runs)
    loss, bits = (axis for axis in figure.axes if axis.get_title())
    assert [text.get_text() for text in loss.get_xticklabels()] == ["own", "code"]
    assert [list(line.get_ydata()) for line in loss.get_lines()] == [[1.0, 2.0], [1.5]]
    bars = loss.containers[0][2][0].get_segments()
    assert [list(bar[:, 1]) for bar in bars] == [[0.75, 1.25], [2.0, 2.0]], "a standard error on both sides"
    assert [list(line.get_ydata()) for line in bits.get_lines()] == [[3.0], [3.5]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


@pytest.mark.parametrize(
    ("evaluator", "files"), [("perplexity", ["loss_by_position.png"]), ("transfer", ["metrics.png"])]
)
def test_every_evaluator_draws_something(
    trained: Trained, lab: Callable[..., Done], tmp_path: Path, evaluator: str, files: list[str]
) -> None:
    root, out = tmp_path / "runs", tmp_path / "pictures"
    runs = [trained.copy(run, root).path for run in (trained.bytes, trained.bpe)]
    corpora = (f"corpora={{squares: {{name: files, paths: ['{trained.text}']}}}}",) if evaluator == "transfer" else ()
    done = lab("eval", *runs, evaluator, "tokens=64", *corpora, "--root", root, "--out", out)
    assert done.code == 0, done
    assert sorted(path.name for path in out.iterdir()) == files
    assert f"side by side: {out / files[0]}" in done.out
    assert np.asarray(Image.open(out / files[0]).convert("RGB")).std() > 1, "not an empty page"
