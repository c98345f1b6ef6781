"""benchmarks/: every script says how it is called, is listed with its bar, and is run by `make bench`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab.accounting.costs import costs

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "benchmarks"
TEXTS = {path.stem: path.read_text("utf-8") for path in FOLDER.glob("*.py")}
# A contender, which serves a benchmark that starts it, is none itself.
SCRIPTS = sorted(name for name, text in TEXTS.items() if '__name__ == "__main__"' in text and " serve(" not in text)


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, env=environment, check=False
    )


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_how_it_is_called_from_any_folder(name: str, tmp_path: Path) -> None:
    done = run(str(FOLDER / f"{name}.py"), "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.lower().startswith("usage:")
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
    done = run(str(FOLDER / "gpu_training.py"), "--tiny", "--only", names, "--out", "page.md", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
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
    script = str(FOLDER / "gpu_training.py")
    done = run(script, "--out", "page.md", cwd=tmp_path)
    assert (done.returncode, done.stdout.partition(":")[0]) == (0, "no CUDA device here")
    assert "Not yet measured" in (tmp_path / "page.md").read_text()
    (tmp_path / "page.md").write_text("measured once")
    run(script, "--out", "page.md", cwd=tmp_path)
    assert (tmp_path / "page.md").read_text() == "measured once"


def test_only_an_implementation_of_the_same_function_is_compared_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
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
    text = gpu_training_page.page(gpu_training.TINY, measured, tiny=True)
    assert re.search(r"^lab-compiled: MFU .*; 2\.40 × hf-eager \(aim: 1\.3 ×, reached\)\.$", text, re.M), text
    assert re.search(r"^\| hf-sdpa \| 1 \| 400 \| [\d.]+% \| 2\.0 \| another function \|$", text, re.M), text
    assert "| hf-flex | – | – | – | – | out of memory with 1 sequence |" in text
    with pytest.raises(ValueError, match="not the same model"):
        gpu_training_page.page(gpu_training.TINY, measured | {("hf-eager", 64): found(1.0, parameters=6)}, tiny=True)


def test_the_two_shapes_are_one_model_of_a_billion_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hugging Face's configuration and the lab's: the same parameters, of Gemma 2 2B but for its sizes."""
    monkeypatch.syspath_prepend(FOLDER)
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
    done = run(str(FOLDER / "gpu_training.py"), "--only", "lba", cwd=tmp_path)
    assert done.returncode == 2
    assert "'lba' is none of lab, lab-compiled, hf-eager" in done.stderr
