"""Makes the pictures of docs/evaluators.md from real runs: `python docs/evaluator_pictures.py`, about half an hour.

It uses the commands that a user would type, in runs/.pictures of this checkout. Runs that exist there are not trained
again. The tasks of lm-eval need the extra `tasks`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.docs.blocks import blocks  # noqa: E402

IMAGES = ROOT / "docs" / "images" / "evaluators"
WORK = ROOT / "runs" / ".pictures"
LAB = [sys.executable, "-m", "lab.cli.main"]

STABLE = """
question: How far does QK-norm push the largest stable learning rate?
experiment: gemma2_tiny
baseline: plain,lr=0.003
arms: {plain: {}, qk_norm: {model/qk_norm: rmsnorm}}
grid: {optimizer.lr: [3e-3, 1e-2, 3e-2, 1e-1, 3e-1]}
overrides: {model/softcap: none, model/residual: pre, train.tokens: 120k, train.log_every: 1, validation.every: null}
"""
"""A part of the sweep `stability`: two arms, five learning rates and one seed."""

MEMORISED_MODULES = ["colorsys", "keyword"]
"""Modules of the standard library, 5 KB in all, that a model memorises."""


def lab(*arguments: str) -> None:
    print("$ lab", *arguments, flush=True)
    subprocess.run([*LAB, *arguments], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def picture(file: str, *arguments: str) -> None:
    """Write docs/images/evaluators/<evaluator>.png from the picture `file` of `lab eval … --out`."""
    evaluator = next(text for text in arguments if text in EVALUATORS)
    with tempfile.TemporaryDirectory() as folder:
        lab("eval", *arguments, "--out", folder)
        shutil.copy(Path(folder) / f"{file}.png", IMAGES / f"{evaluator}.png")


EVALUATORS = (
    "perplexity", "context", "inference_window", "transfer", "memorisation", "recall", "attention_maps", "stability",
    "generation_speed", "tasks",
)  # fmt: skip


def write_sweeps(page: Path) -> list[str]:
    """Write the sweep files that a page contains, and return their names."""
    sweep_blocks = [block for block in blocks(page) if block.file.startswith("sweeps/")]
    Path("sweeps").mkdir(exist_ok=True)
    for block in sweep_blocks:
        Path(block.file).write_text(block.text)
    return [Path(block.file).stem for block in sweep_blocks]


def sweeps() -> None:
    """Run `mqar`, the sweep of the page, and a part of `stability`."""
    assert write_sweeps(ROOT / "docs" / "evaluators.md") == ["spans"]
    Path("sweeps/stable.yaml").write_text(STABLE.lstrip())
    for sweep in ("mqar", "spans", "stable"):
        lab("submit", sweep, "--on", "local")


def memorise() -> None:
    """Train a run that reads a few files many times."""
    modules = [Path(str(sys.modules.get(name, __import__(name)).__file__)) for name in MEMORISED_MODULES]
    lines = [json.dumps({"text": part}) for module in modules for part in module.read_text().split("\n\n\n")]
    Path("by_heart.jsonl").write_text("\n".join(lines))
    Path("experiments").mkdir()
    Path("experiments/by_heart.yaml").write_text(
        yaml.safe_dump(
            {
                "defaults": ["gemma2_tiny", {"override /data/corpus": "files"}, "_self_"],
                "data": {"corpus": {"paths": ["by_heart.jsonl"]}, "validation_fraction": 0.2},
                "validation": {"tokens": "4k"},
            }
        )
    )
    lab("train", "by_heart")


def tasks() -> None:
    """Write a task on text like that of the runs: which of three endings follows a keyword?"""
    pairs = [("import", [" os\n", " :\n", " ((\n"]), ("for x in", [" range(", " def ", " = ="]),
             ("def __init__(", ["self", "import", "]"]), ("raise ", ["ValueError(", ")", "else:"]),
             ("if x is not ", ["None:", "def", "=="]), ("except ", ["KeyError:", "}", "+"]),
             ("return ", ["self", "class", ":="]), ("class Foo(", ["object", "==", "else"])]  # fmt: skip
    Path("python.jsonl").write_text("\n".join(json.dumps({"q": q, "choices": c}) for q, c in pairs))
    definition = {
        "task": "python",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": str(Path("python.jsonl").resolve())}},
        "validation_split": "validation",
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_target": 0,
        "doc_to_choice": "choices",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    Path("python.yaml").write_text(yaml.safe_dump(definition))


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    WORK.mkdir(parents=True, exist_ok=True)
    os.chdir(WORK)
    for name in ("sweeps", "experiments"):
        shutil.rmtree(name, ignore_errors=True)
    sweeps()
    memorise()
    tasks()
    seeds = ["spans/global/seed-0", "spans/local/seed-0"]
    local = [f"spans/local/seed-{seed}" for seed in range(3)]
    picture("loss_by_position", "spans", "perplexity")
    picture("loss_by_context", "spans", "context", "window=32", "reach=125")
    picture("loss_by_window", *local, "inference_window", "windows=[4,8,16,32,64,128]")
    picture("metrics", *seeds, "transfer")
    picture("share_by_distance", "by_heart/base/seed-0", *seeds, "memorisation", "samples=200")
    picture("accuracy_by_distance", "mqar", "recall", "far=16")
    picture("statistics", *seeds, "attention_maps", "window=32")
    picture("learning_rates", "stable", "stability")
    picture("cache_b16", *seeds, "generation_speed", "batches=[1,16]", "contexts=[64,128,256,512]")
    picture("metrics", *seeds, "tasks", "tasks=[python.yaml]")


if __name__ == "__main__":
    main()
