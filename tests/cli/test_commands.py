"""The commands as a user types them: what they print, what they leave behind, and their exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.warm import lab

pytestmark = pytest.mark.trains

TINY = [
    "train.tokens=3k", "train.context=32", "train.global_batch=4", "validation.tokens=256", "validation.every=null",
    "schedule.warmup_tokens=0", "model.d_model=16", "model.n_layers=2", "model.mlp.d_ff=24", "model.heads.head_dim=4",
    "train.accelerator=cpu", "data.corpus.parts=[prose]",
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "gemma2_tiny", "model/headz=mha"], "did you mean 'model/heads'?"),
        (["train", "gemma2_tiny", "model.window=-3"], "did you mean 'model.span.window'?"),
        (["train", "gemma2_tiny", "train.tokens=banana"], "got 'banana'"),
        (["train", "gemma2_tiny", "recipe=distillation"], "recipe.teacher: is missing: expected a run, such as"),
        (["plan", "nosuch"], "no sweep is called 'nosuch'"),
        (["submit", "nosuch"], "no sweep is called 'nosuch'"),
        (["compare", "nosuch"], "nosuch"),
        (["tensorboard", "nosuch"], "nosuch"),
        (["status", "nosuch"], "nosuch"),
        (["trian"], "did you mean 'train'?"),
        (["train"], "name an experiment first"),
        (["train", "gemma2_tiny", "--multirun"], "no such option"),
        (["list", "components", "hedas"], "did you mean 'heads'?"),
        (["eval", "nosuch", "perplexity"], "no run is called 'nosuch'"),
        (["eval", "nosuch", "perplexty"], "did you mean 'perplexity'?"),
        (["generate", "nosuch", "text"], "no run is called 'nosuch'"),
        (["export", "nosuch", "folder"], "no run is called 'nosuch'"),
        (["import", ".", "--name", "x"], "config.json"),
        (["import", "."], "--name: is missing"),
        (["plan", "quickstart", "--jsn"], "no such option"),
    ],
)
def test_a_mistake_is_one_message_exit_code_2_and_nothing_made(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    done = lab(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr + done.stdout
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("words", [[], ["bench"]])
def test_a_command_that_needs_another_prints_its_help(words: list[str], tmp_path: Path) -> None:
    done, helped = lab(*words, cwd=tmp_path), lab(*words, "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == helped.stdout
    assert "Commands:" in done.stdout


def test_plan_json_lists_every_run_and_makes_none(tmp_path: Path) -> None:
    done = lab("plan", "quickstart", "--json", cwd=tmp_path)
    assert done.returncode == 0
    runs = json.loads(done.stdout)["runs"]
    assert len(runs) == 8
    for run in runs:
        assert {"identity", "arm", "seed", "axes", "parameters", "flops_per_token", "kv_bytes_per_token"} <= set(run)
    by_arm = {run["arm"]: run for run in runs}
    assert by_arm["mha"]["kv_bytes_per_token"] == 2 * by_arm["gemma2"]["kv_bytes_per_token"]
    assert by_arm["global_only"]["flops_per_token"] > by_arm["local_only"]["flops_per_token"]
    assert not any(tmp_path.iterdir())


def test_cfg_job_prints_the_resolved_configuration_and_trains_nothing(tmp_path: Path) -> None:
    done = lab(
        "train", "--config-name", "gemma2_tiny", "model/heads=mqa", "--cfg", "job", "-p", "model.heads", cwd=tmp_path
    )
    assert done.stdout.startswith("{name: mqa, n_heads: 4, head_dim: 32")
    assert not any(tmp_path.iterdir())


def test_config_dir_is_searched_first(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "own.yaml").write_text("defaults: [gemma2_tiny, _self_]\nseed: 41\n")
    done = lab("train", "own", "--config-dir", str(tmp_path / "configs"), "--cfg", "job", "-p", "seed")
    assert done.stdout.strip().splitlines()[0] == "41"


def test_train_leaves_a_complete_run_folder_and_does_not_repeat_it(tmp_path: Path) -> None:
    done = lab("train", "gemma2_tiny", "model/heads=mha", "model/span=global", *TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs" / "gemma2_tiny").glob("*/seed-0")
    names = {path.name.split(".tfevents")[0] for path in folder.iterdir()}
    assert {"config.yaml", "run.json", "state.json", "summary.json", "metrics.jsonl", "checkpoints", "log.txt"} <= names
    assert "events.out" in names
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert 0 < summary["metrics"]["val/loss"] < 6
    written = (folder / "metrics.jsonl").read_text()
    again = lab("train", "gemma2_tiny", "model/heads=mha", "model/span=global", *TINY, cwd=tmp_path)
    assert again.returncode == 0
    assert "nothing to do: 1 of 1 finished" in again.stdout
    assert (folder / "metrics.jsonl").read_text() == written


def test_a_sweep_runs_compares_and_is_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    overrides = "".join(f"  {key}: {value}\n" for key, value in (item.split("=", 1) for item in TINY))
    (tmp_path / "sweeps" / "mine.yaml").write_text(
        "question: Does it run?\nexperiment: gemma2_tiny\nseeds: 2\narms:\n  one: {}\n  two: {model/heads: mha}\n"
        f"overrides:\n{overrides}"
    )
    first = lab("submit", "mine", "--on", "local", cwd=tmp_path)
    assert first.returncode == 0, first.stderr + first.stdout
    second = lab("submit", "mine", cwd=tmp_path)
    assert second.returncode == 0
    assert "nothing to do: 4 of 4 finished" in second.stdout
    table = lab("compare", "mine", cwd=tmp_path).stdout
    assert "Does it run?" in table
    assert all(arm in table for arm in ("one", "two"))
    compared = json.loads(lab("compare", "mine", "--json", cwd=tmp_path).stdout)
    assert len(compared["arms"]) == 2
    statuses = json.loads(lab("status", "mine", "--json", cwd=tmp_path).stdout)
    assert statuses["counts"] == {"finished": 4}
    assert "finished" in lab("status", cwd=tmp_path).stdout
    view = Path(tmp_path / lab("tensorboard", "mine", "--build-only", cwd=tmp_path).stdout.strip())
    assert (view / "one" / "seed-0").is_dir()


@pytest.mark.parametrize("what", ["components", "experiments", "sweeps", "kernels", "evaluators"])
def test_every_list_has_json(what: str) -> None:
    rows = json.loads(lab("list", what, "--json").stdout)
    assert rows
    assert all(row["name"] and row["about"] for row in rows)


def test_a_sweep_that_extends_another_is_listed_with_its_question(tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    for name, text in {"again": "extends: glu", "third": "extends: again", "round": "extends: round"}.items():
        (tmp_path / "sweeps" / f"{name}.yaml").write_text(f"{text}\nseeds: 2\n")
    about = {row["name"]: row["about"] for row in json.loads(lab("list", "sweeps", "--json", cwd=tmp_path).stdout)}
    assert about["glu"].startswith("Is a gated MLP")
    assert about["again"] == about["third"] == about["glu"]
    assert about["round"] == ""


def test_list_shows_the_whole_description_of_a_kinds_components() -> None:
    shown = lab("list", "evaluators").stdout
    rows = json.loads(lab("list", "evaluators", "--json").stdout)
    perplexity = next(row for row in rows if row["name"] == "perplexity")
    last = perplexity["description"].split()[-4:]
    assert len(perplexity["description"]) > len(perplexity["about"])
    assert all(word in shown for word in last)


def test_list_shows_a_components_options_with_their_defaults() -> None:
    rows = json.loads(lab("list", "components", "heads", "--json").stdout)
    gqa = next(row for row in rows if row["name"] == "gqa")
    options = {option["name"]: option for option in gqa["options"]}
    assert options["n_kv_heads"]["required"]
    assert options["bias"] == {"name": "bias", "type": "bool", "required": False, "default": False}
