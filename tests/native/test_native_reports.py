"""What is told of native libraries: by `lab doctor`, in a run's provenance, in its progress, and in the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from torch import Tensor

from components.native import library as native
from components.native.library import NativeLibrary, announcing
from lab.cli.main import cli
from lab.dispatch.launchers.local.native_kernels import native_kernels
from lab.records import Progress, Provenance
from lab.refusals import Finding
from lab.training import environment
from lab.training.fit import fit
from tests.native.conftest import UseCompiler
from tests.training import tiny


def found(name: str) -> Finding:
    """What the doctor finds on the library."""
    (finding,) = [finding for finding in native_kernels() if (finding.facts or {}).get("library") == name]
    return finding


def test_the_doctor_says_where_a_library_is_and_who_built_it(prebuilt: NativeLibrary, cache: Path) -> None:
    finding = found("sample")
    assert finding.facts is not None
    assert finding.severity == "info"
    assert Path(str(finding.facts["path"])).is_relative_to(cache)
    assert finding.facts["key"] == prebuilt.loaded().built.record.key
    assert str(finding.facts["compiler_version"]) in finding.message


def test_the_doctor_says_why_a_library_is_not_available_and_tries_again(
    sample: NativeLibrary, tmp_path: Path, use_compiler: UseCompiler
) -> None:
    use_compiler(f'[ -e {tmp_path / "repaired"} ] || {{ echo out of luck; exit 1; }}\nexec g++ "$@"')
    finding = found("sample")
    assert (finding.severity, (finding.facts or {})["cause"]) == ("warning", "compiler failed")
    assert "exit code 1: out of luck" in finding.message
    assert finding.fix == "try it by hand; CXX names another compiler"
    (tmp_path / "repaired").touch()
    assert found("sample").severity == "info"


def test_the_doctor_warns_of_a_machine_without_a_compiler_and_finds_no_problem(
    sample: NativeLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    arguments = ["doctor", "--on", "local", "--root", str(tmp_path / "runs")]
    shown = CliRunner().invoke(cli, arguments)
    assert shown.exit_code == 0
    assert "native   warning  there is no C++ compiler 'no-such-compiler'" in shown.stdout
    assert "apt install g++" in shown.stdout
    findings = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).stdout)["findings"]
    causes = {finding["facts"]["cause"] for finding in findings if "cause" in finding["facts"]}
    assert causes == {"no compiler"}
    assert not any(finding["problem"] for finding in findings)


def test_the_provenance_names_the_build_or_the_reason(prebuilt: NativeLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.native_libraries() == {}, "a process that has asked for none"
    record = prebuilt.loaded().built.record
    libraries = {"sample": {"key": record.key, "compiler": record.compiler_version}}
    assert environment.native_libraries() == libraries
    assert Provenance.of({"native": environment.native_libraries()}).native == libraries
    native.forget()
    monkeypatch.setenv("LAB_NO_NATIVE", "1")
    prebuilt.unavailable()
    assert environment.native_libraries() == {"sample": {"cause": "switched off", "detail": "LAB_NO_NATIVE is set"}}


@pytest.mark.parametrize("facts", [{}, {"native": None}, {"native": ["attention"]}, {"native": {"attention": "x"}}])
def test_a_provenance_without_native_libraries_is_read(facts: dict[str, object]) -> None:
    assert Provenance(facts).native == {}


def test_a_machine_that_builds_otherwise_is_kept_beside_the_earlier_one() -> None:
    before = Provenance.of({"native": {"attention": {"key": "a" * 64, "compiler": "g++ 12"}}})
    after = before.with_facts({"native": {"attention": {"cause": "no compiler", "detail": "there is none"}}})
    assert after.native["attention"]["cause"] == "no compiler"
    assert after.earlier[0].native["attention"]["key"] == "a" * 64


def test_a_run_that_builds_says_so_in_its_progress_and_its_summary(
    sample: NativeLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asks(tiny.TinyModel):
        def forward(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
            assert sample.unavailable() is None
            return super().forward(tokens, documents)

    reports: list[Progress] = []
    outcome = fit(Asks(), tiny.TinyText(), tiny.procedure(3), tmp_path / "run", report=reports.append)
    phases = list(dict.fromkeys(report.phase for report in reports))
    assert "building" in phases
    assert phases.index("building") < phases.index("validation")
    assert outcome.summary.provenance.native["sample"]["key"] == sample.loaded().built.record.key


def test_listeners_hear_of_builds_within_their_context(sample: NativeLibrary) -> None:
    lines: list[str] = []
    with announcing(lines.append):
        native.announce("one")
    native.announce("two")
    assert lines == ["one"]
