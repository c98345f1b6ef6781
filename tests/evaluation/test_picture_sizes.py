"""Pictures of many runs are grids of a bounded size, in which every run is found."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from lab.evaluation import pictures


def plain(shade: int, width: int, height: int) -> bytes:
    from matplotlib.image import imsave

    out = io.BytesIO()
    imsave(out, np.full((height, width, 3), shade, dtype=np.uint8), format="png")
    return out.getvalue()


def shades(picture: bytes, wanted: list[int]) -> list[int]:
    """The shades of these that fill some pixels of a picture."""
    image = np.rint(255 * imread(io.BytesIO(picture), format="png")[..., 0])
    return [shade for shade in wanted if (image == shade).sum() > 100_000]


@pytest.mark.parametrize("runs", [1, 2, 5, 12])
def test_maps_of_many_runs_stand_in_a_grid(runs: int) -> None:
    wanted = [20 + 15 * number for number in range(runs)]
    picture = pictures.side_by_side([(f"run {n}", plain(shade, 740, 400)) for n, shade in enumerate(wanted)])
    height, width = imread(io.BytesIO(picture), format="png").shape[:2]
    assert width <= 3000
    assert height <= 6000
    assert shades(picture, wanted) == wanted
    assert runs == 1 or 0.3 < width / height < 4, "it is no strip"


def test_what_has_no_room_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_WIDTH", 300)
    monkeypatch.setattr(pictures, "MAX_HEIGHT", 300)
    monkeypatch.setattr(pictures, "_png", lambda figure: figure)
    figure: Any = pictures.side_by_side([(f"run {n}", plain(127, 100, 100)) for n in range(50)])
    assert [text.get_text() for text in figure.texts][-1] == f"and {50 - len(figure.images)} more runs"
    assert max(figure.get_size_inches()) * figure.dpi <= 300
    assert len(figure.images) == len(figure.texts) - 1 > 3


def test_one_picture_is_shown_whatever_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_WIDTH", 10)
    monkeypatch.setattr(pictures, "MAX_HEIGHT", 10)
    picture = pictures.side_by_side([("run", plain(127, 100, 80))])
    assert imread(io.BytesIO(picture), format="png").shape[:2] == (104, 100)


@pytest.mark.parametrize(("runs", "more"), [(1, 0), (4, 0), (6, 0), (30, 6)])
def test_statistics_of_many_runs_continue_below(runs: int, more: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_png", lambda figure: figure)
    details = {"layers": [0], "heads": {"entropy": [[1.0, 2.0]], "distance": [[3.0, 4.0]]}}
    figure: Any = pictures.statistics(
        [(f"run {n}", details) for n in range(runs)], {"entropy": "entropy", "distance": "distance"}
    )
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    shown = runs - more
    assert sorted(titles) == sorted([*(f"run {n}\nentropy" for n in range(shown)), *["distance"] * shown])
    assert figure.get_size_inches()[0] <= 0.6 + 3.2 * 4
    assert (figure.get_supxlabel() == f"and {more} more runs") == (more > 0)
