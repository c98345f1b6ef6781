"""Curves in a state that no run writes: edited by hand, cut by a crash, or written by another program."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lab.cli.main import cli
from lab.comparison.statistics.noise import POINTS
from lab.records import Points, last_points
from tests.comparison.fake_runs import fake_sweep

ODD = [
    *('["val/loss", 1]', '[{"val/loss": 1.0}]', '"val/loss"', '"\\"val/loss\\": 1"', "3", "null", "{}"),
    *('{"val/loss": 1.0}', '{"step": null, "val/loss": 1.0}', '{"step": "30", "val/loss": 1.0}'),
    *('{"step": [30], "val/loss": 1.0}', '{"step": {"a": 1}, "val/loss": 1.0}', '{"step": true, "val/loss": 1.0}'),
    *('{"step": Infinity, "val/loss": 1.0}', '{"step": -Infinity, "val/loss": 1.0}', '{"step": NaN, "val/loss": 1.0}'),
    *('{"step": 30, "val/loss": true}', '{"step": 30, "val/loss": "1.0"}', '{"step": 30, "val/loss": [1.0]}'),
    *('{"step": 30, "val/loss": Infinity}', f'{{"step": 30, "val/loss": 1{"0" * 400}}}'),
    f'{{"step": 1{"0" * 400}, "val/loss": 1.0}}',
]
GOOD = [{"step": step, "tokens": step * 512, "time": step / 2, "val/loss": 4 - step / 40} for step in (10, 20, 31, 40)]


def write(path: Path, *odd: str) -> None:
    """Good points with odd lines between the second and the third."""
    lines = [json.dumps(point) for point in GOOD]
    path.write_text("\n".join([*lines[:2], *odd, *lines[2:]]) + "\n")


@contextmanager
def locked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """metrics.jsonl may not be read, also not by the superuser that tests may run as."""
    found = io.open

    def refused(file: Any, *arguments: Any, **options: Any) -> Any:
        if str(file).endswith("metrics.jsonl"):
            raise PermissionError(13, "Permission denied", str(file))
        return found(file, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(io, "open", refused)
        yield


def commands(root: Path) -> None:
    for arguments in (["compare", "softcap"], ["compare", "softcap", "--json"], ["report", "softcap"]):
        done = CliRunner().invoke(cli, [*arguments, "--root", str(root)], standalone_mode=False)
        assert done.exception is None, (arguments, done.exception)
        assert done.exit_code == 0


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_line_is_no_point_and_the_others_are(tmp_path: Path, odd: str) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, odd)
    points = Points(path, ("val/loss",))
    assert points.values("val/loss") == {point["step"]: point["val/loss"] for point in GOOD}
    assert points.seconds() == {point["step"]: point["time"] for point in GOOD}
    assert points.tokens_per_step() == 512
    assert last_points(path, "val/loss", POINTS) == [(point["step"], point["val/loss"]) for point in GOOD]


@pytest.mark.parametrize("first", ODD)
def test_tokens_are_reported_by_a_point_that_has_them(tmp_path: Path, first: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{first}\n" + "".join(json.dumps(point) + "\n" for point in GOOD))
    assert Points(path, ("val/loss",)).tokens_per_step() == 512


@pytest.mark.parametrize("tokens", ['"512"', "null", "[1]", "true", "Infinity", f"1{'0' * 400}"])
def test_tokens_and_times_that_are_no_numbers_say_nothing(tmp_path: Path, tokens: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1, "tokens": {tokens}, "time": {tokens}, "val/loss": 1.0}}\n')
    points = Points(path, ("val/loss",))
    assert (points.tokens_per_step(), points.seconds(), points.values("val/loss")) == (None, {}, {1: 1.0})


def test_a_line_of_brackets_without_end_is_one_that_cant_be_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, '{"val/loss": ' + "[" * 100_000)
    assert Points(path, ("val/loss",)).values("val/loss") == {10: 3.75, 20: 3.5}
    assert len(last_points(path, "val/loss", POINTS)) == 4


def test_a_folder_in_place_of_the_file_has_no_points(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    assert Points(tmp_path / "metrics.jsonl", ("val/loss",)).values("val/loss") == {}
    assert last_points(tmp_path / "metrics.jsonl", "val/loss", POINTS) == []


def test_a_file_that_may_not_be_read_has_no_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path)
    with locked(monkeypatch):
        assert Points(path, ("val/loss",)).values("val/loss") == {}
        assert last_points(path, "val/loss", POINTS) == []
    assert len(last_points(path, "val/loss", POINTS)) == 4


def test_a_sweep_with_odd_curves_is_compared_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_sweep(tmp_path, {"both": [3.2, 3.21, 3.22], "neither": [3.3, 3.31, 3.35]}, curves=True)
    for arm in ("both", "neither"):
        files = [tmp_path / "softcap" / arm / f"seed-{seed}" / "metrics.jsonl" for seed in range(3)]
        write(files[0], *ODD)
        huge = '{"step": 40, "tokens": 20480, "time": 20.0, "val/loss": 1e308, "train/loss": -1e308}\n'
        files[1].write_text(files[1].read_text() + huge)
        files[2].unlink()
        files[2].mkdir()
    commands(tmp_path)
    with locked(monkeypatch):
        commands(tmp_path)
