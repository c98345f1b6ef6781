"""A file of your own components in the working folder is as good as built in, and runs are frozen against its edits."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components import registry
from lab.cli.main import main
from lab.composition import extensions, listing
from lab.composition.compose import compose
from lab.composition.frozen.identity import component_versions, identity
from lab.composition.hydra.groups import groups
from lab.dispatch.control.preparation.prepare import prepare
from lab.planning.plan.build import plan_sweep, plan_train
from lab.records import Extensions, RunFolder, RunRecord
from lab.refusals import RequestError
from tests.evaluation.conftest import TINY, files, write_text
from tests.records.made import info

OWN = '''\
from components.registry import register
from components.softcap import Softcap


@register("scaled", version=1)
class Scaled(Softcap):
    """A final cap of so many tens."""

    tens: float = 3.0

    @property
    def final_cap(self) -> float:
        return 10 * self.tens
'''

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """write(text): lab_components.py in the working folder, which is a new one."""
    folder, nothing = tmp_path / "work", tmp_path / "nothing"
    folder.mkdir()
    nothing.mkdir()
    monkeypatch.chdir(folder)

    def put(text: str) -> Path:
        (folder / "lab_components.py").write_text(text)
        return folder / "lab_components.py"

    yield put
    monkeypatch.chdir(nothing)
    extensions.load()


def test_a_component_of_your_own_composes_is_listed_and_planned(write: Write) -> None:
    write(OWN)
    model = compose("gemma2_tiny", ["model/softcap=scaled", "model.softcap.tens=1.5"]).experiment.model
    assert model.softcap.final_cap == 15
    assert "scaled" in groups()["model/softcap"]
    row = next(row for row in listing.list_rows("components", "softcap") if row["name"] == "scaled")
    assert row["about"] == "A final cap of so many tens."
    assert row["options"] == [{"name": "tens", "type": "float", "required": False, "default": 3.0}]
    assert row["module"] == "lab_components"
    Path("sweeps").mkdir()
    Path("sweeps/mine.yaml").write_text(
        "question: Which cap?\nexperiment: gemma2_tiny\ngrid: {model/softcap: [none, scaled]}\n"
    )
    assert [run.axes for run in plan_sweep("mine").runs] == [{"model/softcap": "none"}, {"model/softcap": "scaled"}]
    with pytest.raises(RequestError, match=r"model\.softcap\.ten: no such key; did you mean 'tens'"):
        compose("gemma2_tiny", ["model/softcap=scaled", "model.softcap.ten=1"])


def test_an_own_component_takes_at_most_fifteen_lines() -> None:
    assert len(OWN.splitlines()) <= 15


def test_its_version_is_part_of_a_runs_identity_and_its_comments_are_not(write: Write) -> None:
    write(OWN)
    first = compose("gemma2_tiny", ["model/softcap=scaled"]).experiment
    before = identity(first)
    assert component_versions(first)["softcap/scaled"] == 1
    write(OWN + "# a comment\n")
    assert identity(compose("gemma2_tiny", ["model/softcap=scaled"]).experiment) == before
    write(OWN.replace("version=1", "version=2"))
    assert identity(compose("gemma2_tiny", ["model/softcap=scaled"]).experiment) != before


def test_a_changed_default_is_composed_anew(write: Write) -> None:
    write(OWN)
    assert compose("gemma2_tiny", ["model/softcap=scaled"]).experiment.model.softcap.final_cap == 30
    write(OWN.replace("3.0", "7.0"))
    assert compose("gemma2_tiny", ["model/softcap=scaled"]).experiment.model.softcap.final_cap == 70


def test_the_file_is_run_once_until_it_changes_and_forgotten_when_it_goes(write: Write) -> None:
    counting = OWN + "open('loads', 'a').write('x')\n"
    path = write(counting)
    for _ in range(3):
        extensions.load()
    assert Path("loads").read_text() == "x"
    write(counting + "\n")
    extensions.load()
    assert Path("loads").read_text() == "xx"
    path.unlink()
    extensions.load()
    assert "scaled" not in registry.names("softcap")


BROKEN = [
    (OWN.replace("Softcap):", "Softcapp):"), "lab_components.py:6: NameError: name 'Softcapp' is not defined"),
    (OWN.replace("class Scaled(", "class Scaled(("), "lab_components.py:6: SyntaxError:"),
    ("\nimport nosuchmodule\n", "lab_components.py:2: ModuleNotFoundError: No module named 'nosuchmodule'"),
    ("raise SystemExit('enough')\n", "lab_components.py:1: SystemExit: enough"),
    (OWN.replace('"scaled"', '"gemma2"'), "5: softcap 'gemma2' is already registered by components.softcap"),
    (
        OWN.replace('"scaled"', '"gemma2"').replace("class Scaled", "class Gemma2Softcap"),
        "5: softcap 'gemma2' is already registered by components.softcap",
    ),
    (OWN.replace('    """A final cap of so many tens."""\n', ""), "lab_components.py:5: Scaled needs a docstring"),
    (
        "from components.registry import Component\n\nclass Mine(Component, kind='softcap'):\n    pass\n",
        "lab_components.py:3: kind 'softcap' is components.softcap.Softcap; derive from that",
    ),
]


@pytest.mark.parametrize(("text", "message"), BROKEN, ids=[message[-40:] for _, message in BROKEN])
def test_a_mistake_in_the_file_is_one_message_with_its_line(write: Write, text: str, message: str) -> None:
    before = {kind: registry.names(kind) for kind in registry.kinds()}
    write(text)
    for _ in range(2):
        with pytest.raises(RequestError) as refusal:
            extensions.load()
        assert message in str(refusal.value)
        assert "\n" not in str(refusal.value)
    assert {kind: registry.names(kind) for kind in registry.kinds()} == before


def test_a_mistake_that_shows_only_in_use_is_one_message_too(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(OWN.replace("10 * self.tens", "self.tens / 0"))
    monkeypatch.setattr(sys, "argv", ["lab", "train", "gemma2_tiny", "model/softcap=scaled"])
    # Without running: the plan costs what it builds, and a cap costs nothing. Ask for it as training would.
    monkeypatch.setattr(
        "lab.planning.plan.build.plan_train", lambda name, overrides, **_: _cap(compose(name, overrides))
    )
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert capsys.readouterr().err == "lab: lab_components.py:13: ZeroDivisionError: float division by zero\n"


def _cap(composition: object) -> object:
    return composition.experiment.model.softcap.final_cap  # type: ignore[attr-defined]


def test_the_command_ends_with_code_2_and_help_does_not_look(write: Write) -> None:
    write("x = 1 +\n")
    lab = [sys.executable, "-m", "lab.cli.main"]
    done = subprocess.run([*lab, "plan", "quickstart"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("lab: lab_components.py:1: SyntaxError")
    assert subprocess.run([*lab, "train", "--help"], capture_output=True).returncode == 0
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["lab_components.py"]


def planned(tmp_path: Path, *overrides: str) -> RunFolder:
    text = write_text(tmp_path / "text.jsonl", "{n} and {square} ")
    plan = plan_train("gemma2_tiny", (*TINY, *files(text), "model/softcap=scaled", *overrides))
    return prepare(plan.runs, tmp_path / "runs").order[0]


def test_a_queued_run_is_trained_with_the_file_as_it_was_from_any_folder(write: Write, tmp_path: Path) -> None:
    path = write(OWN)
    run = planned(tmp_path)
    recorded = info(run)["extensions"]["file"]
    assert recorded["path"] == str(path)
    assert (run.path / "lab_components.py").read_text() == OWN
    write("raise RuntimeError('edited since')\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, "-m", "lab.dispatch.worker", str(run.path), "--threads", "1"]
    done = subprocess.run(command, cwd=elsewhere, env=os.environ | {"LAB_CACHE": str(tmp_path / "cache")}, check=False)
    assert done.returncode == 0, (run.path / "log.txt").read_text()
    assert run.state.status == "finished"
    assert run.summary is not None


def test_an_edit_without_a_new_version_is_reported_and_repeats_nothing(write: Write, tmp_path: Path) -> None:
    write(OWN)
    first = planned(tmp_path)
    write(OWN.replace("10 *", "11 *"))
    text = tmp_path / "text.jsonl"
    plan = plan_train("gemma2_tiny", (*TINY, *files(text), "model/softcap=scaled"))
    again = prepare(plan.runs, tmp_path / "runs")
    assert again.order == again.edited == [first]
    (warning,) = again.warnings()
    assert warning == (
        f"1 of these runs ({first.name}) were made with lab_components.py before you edited it; raise a component's "
        "version= to train them again"
    )
    assert (first.path / "lab_components.py").read_text() == OWN
    write(OWN)
    assert prepare(plan_train("gemma2_tiny", plan.runs[0].overrides).runs, tmp_path / "runs").warnings() == []


def test_a_run_of_the_labs_own_components_needs_no_file(write: Write, tmp_path: Path) -> None:
    write(OWN)
    run = prepare(plan_train("gemma2_tiny", TINY).runs, tmp_path / "runs").order[0]
    assert "extensions" not in info(run)
    assert not (run.path / "lab_components.py").exists()


def test_a_run_whose_file_is_missing_or_another_is_refused(write: Write, tmp_path: Path) -> None:
    write(OWN)
    run = planned(tmp_path)
    copy = run.path / "lab_components.py"
    copy.write_text(OWN.replace("10 *", "11 *"))
    with pytest.raises(RequestError, match="isn't the file with which the run was made"), _of(run):
        pass
    copy.unlink()
    with pytest.raises(RequestError, match="the run's components cannot be read"), _of(run):
        pass


def test_runs_made_with_different_files_each_get_their_own_in_one_process(write: Write, tmp_path: Path) -> None:
    write(OWN)
    first = planned(tmp_path, "seed=1")
    write(OWN.replace("version=1", "version=2").replace("10 *", "20 *"))
    second = planned(tmp_path, "seed=2")
    for run, cap in [(first, 30), (second, 60), (first, 30)]:
        with _of(run):
            extensions.load()  # as a composition within would
            assert registry.lookup("softcap", "scaled")().final_cap == cap  # type: ignore[attr-defined]
    extensions.load()
    assert registry.lookup("softcap", "scaled").version == 2


def _of(run: RunFolder):  # type: ignore[no-untyped-def]
    return extensions.of_run(run.path, run.record)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder as pip leaves it: a module, and the entry point of its distribution."""
    site = tmp_path / "site"
    info = site / "own_caps-1.4.dist-info"
    info.mkdir(parents=True)
    (site / "own_caps.py").write_text(OWN.replace("scaled", "packaged"))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-caps\nVersion: 1.4\n")
    (info / "entry_points.txt").write_text("[architecture_lab.components]\ncaps = own_caps\n")
    return site


def in_package(site: Path, code: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(Path(__file__).parents[2])])}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_an_installed_package_brings_components_and_runs_remember_it(package: Path, write: Write) -> None:
    code = (
        "import json; from lab.planning.plan.build import plan_train\n"
        "print(json.dumps(plan_train('gemma2_tiny', ['model/softcap=packaged']).runs[0].record.as_json()))"
    )
    done = in_package(package, code)
    assert done.returncode == 0, done.stderr
    info = json.loads(done.stdout)
    code = (package / "own_caps.py").read_bytes()
    digest = hashlib.sha256(f"own_caps/own_caps.py {len(code)}\n".encode() + code).hexdigest()
    assert info["extensions"] == {"packages": {"caps": "own-caps 1.4"}, "digests": {"caps": digest}}
    missing = pytest.raises(RequestError, match=r"the components of 'caps' \(own-caps 1.4\), which is not installed")
    packages = Extensions(packages=info["extensions"]["packages"])
    record = RunRecord(identity="a", components=info["components"], extensions=packages)
    with missing, extensions.of_run(Path("."), record):
        pass
    (package / "own_caps.py").write_text(OWN.replace("scaled", "packaged").replace("version=1", "version=3"))
    load = "from lab.composition.extensions import of_record; from lab.records import Extensions"
    arguments = f"None, Extensions(packages={packages.packages!r}), {info['components']!r}, ''"
    again = in_package(package, f"{load}\nwith of_record({arguments}): pass")
    assert "made with version 1 of softcap 'packaged'; here it is 3" in again.stderr


def test_a_package_that_fails_to_load_is_named(package: Path) -> None:
    (package / "own_caps.py").write_text("import nosuchmodule\n")
    done = in_package(package, "from lab.composition import extensions; extensions.load()")
    assert "entry point 'caps' = own_caps" in done.stderr
    assert "nosuchmodule" in done.stderr
