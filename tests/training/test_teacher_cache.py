"""A teacher's outputs in the cache: as good as the teacher itself, made once, whole or absent."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lab.data.errors import DataError
from lab.dispatch.worker import failure
from lab.training.fit import fit
from lab.training.progress.outcome import Outcome
from lab.training.recipes import teacher_cache
from lab.training.recipes.target_options import Targets, bytes_per_token
from lab.training.recipes.targets import TargetSelection, TeacherTargets
from lab.training.recipes.teacher import Teacher
from lab.training.recipes.teacher_cache import TeacherCache

from . import student, tiny

FORMS: tuple[Targets, ...] = ("top_k", "sampled", "sampled_renormalized")
STEPS = 6


class Counting(student.Confident):
    """A teacher that counts the sequences it is shown."""

    shown = 0

    def forward(self, tokens: Tensor) -> Tensor:
        self.shown += len(tokens)
        return super().forward(tokens)


def run(
    folder: Path,
    cache: Path | None,
    form: Targets = "sampled",
    *,
    steps: int = STEPS,
    given: Any = None,
    **changes: Any,
) -> tuple[Outcome, dict[str, Tensor]]:
    """A student with dropout and two passes a step; `changes` are of its procedure."""
    model = tiny.TinyModel(dropout=0.3)
    plan = replace(tiny.procedure(steps, micro_batch=2), **changes)
    teacher = given if isinstance(given, Teacher) else student.teacher(given)
    module = student.distilled(teacher, selection=TargetSelection(form, 5), cache=cache)
    outcome = fit(model, tiny.TinyText(), plan, folder, module=module)
    return outcome, tiny.weights(model)


def files(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.is_file() and path.name != "about.json")


@pytest.mark.parametrize("form", FORMS)
def test_a_cached_student_is_the_online_one_bit_for_bit(tmp_path: Path, form: Targets) -> None:
    _, online = run(tmp_path / "online", None, form)
    first, second = Counting(), Counting()
    written, made = run(tmp_path / "first", tmp_path / "cache", form, given=first)
    read, found = run(tmp_path / "second", tmp_path / "cache", form, given=second)
    assert tiny.same(made, online)
    assert tiny.same(found, online)
    assert tiny.timeless(tmp_path / "first") == tiny.timeless(tmp_path / "online") == tiny.timeless(tmp_path / "second")
    assert (first.shown, second.shown) == (STEPS * tiny.BATCH, 0)

    size = bytes_per_token(form, 5, tiny.VOCAB) * STEPS * tiny.TOKENS_PER_STEP
    on_disk = files(tmp_path / "cache")
    assert [path.suffix for path in on_disk] == [".bin"] * STEPS, "no lock and nothing temporary is left"
    assert sum(path.stat().st_size for path in on_disk) == size + 4 * STEPS, "what is announced, and a checksum a step"
    facts = written.summary.as_json()["teacher"]
    assert facts["cache"]["bytes"] == size
    assert facts["cache"]["written_bytes"] == size + 4 * STEPS
    assert read.summary.as_json()["teacher"]["cache"] == facts["cache"] | {"written_bytes": 0}
    assert (facts["targets"], facts["k"], facts["val/loss"], facts["data"]) == (form, 5, 1.25, "d")


def test_its_size_is_said_before_anything_is_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Silent(student.Confident):
        def forward(self, tokens: Tensor) -> Tensor:
            assert "the teacher's outputs take 5.38kB for 6 steps, in " in capfd.readouterr().err or self.begun
            self.begun = True
            return super().forward(tokens)

        begun = False

    given = Silent()
    run(tmp_path / "run", tmp_path / "cache", given=given)
    assert given.begun


def test_a_longer_student_adds_its_own_steps(tmp_path: Path) -> None:
    run(tmp_path / "short", tmp_path / "cache")
    given = Counting()
    _, longer = run(tmp_path / "long", tmp_path / "cache", steps=STEPS + 3, given=given)
    assert given.shown == 3 * tiny.BATCH
    assert tiny.same(longer, run(tmp_path / "online", None, steps=STEPS + 3)[1])


def test_what_changes_the_outputs_is_never_mixed(tmp_path: Path) -> None:
    def shown(folder: str, form: Targets = "sampled", **changes: Any) -> int:
        given = Counting()
        run(tmp_path / folder, tmp_path / "cache", form, given=given, **changes)
        return given.shown

    everything = STEPS * tiny.BATCH
    plan = tiny.procedure(STEPS, micro_batch=2)
    assert shown("a") == everything
    assert shown("b") == 0
    assert shown("another seed draws other tokens", seed=7) == everything
    assert shown("another order has other batches", data_seed=7) == everything
    assert shown("another form", form="top_k") == everything
    assert shown("no tokens are drawn for top k", form="top_k", seed=7) == 0
    assert shown("other passes round otherwise", train=replace(plan.train, micro_batch=4)) == everything
    given = Counting()
    another = replace(student.teacher(given), identity="f" * 64)
    run(tmp_path / "another teacher", tmp_path / "cache", given=another)
    assert given.shown == everything
    about = [json.loads(path.read_text()) for path in (tmp_path / "cache").rglob("about.json")]
    assert {entry["teacher"] for entry in about} == {"e" * 64, "f" * 64}
    assert {(entry["targets"], entry.get("seed")) for entry in about} == {
        ("sampled", 5),
        ("sampled", 7),
        ("top_k", None),
    }


@pytest.mark.parametrize("harm", ["truncated", "one bit"])
def test_what_is_damaged_is_made_again(tmp_path: Path, harm: str) -> None:
    _, expected = run(tmp_path / "a", tmp_path / "cache")
    victim = files(tmp_path / "cache")[2]
    whole = victim.read_bytes()
    victim.write_bytes(whole[:100] if harm == "truncated" else bytes([whole[0] ^ 1]) + whole[1:])
    given = Counting()
    _, found = run(tmp_path / "b", tmp_path / "cache", given=given)
    assert given.shown == tiny.BATCH, "of that step alone"
    assert tiny.same(found, expected)
    assert victim.read_bytes() == whole


def cache_of(folder: Path) -> TeacherCache:
    return TeacherCache(folder, {"teacher": "e"}, TargetSelection("top_k", 2), 32, tokens_per_step=12, steps=20)


def test_students_that_start_together_make_each_step_once(tmp_path: Path) -> None:
    made: list[int] = []
    found: list[list[Tensor]] = [[] for _ in range(4)]
    together = threading.Barrier(4)

    def learn(number: int) -> None:
        cache = cache_of(tmp_path)
        together.wait()
        for step in range(20):

            def say(step: int = step) -> TeacherTargets:
                made.append(step)
                time.sleep(0.002)
                tokens = torch.full((3, 4, 2), step)
                return TeacherTargets(
                    tokens, tokens + torch.rand(3, 4, 2)
                )  # whoever made it twice would see other numbers

            found[number].append(cache.at(step, 0, torch.full((3, 4), step), say).values)

    threads = [threading.Thread(target=learn, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == list(range(20))
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))
    assert {path.suffix for path in files(tmp_path)} == {".bin"}


def test_a_teacher_that_fails_leaves_nothing_and_no_one_waiting(tmp_path: Path) -> None:
    def fail() -> TeacherTargets:
        raise RuntimeError("the teacher is ill")

    inputs = torch.zeros(3, 4, dtype=torch.int64)
    with pytest.raises(RuntimeError, match="the teacher is ill"):
        cache_of(tmp_path).at(0, 0, inputs, fail)
    assert not [path for path in files(tmp_path) if path.suffix == ".bin"]
    few = TeacherTargets(torch.ones(3, 4, 2, dtype=torch.int64), torch.ones(3, 4, 2))
    assert torch.equal(cache_of(tmp_path).at(0, 0, inputs, lambda: few).values, few.values)


def test_a_disk_without_room_is_found_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10_000, 9_000, 1_000))
    with pytest.raises(OSError, match=r"the teacher's outputs take 2\.88kB more, 1\.00kB are free") as full:
        cache_of(tmp_path).at(0, 0, torch.zeros(3, 4, dtype=torch.int64), lambda: pytest.fail("in vain"))
    assert full.value.errno == errno.ENOSPC
    assert failure.classify(full.value) == "disk_full"


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "teachers").write_text("a file")
    with pytest.raises(DataError, match=r"the cache can't be written .*; LAB_CACHE names another folder"):
        cache_of(tmp_path).at(0, 0, torch.zeros(3, 4, dtype=torch.int64), lambda: pytest.fail("in vain"))


@pytest.mark.slow
def test_a_student_killed_while_it_writes_ends_as_one_that_was_not(tmp_path: Path) -> None:
    _, expected = run(tmp_path / "reference", None)
    command = [sys.executable, "-m", "tests.training.test_teacher_cache", str(tmp_path)]
    with subprocess.Popen(command, env=os.environ, cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL) as victim:
        until(lambda: (tmp_path / "writing").exists() or victim.poll() is not None)
        assert victim.poll() is None
        victim.kill()
    left = files(tmp_path / "cache")
    assert [path.suffix for path in left].count(".bin") == 3, "three steps whole"
    assert any(path.suffix == ".tmp" for path in left), "and a part of the fourth"
    given = Counting()
    _, found = run(tmp_path / "victim", tmp_path / "cache", given=given)
    assert tiny.same(found, expected)
    assert given.shown == (STEPS - 3) * tiny.BATCH, "what was kept isn't made again"
    assert [path.suffix for path in files(tmp_path / "cache")] == [".bin"] * STEPS


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def _wait_to_be_killed(folder: Path) -> None:
    """Train, and hang in the middle of writing the fourth step."""
    write, calls = teacher_cache.write_bytes, iter(range(99))

    def hang(path: Path, content: bytes) -> None:
        if next(calls) < 3:
            return write(path, content)
        path.with_name(f".{path.name}.0123456789ab.tmp").write_bytes(content[:40])
        (folder / "writing").touch()
        time.sleep(600)
        return None

    teacher_cache.write_bytes = hang
    torch.set_num_threads(1)
    run(folder / "victim", folder / "cache")


if __name__ == "__main__":
    _wait_to_be_killed(Path(sys.argv[1]))
