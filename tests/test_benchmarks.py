"""benchmarks/: every script says how it is called, and is listed with its bar and its result."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from lab.accounting.costs import costs
from tests.forked import Forked, script

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "benchmarks"
TEXTS = {path.stem: path.read_text("utf-8") for path in FOLDER.glob("*.py")}
# A contender, which serves a benchmark that starts it, is none itself.
SCRIPTS = sorted(name for name, text in TEXTS.items() if '__name__ == "__main__"' in text and " serve(" not in text)


@pytest.fixture(autouse=True)
def _scripts_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)


def run(name: str, *arguments: str, cwd: Path) -> tuple[int, str]:
    """A script's exit code, and all that it says."""
    with tempfile.NamedTemporaryFile() as said:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        process = Forked(
            script, FOLDER / f"{name}.py", *arguments, environment=environment, output=Path(said.name), cwd=cwd
        )
        return process.wait(), Path(said.name).read_text()


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_how_it_is_called_from_any_folder(name: str, tmp_path: Path) -> None:
    code, said = run(name, "--help", cwd=tmp_path)
    assert code == 0, said
    assert said.lower().startswith("usage:")
    assert not any(tmp_path.iterdir())


def test_every_script_is_listed_with_what_it_measures_its_bar_and_its_result() -> None:
    rows = re.findall(
        r"^\| `python benchmarks/(\w+)\.py` \|(.*)\|(.*)\|(.*)\|$", (FOLDER / "README.md").read_text(), re.M
    )
    assert sorted(name for name, *_ in rows) == SCRIPTS
    assert all(cell.strip() for row in rows for cell in row)
    for name, *_, result in rows:
        assert f"({name}.md)" in result


def test_make_bench_runs_them_all() -> None:
    done = subprocess.run(["make", "-n", "-s", "bench"], capture_output=True, text=True, cwd=ROOT, check=True)
    assert all(re.search(rf"\b{name}\b", done.stdout) for name in SCRIPTS)


@pytest.mark.slow
def test_the_gpus_benchmark_works_on_a_tiny_shape(tmp_path: Path) -> None:
    names = "lab,hf-eager,kernels"
    code, said = run("gpu_training", "--tiny", "--only", names, "--out", "page.md", cwd=tmp_path)
    assert code == 0, said
    page = (tmp_path / "page.md").read_text()
    assert "a trial of the script" in page
    assert re.search(r"^\| lab \| 2 \| [\d,]+ \| [\d.]+% \| – \| local: \w+, global: \w+ \|$", page, re.M), page
    assert re.search(r"^\| hf-eager \| 2 \| [\d,]+ \| [\d.]+% \| – \|  \|$", page, re.M), page
    assert re.search(r"^lab: MFU .* × hf-eager", page, re.M), page
    assert re.search(r"^\| cap 50.0, window 16 \| .*refuses", page, re.M), page


def test_without_a_cuda_device_nothing_is_measured_and_no_result_is_overwritten(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here, and would be measured")
    code, said = run("gpu_training", "--out", "page.md", cwd=tmp_path)
    assert (code, said.partition(":")[0]) == (0, "no CUDA device here")
    assert "Not yet measured" in (tmp_path / "page.md").read_text()
    (tmp_path / "page.md").write_text("measured once")
    run("gpu_training", "--out", "page.md", cwd=tmp_path)
    assert (tmp_path / "page.md").read_text() == "measured once"


def test_only_an_implementation_of_the_same_function_is_compared_with() -> None:
    import gpu_training
    import gpu_training_page

    common = {"batch": 1, "memory": 2**31, "parameters": 5, "note": "", "same": True}

    def found(speed: float, **more: Any) -> dict[str, Any]:
        return common | {"tokens_per_second": speed} | more

    rows = {
        "lab": found(90.0),
        "lab-compiled": found(120.0),
        "hf-eager": found(50.0),
        "hf-sdpa": found(400.0, same=False, note="another function"),
        "hf-flex": {"problem": "out of memory with 1 sequence"},
    }
    measured = {(name, 64): each for name, each in rows.items()}
    text = gpu_training_page.report(gpu_training.TINY, measured, tiny=True)
    assert re.search(r"^lab-compiled: MFU .*; 2\.40 × hf-eager \(aim: 1\.3 ×, reached\)\.$", text, re.M), text
    assert re.search(r"^\| hf-sdpa \| 1 \| 400 \| [\d.]+% \| 2\.0 \| another function \|$", text, re.M), text
    assert "| hf-flex | – | – | – | – | out of memory with 1 sequence |" in text
    with pytest.raises(ValueError, match="not the same model"):
        gpu_training_page.report(gpu_training.TINY, measured | {("hf-eager", 64): found(1.0, parameters=6)}, tiny=True)


def test_the_two_shapes_are_one_model_of_a_billion_parameters() -> None:
    """Hugging Face's configuration and the lab's: the same parameters, of Gemma 2 2B but for its sizes."""
    import torch
    from gpu_training import TINY, Shape
    from transformers import Gemma2ForCausalLM

    assert costs(Shape().architecture(), 4096).parameters == pytest.approx(1e9, rel=0.01)
    with torch.device("meta"):
        for shape in (TINY, Shape()):
            theirs = Gemma2ForCausalLM(shape.config("eager"))
            assert sum(p.numel() for p in theirs.parameters()) == costs(shape.architecture(), 64).parameters
    config = Shape().config("eager")
    assert (config.attn_logit_softcapping, config.final_logit_softcapping) == (50.0, 30.0)
    assert config.layer_types[:2] == ["sliding_attention", "full_attention"]


def test_an_unknown_implementation_is_refused(tmp_path: Path) -> None:
    code, said = run("gpu_training", "--only", "lba", cwd=tmp_path)
    assert code == 2
    assert "'lba' is none of lab, lab-compiled, hf-eager" in said


def test_every_result_is_kept_beside_its_script_unless_said_otherwise(tmp_path: Path) -> None:
    import click
    import page
    from click.testing import CliRunner

    assert all("@page.out_option(__file__)" in TEXTS[name] for name in SCRIPTS)

    @click.command()
    @click.option("--contexts", default="512,1024", type=page.Numbers())
    @click.option("--runs", default=300)
    @click.option("--compiled/--no-compiled", default=True)
    @page.clock_option
    @page.out_option(str(tmp_path / "made_up.py"))
    def script(contexts: list[int], runs: int, compiled: bool, clock: str, out: str) -> None:
        page.keep(f"{page.command('made_up.py')} {page.at_defaults('contexts', 'runs')} {clock}", out)

    kept = tmp_path / "made_up.md"
    said = CliRunner().invoke(script, []).output
    assert said == kept.read_text() == "`python benchmarks/made_up.py` True wall\n"
    other = tmp_path / "other.md"
    said = CliRunner().invoke(script, ["--contexts", "512", "--clock", "cpu", "--out", str(other)]).output
    assert said == other.read_text() == "`python benchmarks/made_up.py --contexts 512 --clock cpu` False cpu\n"
    kept.unlink()
    said = CliRunner().invoke(script, ["--contexts", "512,1024", "--out", "-"]).output
    assert said == "`python benchmarks/made_up.py --contexts 512,1024` True wall\n"
    said = CliRunner().invoke(script, ["--no-compiled", "--out", "-"]).output
    assert said == "`python benchmarks/made_up.py --no-compiled` True wall\n"
    assert not kept.exists()


def test_a_table_aligns_figures_to_the_right_and_refuses_a_row_that_is_too_short() -> None:
    import page

    text = page.table(["name", "ms", "times", "note"], [["a|b", 12, "**1.5** \\*", "x\ny"], ["c", "–", "≥ 2×", ""]])
    assert text.splitlines() == [
        "| name | ms | times | note |",
        "| --- | --: | --: | --- |",
        "| a\\|b | 12 | **1.5** \\* | x y |",
        "| c | – | ≥ 2× |  |",
    ]
    with pytest.raises(ValueError, match="shorter"):
        page.table(["a", "b"], [["1"]])


def test_a_missed_bar_alone_makes_the_exit_code_1() -> None:
    import page

    assert [page.verdict(each) for each in (True, False, None)] == ["reached", "missed", "–"]
    assert page.exit_code([True, None]) == page.exit_code([]) == 0
    assert page.exit_code([True, None, False]) == 1


def test_numbers_are_whole_positive_and_none_only_where_it_means_something() -> None:
    import click
    import page

    assert page.Numbers().convert("512,4096", None, None) == [512, 4096]
    assert page.Numbers(none=True).convert("none,50", None, None) == [None, 50]
    for given in ("none", "0", "1,", "-4", "1.5"):
        with pytest.raises(click.BadParameter, match="expected numbers, separated by commas"):
            page.Numbers().convert(given, None, None)


def test_the_line_about_the_machine_names_no_host_and_no_path() -> None:
    import platform

    import page

    line = page.machine(1, "cpu")
    assert "\n" not in line
    assert ", 1 thread, processor time, load " in line
    assert platform.node() not in line
    assert str(Path.home()) not in line


def test_without_the_peers_one_line_says_how_to_install_them() -> None:
    import train_throughput_page

    assert "\n" not in train_throughput_page.NO_PEERS
    assert "`make peers`" in train_throughput_page.NO_PEERS
    assert re.search(r"^bench: .*\bpeers$", (ROOT / "Makefile").read_text(), re.M)
    pins = [line for line in (FOLDER / "peers.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pins)
    assert {"transformers", "litgpt", "x-transformers"} <= {line.partition("==")[0] for line in pins}
