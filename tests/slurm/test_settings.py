"""What a job asks for: where it is read, and what is refused before anything is made. Needs no cluster."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from lab.cli.main import cli
from lab.composition.search_path import shipped
from lab.dispatch.launchers.options import split
from lab.dispatch.launchers.slurm.client.units import megabytes, minutes
from lab.dispatch.launchers.slurm.send import sbatch
from lab.dispatch.launchers.slurm.send.settings import NAMES, Settings, load
from lab.refusals import RequestError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and no settings of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_shipped_file_shows_every_setting_and_no_other_defaults() -> None:
    content = yaml.safe_load((shipped("launchers") / "slurm.yaml").read_text())
    assert tuple(sorted(content)) == tuple(sorted(NAMES))
    assert load() == Settings()


def test_later_sources_win_and_options_of_sbatch_add_up(folder: Path) -> None:
    write(
        folder / "launchers" / "big.yaml", "partition: a100\ntime: 30\nqos: long\nsbatch: {mail-type: FAIL, nice: 5}\n"
    )
    write(folder / "config" / "architecture-lab" / "slurm.yaml", "account: mine\ntime: 60\nsbatch: {nice: 7}\n")
    found = load("big", ["launcher.qos=short", "launcher.sbatch.exclude=n7", "launcher.sbatch.exclusive=true"])
    assert (found.partition, found.account, found.time, found.qos) == ("a100", "mine", 60, "short")
    assert found.sbatch == {"mail-type": "FAIL", "nice": 7, "exclude": "n7", "exclusive": True}
    assert found.array_parallelism == Settings().array_parallelism
    text = sbatch.text(found, "name", folder, 3)
    for flag in ("mail-type=FAIL", "nice=7", "exclude=n7", "exclusive", "partition=a100", "time=60", "array=0-2%3"):
        assert f"#SBATCH --{flag}\n" in text


def test_the_working_folders_own_slurm_yaml_needs_no_name(folder: Path) -> None:
    write(folder / "launchers" / "slurm.yaml", "partition: main\n")
    assert load() == Settings(partition="main")
    with pytest.raises(RequestError, match="no launcher is called 'slurn'; did you mean 'slurm'"):
        load("slurn")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5", 5),
        ("90", 90),
        ("2:30", 3),
        ("0:30", 1),
        ("2:00:00", 120),
        ("1-12", 2160),
        ("1-0:30", 1470),
        ("01:00:01", 61),
    ],
)
def test_times_are_written_in_slurms_formats(folder: Path, text: str, expected: int) -> None:
    """2:30 is minutes and seconds; YAML by itself would read 2:00:00 as the number 7200."""
    write(folder / "launchers" / "slurm.yaml", f"time: {text}\nsignal_seconds: 10\n")
    assert load().time == load("slurm", [f"launcher.time={text}"]).time == minutes(text) == expected


@pytest.mark.parametrize("text", ["soon", "1d", "1:2:3:4", "-5", "0", "0:00", "1.5", "true", "''", "[1]"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match=r"override 'launcher.time=.*': time: expected minutes"):
        load("slurm", [f"launcher.time={text}"])


@pytest.mark.parametrize(
    ("text", "shown", "mb"),
    [("8G", "8G", 8192), ("1500", "1500M", 1500), ("8GB", "8G", 8192), ("2t", "2T", 2 * 1024**2), ("100K", "100K", 1)],
)
def test_memory_is_written_in_slurms_units(text: str, shown: str, mb: int) -> None:
    found = load("slurm", [f"launcher.memory={text}"]).memory
    assert found == shown
    assert megabytes(found) == mb


@pytest.mark.parametrize("text", ["8.5G", "lots", "8 parsecs", "-1G", "true"])
def test_what_is_no_memory_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="such as 8G or 1500M"):
        load("slurm", [f"launcher.memory={text}"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["launcher.partion=x"],
            "override 'launcher.partion=x': partion: there is no such setting; did you mean 'partition'?",
        ),
        (["launcher.sbatch.array=1"], "array can't be set: the lab puts jobs into arrays"),
        (["launcher.sbatch={job_name: x}"], "job-name can't be set: the lab finds submissions by it"),
        (["launcher.output=x"], "there is no such setting: the lab keeps logs with the sweep"),
        (["launcher.sbatch.time=3"], "time has a setting of its own: time"),
        (["launcher.sbatch.mem=3"], "mem has a setting of its own: memory"),
        (["launcher.sbatch.J=x"], "'J' is not an option of sbatch; expected a long name"),
        (["launcher.sbatch.exclusive=false"], "exclusive: expected text, a number, or true"),
        (["launcher.sbatch=7"], "expected a mapping from options of sbatch to values, got 7"),
        (["launcher.partition.x=7"], "partition: has no keys of its own"),
        (["launcher.runs_per_job=0"], "expected at least 1, got 0"),
        (["launcher.runs_per_job=true"], "expected a whole number such as 50, or auto, got True"),
        (["launcher.runs_per_job=some"], "expected a whole number such as 50, or auto, got 'some'"),
        (["launcher.runs_per_job=null"], "expected a whole number such as 50, or auto, got nothing"),
        (["launcher.requeue=maybe"], "expected true or false, got 'maybe'"),
        (["launcher.partition=''"], "expected text, or null to leave it to the cluster, got ''"),
        (["launcher.setup=7"], "expected a list of shell lines"),
        (["launcher.strategy=dpp", "launcher.nodes=2"], "'dpp' is not among its values; did you mean 'ddp'?"),
        (["launcher.strategy=ddp"], "ddp shares a run among processes, and there is one"),
        (
            ["launcher.nodes=2", "launcher.runs_per_job=2"],
            "runs_per_job=2': runs_per_job: a job of 2 processes trains one run",
        ),
        (["launcher.side_by_side=2"], "2 runs at once need runs_per_job of as many at least"),
        (["launcher.gres=gpu:1", "launcher.gpus_per_node=1"], "requests GPUs, and so does gpus_per_node"),
        (["launcher.memory=1G", "launcher.sbatch.mem-per-cpu=1G"], "mem-per-cpu can't be used with memory"),
        (["launcher.time=1"], "would be stopped at its start, 120 s before its end"),
        (["launcher=big"], "--launcher big names a file of settings"),
        (["~launcher.time"], "expected launcher.time=value"),
    ],
)
def test_what_makes_no_sense_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        load("slurm", overrides)


def test_a_mistake_in_a_file_is_named_with_its_line(folder: Path) -> None:
    write(folder / "launchers" / "slurm.yaml", "partition: main\nmemroy: 8G\n")
    with pytest.raises(
        RequestError, match=r"launchers/slurm.yaml:2: memroy: there is no such setting; did you mean 'memo"
    ):
        load()


def test_what_is_said_to_be_several_processes_is_srunned_as_such(folder: Path) -> None:
    found = load("slurm", ["launcher.nodes=2", "launcher.tasks_per_node=3", "launcher.cpus_per_task=4"])
    assert (found.processes, found.threads) == (6, 4)
    text = sbatch.text(found, "name", folder, 1)
    for flag in (
        "#SBATCH --nodes=2\n",
        "#SBATCH --ntasks-per-node=3\n",
        " --cpus-per-task=4 ",
        "--kill-on-bad-exit=1 ",
    ):
        assert flag in text
    assert "--array" not in text


def test_settings_come_back_from_the_journal() -> None:
    settings = Settings(partition="x", setup=("module load a",), sbatch={"nice": 5}, stop_after_same_failure=None)
    assert Settings.of(settings.as_dict()) == settings


def test_overrides_of_the_launcher_are_told_from_those_of_the_experiment() -> None:
    texts = ("train.tokens=1k", "launcher.time=5", "model/heads=mha", "launcher=x")
    assert split(texts) == (("train.tokens=1k", "model/heads=mha"), ("launcher.time=5", "launcher=x"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["launcher.time=5"],
            "override 'launcher.time=5': the launcher 'local' has no such option; use it with --on",
        ),
        (["--launcher", "big"], "--launcher: the launcher 'local' has no such option; use it with --on slurm"),
        (["--show-sbatch"], "--show-sbatch: the launcher 'local' has no such option; use it with --on slurm"),
        (
            ["--on", "slurm", "--max-parallel", "2"],
            "'slurm' has no such option; use launcher.array_parallelism",
        ),
    ],
)
def test_options_of_the_other_launcher_are_refused(folder: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        CliRunner().invoke(cli, ["submit", "quickstart", *arguments], catch_exceptions=False)
    assert not (folder / "runs").exists()


def test_without_a_cluster_it_can_be_read_what_would_be_sent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder))
    shown = CliRunner().invoke(cli, ["submit", "quickstart", "--on", "slurm", "--show-sbatch"], catch_exceptions=False)
    assert shown.exit_code == 0
    assert "#SBATCH --array=0-7%8\n" in shown.output
    assert "isn't installed here" in shown.output


def test_without_a_cluster_nothing_is_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(
        RequestError, match="no SLURM here: sbatch isn't installed; log in where it is, or use --on local"
    ):
        CliRunner().invoke(cli, ["submit", "quickstart", "--on", "slurm"], catch_exceptions=False)
    assert not (folder / "runs").exists()


@pytest.mark.slow
def test_the_wheel_has_the_launchers(tmp_path: Path) -> None:
    import subprocess
    import sys

    repository = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=repository, check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert "lab/shipped/launchers/slurm.yaml" in zipfile.ZipFile(wheel).namelist()
