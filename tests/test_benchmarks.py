"""benchmarks/: every script says how it is called, is listed with its bar, which its page is held against."""

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
    @page.clock_option
    @page.out_option(str(tmp_path / "made_up.py"))
    def script(contexts: list[int], runs: int, clock: str, out: str) -> None:
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


def made_up_throughput(**changes: float) -> dict[int, dict[str, Any]]:
    """All contenders at 512 and 4,096, every bar just reached; `changes` multiply a contender's speed."""
    from train_throughput_page import SIZES, Measured

    speeds = {
        512: {"hf": 100.0, "litgpt": 90.0, "xtransformers": 80.0, "fp32": 110.0, "fp32_compiled": 130.0, "bf16": 270.0},
        4096: {"hf": 10.0, "litgpt": 20.0, "xtransformers": 15.0, "fp32": 140.0, "fp32_compiled": 100.0, "bf16": 240.0},
    }
    facts = {"versions": "made up 1.0", "flops": 2e9}
    found: dict[int, dict[str, Any]] = {}
    for context, of in speeds.items():
        found[context] = {
            name.replace("_", " "): Measured(
                SIZES[context], rate * changes.get(name, 1.0), 1.0, 9.0, 5001 if name == "hf" else 1000, facts
            )
            for name, rate in of.items()
        }
        found[context] |= {f"product {p}": Measured(SIZES[context], 1.0, 2.0, 2.0, 1, facts) for p in ("fp32", "bf16")}
    return found


def test_throughput_is_held_against_the_best_peer_and_the_better_of_compiled_and_not() -> None:
    from train_throughput_page import bars

    def verdicts(bf16: bool = True, **changes: float) -> dict[str, bool | None]:
        return {bar.what: bar.reached for bar in bars(made_up_throughput(**changes), bf16=bf16)}

    reached = {"fp32, T = 512": True, "fp32, T = 1,024": None, "fp32, T = 2,048": None, "fp32, T = 4,096": True}
    reached |= {"bf16, T = 512": True, "bf16, T = 4,096": True, "memory, T = 4,096": True}
    assert verdicts() == reached
    assert verdicts(fp32_compiled=0.99) == reached | {"fp32, T = 512": False}
    assert verdicts(fp32=0.99) == reached | {"fp32, T = 4,096": False}
    assert verdicts(litgpt=1.01) == reached | {"fp32, T = 4,096": False, "bf16, T = 4,096": False}
    assert verdicts(bf16=False) == reached | {"bf16, T = 512": None, "bf16, T = 4,096": None}


def test_throughput_has_no_verdict_without_the_peers_or_at_another_size() -> None:
    from dataclasses import replace

    from train_throughput_page import PEERS, bars

    found = made_up_throughput()
    alone = {context: {name: each for name, each in of.items() if name not in PEERS} for context, of in found.items()}
    assert {bar.reached for bar in bars(alone, bf16=True)} == {None}
    other = {context: {name: replace(each, batch=3) for name, each in of.items()} for context, of in found.items()}
    assert {bar.reached for bar in bars(other, bf16=True)} == {None}
    found[4096]["fp32"] = replace(found[4096]["fp32"], peak=1001)
    assert bars(found, bf16=True)[-1].reached is False


def test_the_throughput_page_shows_every_bar_beside_its_figure() -> None:
    from train_throughput_page import bf16_instructions, report

    def text(instructions: list[str], **changes: float) -> str:
        common = {"flops_per_token": {512: 1e6, 4096: 2e6}, "setting": ["made up"]}
        return report(made_up_throughput(**changes), bf16=instructions, **common)

    shown = text(["avx512_bf16"], fp32_compiled=0.9)
    assert "| fp32, T = 512 | ≥ 1.3× | 1.17× | missed | fp32 compiled over hf |" in shown
    assert "| fp32, T = 4,096 | ≥ 7× | 7.00× | reached | fp32 over litgpt |" in shown
    assert "| bf16, T = 512 | ≥ 2.7× | 2.70× | reached | bf16 over hf |" in shown
    assert "| memory, T = 4,096 | < 1/5 | 1/5.00 | reached | fp32 over hf |" in shown
    emulated = text([])
    assert "| bf16, T = 512 | ≥ 2.7× | 2.70× | – | bf16 over hf; emulated here: the bar doesn't apply |" in emulated
    assert "no bf16 arithmetic" in emulated
    assert bf16_instructions("flags : avx512f amx_bf16 avx512_bf16 amx_bf16") == ["amx_bf16", "avx512_bf16"]
    assert bf16_instructions("flags : avx512f bf16") == []


def test_without_the_peers_one_line_says_how_to_install_them() -> None:
    import train_throughput_page

    assert "\n" not in train_throughput_page.NO_PEERS
    assert "`make peers`" in train_throughput_page.NO_PEERS
    assert re.search(r"^bench: .*\bpeers$", (ROOT / "Makefile").read_text(), re.M)
    pins = [line for line in (FOLDER / "peers.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pins)
    assert {"transformers", "litgpt", "x-transformers"} <= {line.partition("==")[0] for line in pins}


def test_a_windows_growth_is_held_against_its_bar() -> None:
    import window_growth

    def text(last: float, reached: bool | None) -> str:
        seconds = {(256, 10): 1.0, (256, 40): last, (None, 10): 1.0, (None, 40): 16.0}
        assert window_growth.kept(seconds, 256, [10, 40]) == (last <= 4.4)
        return window_growth.growth_table(seconds, 256, [10, 40], reached)

    assert "| 256 | 1,000.0 | 4,400.0 | 4.40× | ≤ 4.4× | reached |" in text(4.4, True)
    assert "| 4.41× | ≤ 4.4× | missed |" in text(4.41, False)
    assert "| none | 1,000.0 | 16,000.0 | 16.00× | – | – |" in text(4.4, True)


def test_the_losss_bar_is_the_ratio_of_the_peaks_at_one_width() -> None:
    from loss_memory import Losses, losses_table

    under, over, wide = (
        Losses(256, 1000, 99, 50, 1, 1),
        Losses(256, 1000, 100, 50, 1, 1),
        Losses(2304, 1000, 170, 150, 1, 1),
    )
    assert [each.reached for each in (under, over, wide)] == [True, False, None]
    text = losses_table([over, wide], counts=True)
    assert "| 10.0% | < 10% | missed | 5.0% |" in text
    assert "| 17.0% | – | – | 2.0% |" in text
    assert "missed" not in losses_table([over], counts=False)


def test_decoding_is_held_against_twice_the_speed_and_every_byte() -> None:
    from decoding import Compared, Kept, bytes_table, speeds_table

    twice, slower = (Compared(1, 512, (2.0, mine), (3.0, 1.0), 1.0) for mine in (1.0, 1.01))
    assert (twice.reached, slower.reached) == (True, False)
    text = speeds_table([twice, slower], counts=True)
    assert "| 2.0 | ≥ 2 | reached | 100% | 3.00 | 1.00 |" in text
    assert "| 2.0 | ≥ 2 | missed |" in text
    assert "missed" not in speeds_table([slower], counts=False)
    equal, more = Kept("mha", 1000, 1000, {"global": 1000}), Kept("gqa", 501, 500, {"global": 500})
    assert (equal.reached, more.reached) == (True, False)
    text = bytes_table([equal, more], 10)
    assert "| mha | 1,000 | 1,000 | reached | 100 | 100.0% | global 1,000 |" in text
    assert "| gqa | 501 | 500 | missed | 50 | 50.0% | global 500 |" in text


def test_commands_are_held_against_their_limits_of_seconds_and_of_memory() -> None:
    from scale import Limit, Measured, limits_table

    both = Limit(30, 1000)
    found = [
        Measured("s", "plan", *figures) for figures in ((30, 1000, both), (31, 9, both), (9, 1001, both), (99, 9, None))
    ]
    assert [each.kept for each in found] == [True, False, False, None]
    assert [line.split("|")[-2].strip() for line in limits_table(found, counts=True).splitlines()[2:]] == [
        "reached",
        "missed",
        "missed",
        "–",
    ]
    assert "missed" not in limits_table(found, counts=False)


def test_what_a_run_on_slurm_costs_stands_beside_its_bar() -> None:
    from slurm import costs_table

    found = {"submit": 5.0, "job_seconds": 100.0, "run": 2.0, "training": 1.4, "overhead": 0.6, "repeat": 4.0}
    assert "| the rest | 0.60 | ≤ 0.5 | missed |" in costs_table(found, reached=False)
    assert "| the rest | 0.60 | ≤ 0.5 | – |" in costs_table(found, reached=None)
