"""State files are replaced whole, and say only what a run can be."""

from __future__ import annotations

import json
import math
import os
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from lab.records import write_json, write_text
from lab.records.run_files.state import Progress, State, read_state, write_state

PROGRESS = Progress(step=10, steps=40, tokens=1000, loss=2.5, tokens_per_second=50.0)


def test_a_written_state_is_read_back_equal(tmp_path: Path) -> None:
    state = State(status="preempted", attempts=2, reason="SIGTERM", heartbeat=1.5, host="n1", pid=7, progress=PROGRESS)
    write_state(tmp_path / "state.json", state)
    assert read_state(tmp_path / "state.json") == state


def test_a_missing_state_is_queued(tmp_path: Path) -> None:
    assert read_state(tmp_path / "state.json") == State(status="queued", attempts=0)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "[" * 100_000,
        '{"version": 3}',
        '{"version": 1, "colour": "red"}',
        '{"version": 1, "failure": "odd"}',
    ],
)
def test_a_file_that_is_no_state_is_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(ValueError, match=r"state\.json"):
        read_state(tmp_path / "state.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("status", None), ("status", ["finished"]), ("attempts", None), ("attempts", True), ("attempts", "2"),
        ("reason", 5), ("failure", []), ("heartbeat", "x"), ("heartbeat", math.nan), ("heartbeat", 10**400),
        ("host", 1), ("pid", 1.5), ("progress", 5), ("progress", []), ("progress", {}),
        ("progress", {**asdict(PROGRESS), "step": math.inf}), ("progress", {**asdict(PROGRESS), "loss": "low"}),
    ],
)  # fmt: skip
def test_a_value_that_no_worker_writes_is_refused_by_its_key(tmp_path: Path, key: str, value: object) -> None:
    (tmp_path / "state.json").write_text(json.dumps({"version": 1, key: value}))
    with pytest.raises(ValueError, match=rf"state\.json: {key}(\.\w+)?: "):
        read_state(tmp_path / "state.json")


def test_a_state_that_is_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "state.json").mkdir()
    with pytest.raises(ValueError, match=r"state\.json: Is a directory"):
        read_state(tmp_path / "state.json")


@pytest.mark.parametrize("loss", [None, math.nan, 3])
def test_a_loss_that_is_not_known_or_not_finite_is_one_that_workers_write(tmp_path: Path, loss: float | None) -> None:
    state = State(progress=replace(PROGRESS, loss=loss, tokens_per_second=None))
    write_state(tmp_path / "state.json", state)
    assert str(read_state(tmp_path / "state.json")) == str(state)


def test_an_unknown_status_is_refused() -> None:
    with pytest.raises(ValueError, match="queued, running"):
        State(status="done")  # type: ignore[arg-type]


@pytest.mark.parametrize(("status", "ended"), [("finished", True), ("diverged", True), ("failed", False)])
def test_only_a_run_with_a_result_has_ended(status: str, ended: bool) -> None:
    assert State(status=status).ended is ended  # type: ignore[arg-type]


def test_the_time_to_go_follows_from_tokens_and_speed() -> None:
    assert State(progress=PROGRESS).eta() == pytest.approx(30 * 100 / 50)
    assert State().eta() is None
    assert State(progress=replace(PROGRESS, step=0, tokens=0)).eta() is None
    assert State(progress=replace(PROGRESS, tokens_per_second=math.nan)).eta() is None


def test_a_diverged_loss_is_read_back_unchanged(tmp_path: Path) -> None:
    write_json(tmp_path / "summary.json", {"val/loss": math.nan, "train/loss": math.inf})
    back = json.loads((tmp_path / "summary.json").read_text())
    assert math.isnan(back["val/loss"])
    assert back["train/loss"] == math.inf


def test_readers_never_see_a_part_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    texts = ["a" * 200_000, "b" * 300_000]
    write_text(path, texts[0])
    done = threading.Event()

    def rewrite() -> None:
        for i in range(60):
            write_text(path, texts[i % 2])
        done.set()

    writer = threading.Thread(target=rewrite)
    writer.start()
    seen = set()
    while not done.is_set():
        seen.add(path.read_text())
    writer.join()
    assert seen <= set(texts)


def test_a_failed_write_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.json"
    write_text(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["state.json"]


def test_files_are_readable_by_whom_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_text(tmp_path / "state.json", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o644
