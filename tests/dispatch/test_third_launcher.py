"""A launcher of an installed package: found by its entry point, and every command works on it as on the lab's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from click.testing import CliRunner, Result

from lab.cli.main import cli
from lab.dispatch.launchers import registry
from lab.records import RunFolder, find_runs
from lab.refusals import RequestError
from tests.dispatch import third_launcher
from tests.dispatch.fakes import results

pytestmark = pytest.mark.slow

STUB = f"{sys.executable} {Path(__file__).parent / 'stub_worker.py'}"
Until = Callable[..., None]


def install(site: Path, **entry_points: str) -> None:
    """What pip leaves of a package that brings launchers."""
    info = site / "batch_toy-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: batch-toy\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in entry_points.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{registry.GROUP}]", *lines, ""]))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a sweep of one arm and three seeds, where the package is installed; empty of processes."""
    install(tmp_path / "site", detached="tests.dispatch.third_launcher:DetachedLauncher")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.chdir(tmp_path)
    sweep = {"question": "Why?", "experiment": "gemma2_tiny", "seeds": 3, "arms": {"a": {}}}
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text(yaml.safe_dump(sweep))
    yield tmp_path
    for job in jobs(tmp_path):
        kill(job.queue, job.worker)


def jobs(folder: Path) -> list[third_launcher.Job]:
    return [third_launcher.Job.read(path) for path in sorted(folder.glob("runs/*/.detached/*.json"))]


def kill(*processes: int | None) -> None:
    for process in processes:
        if process not in (None, os.getpid()) and psutil.pid_exists(process):
            os.kill(process, signal.SIGKILL)


def lab(command: str, *arguments: str) -> Result:
    return CliRunner().invoke(cli, [command, *arguments])


def submit(*arguments: str) -> Result:
    return lab("submit", "mine", "--on", "detached", f'launcher.worker="{STUB}"', *arguments)


def rows(*arguments: str) -> list[dict[str, str]]:
    content: dict[str, list[dict[str, str]]] = json.loads(lab("status", "--json", *arguments).stdout)
    return content["runs"]


def statuses() -> list[str]:
    return [row["status"] for row in rows()]


def runs(folder: Path) -> list[RunFolder]:
    return find_runs(folder / "runs")


def hold(folder: Path) -> Path:
    """Have workers hold on until the file is gone."""
    (folder / "hold").touch()
    return folder / "hold"


def test_a_sweep_is_sent_done_and_not_repeated(folder: Path, until: Until) -> None:
    first = submit()
    assert first.exit_code == 0, first.output
    assert "mine: 3 new" in first.output
    assert "detached: 3 jobs in queue" in first.output
    until(lambda: statuses() == ["finished"] * 3)
    assert [results(run) for run in runs(folder)] == [1] * 3
    again = submit()
    assert (again.exit_code, len(jobs(folder))) == (0, 3)
    assert "nothing to do: 3 of 3 finished" in again.output


def test_waiting_ends_with_the_runs(folder: Path) -> None:
    done = submit("--wait")
    assert done.exit_code == 0, done.output
    assert [run.state.status for run in runs(folder)] == ["finished"] * 3


def test_status_tells_which_run_has_its_turn_and_why_the_others_wait(folder: Path, until: Until) -> None:
    hold(folder)
    submit()
    until(lambda: statuses() == ["running", "queued", "queued"])
    assert [row["job_state"] for row in rows("mine")] == ["R", "Q", "Q"]
    assert rows("mine")[2]["waits_for"] == "its place in the queue"
    assert submit().output.splitlines()[-1] == "detached: nothing to send", "what is in the queue is not sent again"
    assert len(jobs(folder)) == 3


def test_an_interrupted_sweep_continues_with_what_is_missing(folder: Path, until: Until) -> None:
    held = hold(folder)
    submit()
    until(lambda: statuses() == ["running", "queued", "queued"])
    kill(jobs(folder)[0].queue, jobs(folder)[0].worker)
    until(lambda: statuses() == ["lost"] * 3)
    held.unlink()
    again = submit("--wait")
    assert again.exit_code == 0, again.output
    assert [(run.state.status, results(run)) for run in runs(folder)] == [("finished", 1)] * 3
    assert [run.state.attempts for run in runs(folder)] == [2, 1, 1]


def test_cancelling_ends_the_jobs_that_have_nothing_else_to_do(folder: Path, until: Until) -> None:
    hold(folder)
    submit()
    until(lambda: statuses() == ["running", "queued", "queued"])
    done = lab("cancel", "mine/a/seed-0", "mine/a/seed-2")
    assert done.exit_code == 0, done.output
    assert "2 cancelled" in done.output
    until(lambda: statuses() == ["cancelled", "running", "cancelled"])
    assert [job.cancelled for job in jobs(folder)] == [False, False, True], "a worker that was asked ends by itself"


def test_a_run_is_tried_again_where_it_was_sent(folder: Path, until: Until) -> None:
    held = hold(folder)
    submit()
    until(lambda: statuses() == ["running", "queued", "queued"])
    lab("cancel", "mine")
    until(lambda: statuses() == ["cancelled"] * 3)
    held.unlink()
    refused = lab("retry", "mine", "launcher.nice=50")
    assert isinstance(refused.exception, RequestError)
    assert "launcher.nice" in str(refused.exception)
    assert statuses() == ["cancelled"] * 3, "what is refused changes nothing"
    again = lab("retry", "mine", f'launcher.worker="{STUB}"')
    assert again.exit_code == 0, again.output
    assert "detached: 3 jobs in queue" in again.output
    until(lambda: statuses() == ["finished"] * 3)


def test_a_sweep_that_tunes_continues_while_it_is_waited_for(folder: Path) -> None:
    path = folder / "sweeps" / "mine.yaml"
    path.write_text(
        yaml.safe_dump(yaml.safe_load(path.read_text()) | {"seeds": [0], "tune": {"optimizer.lr": [0.001, 0.002]}})
    )
    first = submit()
    assert "sends the reporting runs of what each arm picks" in first.output
    done = submit("--wait")
    assert done.exit_code == 0, done.output
    roles = sorted(run.record.role for run in runs(folder) if run.state.status == "finished")
    assert roles == ["report", "tune", "tune"]


def test_the_output_of_a_job_is_shown_where_its_run_said_nothing(folder: Path, until: Until) -> None:
    (folder / "broken.py").write_text("raise SystemExit('no such module')")
    sent = lab("submit", "mine", "--on", "detached", f'launcher.worker="{sys.executable} {folder / "broken.py"}"')
    assert sent.exit_code == 0, sent.output
    until(lambda: statuses() == ["lost"] * 3)
    assert "no such module" in lab("logs", "mine/a/seed-1").stdout


def test_the_doctor_checks_a_launcher_from_a_package(folder: Path) -> None:
    refused = lab("doctor", "--on", "detached", "launcher.nice=50", "--json")
    problems = [each for each in json.loads(refused.stdout)["findings"] if each["problem"]]
    assert refused.exit_code == 2
    assert [each["area"] for each in problems] == ["detached"]
    assert "launcher.nice" in problems[0]["said"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--on", "detachd"], "did you mean 'detached'?"),
        (["--on", "detached", "launcher.nic=1"], "did you mean 'nice'?"),
        (["--on", "detached", "launcher.nice=much"], "expected a whole number"),
        (["--on", "detached", "launcher.partition=gpu"], "use it with --on slurm"),
        (["--on", "detached", "--threads", "2"], "use it with --on local"),
        (["--on", "detached", "--show-sbatch"], "use it with --on slurm"),
        (["--on", "local", "launcher.nice=1"], "use it with --on detached"),
    ],
)
def test_what_it_lacks_is_refused_by_name_and_nothing_made(folder: Path, arguments: list[str], message: str) -> None:
    refused = lab("submit", "mine", *arguments)
    assert isinstance(refused.exception, RequestError), refused.output
    assert message in str(refused.exception)
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("broken", "no_such_package:Launcher", "can't be loaded from no_such_package:Launcher"),
        ("other", "tests.dispatch.third_launcher:DetachedLauncher", "is not a launcher called 'other'"),
        ("path", "pathlib:Path", "is not a launcher called 'path'"),
        ("slurm", "tests.dispatch.third_launcher:DetachedLauncher", "another launcher has this name"),
    ],
)
def test_a_package_whose_entry_point_is_wrong_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    install(tmp_path, **{name: value})
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RequestError, match=message):
        registry.load(name)


def test_a_launcher_that_was_given_nothing_below_a_root_is_not_imported(folder: Path) -> None:
    program = (
        "import sys\n"
        "from lab.dispatch.status.cluster_view import look\n"
        "from tests.dispatch.fakes import read_rows\n"
        "print(look('runs', read_rows('runs')).jobs)\n"
        "print([name for name in sys.modules if 'third_launcher' in name or '.slurm' in name])\n"
    )
    hold(folder)
    lab("submit", "mine", "--on", "slurm")  # refused, as there is none
    run = RunFolder(folder / "runs" / "mine" / "a" / "seed-0")
    assert not run.exists
    environment = {**os.environ, "PYTHONPATH": f"{folder / 'site'}:{Path(__file__).parents[2]}"}
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert shown.stdout.split("\n")[:2] == ["()", "[]"], shown.stderr


def test_it_takes_no_more_than_150_lines() -> None:
    assert len(Path(third_launcher.__file__).read_text().splitlines()) <= 150
