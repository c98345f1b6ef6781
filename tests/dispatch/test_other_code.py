"""A run uses the code with which it was planned, unless the user allows other code; then that is recorded."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

import lab
from lab import code_version
from lab.dispatch.control.preparation.prepare import prepare
from lab.dispatch.worker.attempt import FINISHED, REFUSED, Stop, execute
from lab.records import Extensions, RunFolder, RunRecord, State, find_runs
from lab.refusals import RequestError
from lab.training.progress.outcome import Outcome
from tests.dispatch.fakes import FAKE_WORKER, begun
from tests.dispatch.launch import launch, submit_local
from tests.records.made import info, make_run, record

OTHER = {"commit": "ab" * 20, "changes": None, "digest": "cd" * 32}
HERE = asdict(code_version.current())
NAMED = r"made with commit abababab \(digest cdcdcdcd\); the code here is (commit|no commit)"


@dataclass(frozen=True)
class Planned:
    number: int
    code: dict[str, Any] | None = None
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def extensions(self) -> Extensions:
        return Extensions()

    @property
    def folder_name(self) -> str:
        return f"caps/both/seed-{self.number}"

    @property
    def identity(self) -> str:
        return f"{self.number:016x}"

    @property
    def config_yaml(self) -> str:
        return yaml.safe_dump({"steps": 1, "pause": 0.01, "do": "nothing", "deaf": False})

    @property
    def record(self) -> RunRecord:
        return record({"version": 2, "identity": self.identity, **({"code": self.code} if self.code else {})})


def made(root: Path, number: int, planned_with: dict[str, Any] | None, **state: Any) -> RunFolder:
    planned = Planned(number, planned_with)
    run = make_run(root / planned.folder_name, planned.config_yaml, planned.record)
    run.state = State(**state)
    return run


def trained(run: RunFolder, *_: object) -> Outcome:
    (run.path / "trained").touch()
    return Outcome("finished", None)


class TestAWorker:
    @pytest.mark.parametrize("before", [{}, {"status": "preempted", "attempts": 2, "reason": "stopped by SIGTERM"}])
    def test_leaves_a_run_of_other_code_as_it_stands_and_says_why(self, tmp_path: Path, before: dict[str, Any]) -> None:
        run = made(tmp_path, 0, OTHER, **before)
        files = {path.name: path.read_bytes() for path in run.path.iterdir() if path.name != "state.json"}
        assert execute(run, trained, stop=Stop(), capture=False) == REFUSED
        state = State(**before)
        assert (run.state.status, run.state.attempts) == (state.status, state.attempts)
        assert run.state.reason is not None
        assert run.state.failure == "other_code"
        assert run.state.reason.startswith("made with commit abababab (digest cdcdcdcd); the code here is ")
        assert code_version.digest()[:8] in run.state.reason
        assert {name: (run.path / name).read_bytes() for name in files} == files
        assert not (run.path / "trained").exists()
        assert not (run.path / "log.txt").exists()

    @pytest.mark.parametrize("planned_with", [HERE, None, {**OTHER, "digest": HERE["digest"]}])
    def test_runs_what_was_made_with_its_own_code(self, tmp_path: Path, planned_with: dict[str, Any] | None) -> None:
        """Which is told by its content: another commit with the same code is the same code."""
        run = made(tmp_path, 0, planned_with)
        assert execute(run, trained, stop=Stop(), capture=False) == FINISHED
        assert info(run)["provenance"]["code_digest"] == HERE["digest"]

    def test_of_one_run_says_so_and_ends_with_a_code_of_its_own(self, tmp_path: Path) -> None:
        run = made(tmp_path, 0, OTHER)
        done = subprocess.run([*FAKE_WORKER, str(run.path)], capture_output=True, text=True, check=False)
        assert done.returncode == REFUSED
        assert "caps/both/seed-0: refused: made with commit abababab (digest cdcdcdcd); the code here is" in done.stderr
        assert begun(run) == 0

    def test_runs_it_when_the_right_code_is_back(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run = made(tmp_path, 0, HERE)
        with monkeypatch.context() as patched:
            patched.setattr(code_version, "digest", lambda: "ef" * 32)
            assert execute(run, trained, stop=Stop(), capture=False) == REFUSED
        assert execute(run, trained, stop=Stop(), capture=False) == FINISHED
        assert run.state.reason is None


class TestSubmitting:
    def test_runs_of_other_code_are_refused_before_anything_is_made(self, tmp_path: Path) -> None:
        made(tmp_path, 0, OTHER)
        made(tmp_path, 1, OTHER, status="preempted", attempts=1)
        made(tmp_path, 2, HERE)
        before = sorted(str(path) for path in tmp_path.rglob("seed-*"))
        with pytest.raises(RequestError, match=f"2 runs were {NAMED}.*or use --any-code"):
            prepare([Planned(number) for number in range(4)], tmp_path)
        assert sorted(str(path) for path in tmp_path.rglob("seed-*")) == before

    @pytest.mark.parametrize("status", ["finished", "diverged", "failed"])
    def test_what_is_not_going_to_run_may_be_of_any_code(self, tmp_path: Path, status: Any) -> None:
        made(tmp_path, 0, OTHER, status=status)
        assert prepare([Planned(0)], tmp_path).to_run == []

    def test_a_failed_run_is_retried_with_its_code_only(self, tmp_path: Path) -> None:
        made(tmp_path, 0, OTHER, status="failed")
        with pytest.raises(RequestError, match=f"1 run was {NAMED}"):
            prepare([Planned(0)], tmp_path, retry_failed=True)

    def test_a_plan_of_other_code_creates_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(RequestError, match=f"1 run was {NAMED}"):
            prepare([Planned(0, OTHER)], tmp_path / "runs")
        assert not (tmp_path / "runs").exists()

    def test_any_code_is_agreed_to_and_on_record(self, tmp_path: Path) -> None:
        old = made(tmp_path, 0, OTHER)
        plan = [Planned(0), Planned(1, OTHER), Planned(2)]
        found, summary = submit_local(plan, tmp_path, any_code=True, worker=FAKE_WORKER, max_parallel=1, threads=1)
        assert list(summary.outcomes.values()) == ["finished"] * 3
        assert found.waiting == [old]
        accepted = [info(run)["provenance"].get("accepted_code") for run in find_runs(tmp_path)]
        assert accepted == [[HERE["digest"]], [HERE["digest"]], None]
        assert info(old)["code"] == OTHER
        assert info(old)["provenance"]["code_digest"] == HERE["digest"]

    def test_what_was_agreed_to_is_that_code_and_no_third(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = made(tmp_path, 0, OTHER)
        prepare([Planned(0)], tmp_path, any_code=True)
        monkeypatch.setattr(code_version, "digest", lambda: "ef" * 32)
        assert execute(run, trained, stop=Stop(), capture=False) == REFUSED

    def test_a_launcher_says_what_its_workers_refused_and_continues(self, tmp_path: Path) -> None:
        """The code may be edited while a sweep runs, and later workers are the edited one."""
        found = prepare([Planned(0), Planned(1)], tmp_path)
        from lab.records import write_json

        write_json(found.new[0].path / "run.json", info(found.new[0]) | {"code": OTHER})
        summary = launch(found, worker=FAKE_WORKER, max_parallel=1, threads=1)
        assert list(summary.refusals) == [found.new[0].name]
        assert summary.refusals[found.new[0].name].startswith("made with commit abababab")
        assert summary.outcomes == {found.new[1].name: "finished"}
        assert [begun(run) for run in found.new] == [0, 1]
        assert found.new[0].state.status == "queued"


class TestTheDigest:
    @pytest.fixture
    def copy(self, tmp_path: Path) -> dict[str, Path]:
        """The lab's own packages, somewhere else."""
        for name, folder in code_version.folders().items():
            shutil.copytree(folder, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        return {name: tmp_path / name for name in code_version.folders()}

    def test_is_the_contents_wherever_they_lie(self, copy: dict[str, Path]) -> None:
        assert code_version.digest_of(copy) == code_version.digest_of(code_version.folders())

    @pytest.mark.parametrize(
        ("file", "counts"),
        [
            ("components/norm.py", True),
            ("components/native/cpp/native.h", True),
            ("components/native/cpp/self_test.cpp", True),
            ("lab/training/loop.py", True),
            ("lab/dispatch/worker/worker.py", True),
            ("lab/cli/main.py", False),
            ("lab/comparison/tables/table.py", False),
            ("lab/planning/show/print_plan.py", False),
        ],
    )
    def test_changes_with_what_a_worker_runs(self, copy: dict[str, Path], file: str, counts: bool) -> None:
        before = code_version.digest_of(copy)
        path = copy["lab"].parent / file
        path.write_text(path.read_text() + "\n# edited\n")
        assert (code_version.digest_of(copy) != before) == counts

    def test_changes_with_a_files_name_and_not_with_what_is_no_code(self, copy: dict[str, Path]) -> None:
        before = code_version.digest_of(copy)
        (copy["components"] / "notes.txt").write_text("x")
        assert code_version.digest_of(copy) == before
        (copy["components"] / "norm.py").rename(copy["components"] / "norms.py")
        assert code_version.digest_of(copy) != before

    def test_is_the_same_in_a_process_that_has_no_repository(self, copy: dict[str, Path]) -> None:
        script = "from lab import code_version; c = code_version.current(); print(c.commit, c.changes, c.digest)"
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, cwd=copy["lab"].parent, check=True
        )
        assert done.stdout.split() == ["None", "None", code_version.digest_of(copy)]

    def test_the_code_version_needs_no_import_of_torch(self) -> None:
        script = "import sys; from lab import code_version; code_version.current(); print('torch' in sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(lab.__file__).parent.parent,
        )
        assert done.stdout.strip() == "False"


def test_uncommitted_changes_are_reported_by_their_content(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=x", "-c", "user.email=x@x", *arguments], check=True)

    file = tmp_path / "__init__.py"
    file.write_text("x = 1\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "x")
    clean = code_version.repository(tmp_path)
    assert clean[0] is not None
    assert clean[1] is None
    file.write_text("x = 2\n")
    two = code_version.repository(tmp_path)
    file.write_text("x = 3\n")
    three = code_version.repository(tmp_path)
    assert two[0] == three[0] == clean[0]
    assert len({clean[1], two[1], three[1]}) == 3
    file.write_text("x = 2\n")
    assert code_version.repository(tmp_path) == two
