"""A run folder is whole or absent, belongs to one identity, and can be found and named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab.records import (
    BrokenRecord,
    FolderTaken,
    RunFolder,
    State,
    UnknownRun,
    check_name,
    find_broken,
    find_runs,
    resolve,
)
from tests.records.made import info, make_run

ONE, TWO = "1" * 16, "2" * 16


def make(root: Path, name: str, identity: str = ONE, **info: object) -> RunFolder:
    return make_run(root / name, "train: {tokens: 10}\n", {"version": 1, "identity": identity, **info})


def test_a_made_run_reads_back(tmp_path: Path) -> None:
    run = make(tmp_path, "caps/both/seed-0", arm="both")
    assert run.exists
    assert run.name == "caps/both/seed-0"
    assert run.config == {"train": {"tokens": 10}}
    assert run.record.arm == "both"
    assert run.state == State(status="queued")
    assert run.summary is None
    assert run.metrics() == []


def test_making_the_same_run_again_changes_nothing(tmp_path: Path) -> None:
    run = make(tmp_path, "caps/both/seed-0")
    run.state = State(status="finished", attempts=1)
    again = make_run(run.path, "other: 1\n", {"identity": ONE})
    assert again == run
    assert again.state.status == "finished"
    assert again.config == {"train": {"tokens": 10}}


def test_another_identity_in_the_taken_place_gets_its_own_folder(tmp_path: Path) -> None:
    first = make(tmp_path, "caps/both/seed-0", ONE)
    second = make(tmp_path, "caps/both/seed-0", TWO)
    assert second.path.name == "seed-0-22222222"
    assert first.identity == ONE
    assert second.identity == TWO
    assert make(tmp_path, "caps/both/seed-0", TWO) == second


def test_a_run_in_its_second_place_is_not_made_again_once_the_first_is_free(tmp_path: Path) -> None:
    first = make(tmp_path, "caps/both/seed-0", ONE)
    second = make(tmp_path, "caps/both/seed-0", TWO)
    os.rename(first.path, tmp_path / "elsewhere")
    assert make(tmp_path, "caps/both/seed-0", TWO) == second
    assert not first.path.exists()


def test_foreign_content_in_both_places_is_refused_and_left_alone(tmp_path: Path) -> None:
    for name in ("seed-0", "seed-0-11111111"):
        (tmp_path / "caps/both" / name).mkdir(parents=True)
        (tmp_path / "caps/both" / name / "notes.txt").write_text("mine")
    with pytest.raises(FolderTaken, match="seed-0"):
        make(tmp_path, "caps/both/seed-0")
    assert [p.name for p in (tmp_path / "caps/both/seed-0").iterdir()] == ["notes.txt"]


def test_racing_makers_make_one_folder_and_all_see_it(tmp_path: Path) -> None:
    script = (
        "import sys; from lab.records import RunFolder, RunRecord\n"
        "sys.stdin.read(1)\n"
        "record = RunRecord(identity='1' * 16, extra={'maker': sys.argv[2]})\n"
        "r, made = RunFolder.make(sys.argv[1], 'by: ' + sys.argv[2], record)\n"
        "print(r.record.extra['maker'], r.config['by'], r.path.name)"
    )
    path = tmp_path / "caps/both/seed-0"
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(path), str(i)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for i in range(6)
    ]
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("g")
        maker.stdin.flush()
    seen = {maker.communicate()[0].strip() for maker in makers}
    assert len(seen) == 1
    maker, config, name = seen.pop().split()
    assert maker == config
    assert name == "seed-0"
    assert [p.name for p in path.parent.iterdir()] == ["seed-0"]


def test_racing_makers_of_two_identities_each_get_one(tmp_path: Path) -> None:
    for attempt in range(20):
        with ThreadPoolExecutor(8) as pool:
            runs = list(pool.map(lambda i, a=attempt: make(tmp_path, f"caps/{a}/seed-0", (ONE, TWO)[i % 2]), range(8)))
        assert {run.identity for run in runs} == {ONE, TWO}
        assert len({run.path for run in runs}) == 2


@pytest.mark.parametrize("part", ["..", ".", ".hidden", "", "a/b", "a\\b", "x" * 101, "a\nb", "a\0b"])
def test_unsafe_names_are_refused(part: str) -> None:
    with pytest.raises(ValueError, match="name"):
        check_name(part)


@pytest.mark.parametrize("name", ["../arm/seed-0", "caps/.arm/seed-0", f"caps/{'x' * 101}/seed-0"])
def test_a_run_is_not_made_under_an_unsafe_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        make(tmp_path / "root", name)
    assert not list(tmp_path.rglob("run.json"))


def test_a_name_of_100_characters_is_fine() -> None:
    check_name("x" * 100)


def test_a_run_without_an_identity_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="identity"):
        make_run(tmp_path / "a/b/seed-0", "", {"identity": "../.."})


def test_runs_are_found_by_sweep_arm_order_and_seed(tmp_path: Path) -> None:
    make(tmp_path, "b/x/seed-0", order=0, seed=0)
    make(tmp_path, "a/late/seed-10", order=1, seed=10)
    make(tmp_path, "a/late/seed-2", order=1, seed=2)
    make(tmp_path, "a/zero/seed-2", order=0, seed=2)
    assert [r.name for r in find_runs(tmp_path)] == ["a/zero/seed-2", "a/late/seed-2", "a/late/seed-10", "b/x/seed-0"]
    assert [r.name for r in find_runs(tmp_path, "b")] == ["b/x/seed-0"]
    assert find_runs(tmp_path / "nowhere") == []


def test_half_made_and_broken_folders_are_passed_over_and_reported(tmp_path: Path) -> None:
    make(tmp_path, "a/x/seed-0")
    (tmp_path / "a/x/.seed-1.abc.tmp").mkdir()
    (tmp_path / "a/x/seed-2").mkdir()
    torn = make(tmp_path, "a/x/seed-3", TWO)
    (torn.path / "run.json").write_text('{"identity": "22')
    (tmp_path / "a/x/notes").mkdir()
    (tmp_path / "a/view").mkdir()
    (tmp_path / "a/view/seed-0").symlink_to(tmp_path / "a/x/seed-0", target_is_directory=True)
    assert [r.name for r in find_runs(tmp_path)] == ["a/x/seed-0"]
    broken = find_broken(tmp_path)
    assert [path.name for path, _ in broken] == ["seed-2", "seed-3"]
    assert all("run.json" in reason for _, reason in broken)


def test_a_broken_state_is_reported_by_its_file(tmp_path: Path) -> None:
    run = make(tmp_path, "a/x/seed-0")
    (run.path / "state.json").write_text('{"version": 1, "status": "sleeping"}')
    with pytest.raises(BrokenRecord, match=r"state\.json.*sleeping"):
        _ = run.state
    assert find_broken(tmp_path)[0][0] == run.path


def test_the_last_torn_line_of_metrics_is_left_out_and_a_middle_one_told(tmp_path: Path) -> None:
    run = make(tmp_path, "a/x/seed-0")
    file = run.path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"step": 3')
    assert run.metrics() == [{"step": 1}, {"step": 2}]
    file.write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(BrokenRecord, match="line 2"):
        run.metrics()


def test_provenance_keeps_what_an_earlier_attempt_recorded_otherwise(tmp_path: Path) -> None:
    run = make(tmp_path, "a/x/seed-0")
    run.add_provenance({"host": "one", "torch": "2.13"})
    run.add_provenance({"host": "two", "torch": "2.13"})
    run.add_provenance({"host": "two", "device": "cpu"})
    assert info(run)["provenance"] == {"host": "two", "torch": "2.13", "device": "cpu", "earlier": [{"host": "one"}]}
    assert run.identity == ONE


class TestResolve:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        make(tmp_path, "caps/both/seed-1", "aaaa000011112222")
        make(tmp_path, "caps/both/seed-10", "aaaa999911112222")
        make(tmp_path, "caps/neither/seed-1", "bbbb000011112222")
        return tmp_path

    @pytest.mark.parametrize(
        ("asked", "found"),
        [
            ("caps/both/seed-1", "caps/both/seed-1"),
            ("caps/both/seed-10/", "caps/both/seed-10"),
            ("caps/n", "caps/neither/seed-1"),
            ("bbbb000011112222", "caps/neither/seed-1"),
            ("b", "caps/neither/seed-1"),
            ("aaaa9", "caps/both/seed-10"),
        ],
    )
    def test_names_a_run_by_path_identity_or_prefix(self, root: Path, asked: str, found: str) -> None:
        assert resolve(root, asked).name == found

    def test_takes_a_path_as_the_shell_completes_it(self, root: Path) -> None:
        assert resolve(root, str(root / "caps/both/seed-1")).name == "caps/both/seed-1"

    @pytest.mark.parametrize("asked", ["aaaa", "caps/both", "caps/both/seed"])
    def test_an_ambiguous_prefix_lists_what_it_may_mean(self, root: Path, asked: str) -> None:
        with pytest.raises(UnknownRun, match=r"caps/both/seed-1 \(aaaa0000\), caps/both/seed-10 \(aaaa9999\)"):
            resolve(root, asked)

    def test_a_misspelt_name_is_answered_with_the_nearest(self, root: Path) -> None:
        with pytest.raises(LookupError, match=r"did you mean 'caps/neither/seed-1'"):
            resolve(root, "caps/niether/seed-1")

    @pytest.mark.parametrize("asked", ["", "zzzzzz"])
    def test_a_name_without_a_run_is_refused(self, root: Path, asked: str) -> None:
        with pytest.raises(UnknownRun, match="no run"):
            resolve(root, asked)

    def test_one_identity_in_two_sweeps_is_ambiguous(self, root: Path) -> None:
        make(root, "other/both/seed-1", "bbbb000011112222")
        with pytest.raises(UnknownRun, match="other/both/seed-1"):
            resolve(root, "bbbb000011112222")
        assert resolve(root, "other/both/seed-1").name == "other/both/seed-1"


def test_run_folders_need_neither_torch_nor_the_rest_of_the_lab() -> None:
    script = (
        "import sys, lab.records; print([m for m in sys.modules if m.split('.')[0] in ('torch', 'lightning', 'lab')])"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    others = {module for module in eval(loaded) if not module.startswith("lab.records")}
    assert others == {"lab", "lab.refusals"}


def test_info_is_plain_json(tmp_path: Path) -> None:
    run = make(tmp_path, "a/x/seed-0", question="größer?")
    assert json.loads((run.path / "run.json").read_text(encoding="utf-8"))["question"] == "größer?"
