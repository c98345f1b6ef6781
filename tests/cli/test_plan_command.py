"""`lab plan` as a user types it: read, refused, saved, as JSON."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.warm import lab


def plan(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return lab("plan", *arguments, cwd=cwd)


def test_a_plan_is_read_from_top_to_bottom_and_creates_nothing(tmp_path: Path) -> None:
    done = plan("kv_heads", "--budget", "1e14flops", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    expected = [
        "How few key-value heads will do",
        "12 runs (4 arms × 3 seeds): 12 new",
        "n_kv_heads=8",
        "n_kv_heads 8 → 4, d_ff 384 → 424",
        "matched: parameters, within 0.5%",
        "by model.mlp.d_ff in multiples of 8",
        "unknown, as no run of this kind has been measured",
        "1e14flops is ",
        "with its own 121k tokens: ",
    ]
    places = [said.find(text) for text in expected]
    assert -1 not in places
    assert places == sorted(places)
    assert not any(tmp_path.iterdir())


def test_json_holds_the_plan_its_estimates_and_its_power(tmp_path: Path) -> None:
    done = plan("quickstart", "--json", "--budget", "1e14flops", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert {"runs", "matching", "estimates", "power", "budget"} <= set(found)
    assert set(found["estimates"]) == {run["identity"] for run in found["runs"]}
    assert found["power"]["noise"]["source"] == "unknown"
    assert found["matching"]["parameter_deviations"]["mha"] > 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["quickstart", "--budget", "lots"],
            "--budget 'lots': expected an amount such as 200gpuh, 16cpuh",
        ),
        (["quickstart", "--budget", "2h"], "run `lab train gemma2_tiny` once here, or give the budget in FLOPs"),
        (["quickstart", "--budget", "2gpuh"], "has been measured on a GPU"),
        (["quickstart", "--max-parallel", "0"], "--max-parallel"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_made(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = plan(*arguments, "train.accelerator=cpu", "--save", "saved.json", cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not any(tmp_path.iterdir())


def test_a_saved_plan_is_the_plan(tmp_path: Path) -> None:
    from lab.planning.plan.build import plan_sweep
    from lab.planning.plan.plan_file import load_plan

    done = plan("glu", "--save", "saved.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "`lab submit saved.json` runs exactly this plan" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["saved.json"]
    saved, again = load_plan(tmp_path / "saved.json"), plan_sweep("glu")
    assert [run.identity for run in saved.runs] == [run.identity for run in again.runs]
    assert saved.matching == again.matching


@pytest.mark.slow
def test_an_ended_run_is_finished_in_the_plan_and_measured(tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "tiny.yaml").write_text(
        "question: Tiny?\nexperiment: gemma2_tiny\nseeds: 2\narms: {a: {}, b: {model/heads: mha}}\n"
        "overrides:\n"
        "  train: {tokens: 2k, context: 32, global_batch: 4, accelerator: cpu}\n"
        "  validation: {tokens: 256, every: null}\n"
        "  schedule.warmup_tokens: 0\n"
        "  data.corpus.parts: [prose]\n"
        "  model: {d_model: 16, n_layers: 2}\n"
        "  model.mlp.d_ff: 24\n"
        "  model.heads.head_dim: 4\n"
    )
    assert lab("submit", "tiny", cwd=tmp_path).returncode == 0
    done = plan("tiny", "--budget", "1h", cwd=tmp_path)
    assert "4 runs (2 arms × 2 seeds): 4 finished" in done.stdout
    assert "measured in 2 runs" in done.stdout
    assert "nats with 2 seeds (SD of a paired difference" in done.stdout
    assert "from this sweep" in done.stdout
    assert "1h is " in done.stdout


def test_flops_are_shown_as_others_count_them_only_where_asked(tmp_path: Path) -> None:
    found = json.loads(plan("quickstart", "--flops", "--json", cwd=tmp_path).stdout)
    counted = found["flops_per_token_counted"]
    assert list(counted) == ["gemma2", "global_only", "local_only", "mha"]
    own = {run["arm"]: run["flops_per_token"] for run in found["runs"]}
    assert {arm: by["visible"] for arm, by in counted.items()} == own
    assert all(by["six_n"] < by["visible"] < by["square"] for by in counted.values())
    assert counted["gemma2"]["square"] == counted["local_only"]["square"]
    said = plan("quickstart", cwd=tmp_path).stdout
    assert "12LHQT" not in said
    assert "flops_per_token_counted" not in json.loads(plan("quickstart", "--json", cwd=tmp_path).stdout)
