from __future__ import annotations

import hashlib
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.training.checkpoints import verified
from lab.training.checkpoints.lightning_io import VerifiedCheckpointIO


def put(run: Path, step: int) -> Path:
    path = verified.checkpoint_path(run, step)
    verified.write({"state_dict": {"model.w": torch.full((3,), float(step))}}, path)
    return path


def files(run: Path) -> set[str]:
    return {path.name for path in (run / "checkpoints").iterdir()}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lose_its_digest(path: Path) -> None:
    path.with_name(path.name + ".sha256").unlink()


def empty_its_digest(path: Path) -> None:
    path.with_name(path.name + ".sha256").write_text("")


DAMAGE = [truncate, flip_a_bit, lose_its_digest, empty_its_digest]


def test_a_checkpoint_reads_as_it_was_written(tmp_path: Path) -> None:
    assert torch.equal(verified.read(put(tmp_path, 7))["state_dict"]["model.w"], torch.full((3,), 7.0))


def test_the_digest_is_one_that_sha256sum_checks(tmp_path: Path) -> None:
    path = put(tmp_path, 7)
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.with_name(path.name + ".sha256").read_text() == f"{expected}  step-000000007.ckpt\n"


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_not_read(tmp_path: Path, damage: Any) -> None:
    path = put(tmp_path, 7)
    damage(path)
    with pytest.raises(verified.DamagedCheckpoint, match="SHA-256"):
        verified.read(path)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_newest_is_passed_over_with_a_warning(
    tmp_path: Path, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    before, newest = put(tmp_path, 9), put(tmp_path, 10)
    assert verified.newest(tmp_path) == newest
    damage(newest)
    with caplog.at_level(logging.WARNING):
        assert verified.newest(tmp_path) == before
    assert newest.name in caplog.text


def test_a_run_without_checkpoints_has_no_newest(tmp_path: Path) -> None:
    assert verified.newest(tmp_path) is None


def test_a_write_that_fails_leaves_nothing_new(tmp_path: Path) -> None:
    put(tmp_path, 3)
    before = files(tmp_path)
    with pytest.raises(Exception, match="pickle"):
        verified.write({"not a tensor": lambda: None}, verified.checkpoint_path(tmp_path, 4))
    assert files(tmp_path) == before
    assert verified.newest(tmp_path) == verified.checkpoint_path(tmp_path, 3)


def test_a_write_that_dies_between_its_two_names_is_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Died(BaseException):
        pass

    def die(self: Path, target: Path) -> Path:
        raise Died

    put(tmp_path, 3)
    put(tmp_path, 4)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        with pytest.raises(Died):
            verified.write({"state_dict": {}}, verified.checkpoint_path(tmp_path, 4))
    assert verified.newest(tmp_path) == verified.checkpoint_path(tmp_path, 3)


def test_a_checkpoint_that_would_run_code_is_not_loaded(tmp_path: Path) -> None:
    path = verified.checkpoint_path(tmp_path, 1)
    verified.write({"state_dict": {}, "path": Path("anything")}, path)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        verified.read(path)
    with pytest.raises(ValueError, match="weights_only=True"):
        VerifiedCheckpointIO(tmp_path).load_checkpoint(path, weights_only=False)


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    io = VerifiedCheckpointIO(tmp_path)
    for step in (8, 9, 10, 11):
        io.save_checkpoint({"step": step}, verified.checkpoint_path(tmp_path, step))
    assert files(tmp_path) == {f"step-{step:09d}.ckpt{suffix}" for step in (10, 11) for suffix in ("", ".sha256")}


def test_a_damaged_newer_name_does_not_push_out_the_whole_one(tmp_path: Path) -> None:
    whole, damaged = put(tmp_path, 5), put(tmp_path, 9)
    truncate(damaged)
    io = VerifiedCheckpointIO(tmp_path, resumed_from=whole)
    io.save_checkpoint({"step": 6}, verified.checkpoint_path(tmp_path, 6))
    assert [verified.step_of(path) for path in verified.list_checkpoints(tmp_path)] == [6, 5]


def test_what_an_interrupted_write_left_is_cleared(tmp_path: Path) -> None:
    put(tmp_path, 5)
    (tmp_path / "checkpoints" / ".step-000000006.ckpt.123").write_bytes(b"half")
    VerifiedCheckpointIO(tmp_path).save_checkpoint({"step": 7}, verified.checkpoint_path(tmp_path, 7))
    assert not any(name.startswith(".") for name in files(tmp_path))


def test_weights_have_the_models_own_names(tmp_path: Path) -> None:
    put(tmp_path, 5)
    put(tmp_path, 10)
    newest = verified.newest(tmp_path)
    assert newest is not None
    weights = verified.weights_at(newest)
    assert list(weights) == ["w"]
    assert weights["w"].tolist() == [10.0, 10.0, 10.0]


@pytest.mark.parametrize("name", ["step-1.ckpt.sha256", "last.ckpt", "step-.ckpt"])
def test_a_name_that_is_no_checkpoints_has_no_step(name: str) -> None:
    with pytest.raises(ValueError, match="not a checkpoint's name"):
        verified.step_of(Path(name))
