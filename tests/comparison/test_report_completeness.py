"""A report says what its numbers leave out, and copes with whatever the run folders hold."""

from __future__ import annotations

import html
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from lab.records import write_json
from lab.report.page import report
from tests.comparison.fake_runs import fake_run, fake_sweep
from tests.comparison.test_comparison_plans import GOOD, PICKED, tuned

LOSSES = {"both": [3.20, 3.22, 3.24], "neither": [3.50, 3.52, 3.54]}


def section(page: str, name: str) -> str:
    """The text of a panel, its tips included."""
    (inner,) = re.findall(rf'<section id="{name}"[^>]*>(.*?)</section>', page, re.DOTALL)
    told = " ".join(re.findall(r'data-[tnd]="([^"]*)"', inner))
    return " ".join(html.unescape(f"{re.sub(r'<[^>]+>', ' ', inner)} {told}").split())


def keep(run: Path, name: str, evaluator: str, metrics: dict[str, Any], points: Any = None) -> None:
    (run / "evaluations").mkdir(exist_ok=True)
    curves = {} if points is None else {"loss_by_context": {"x": "context", "y": "loss", "points": points}}
    found = {"evaluator": evaluator, "metrics": metrics, "curves": curves, "details": {}}
    (run / "evaluations" / f"{name}.json").write_text(json.dumps(found))


def test_a_band_is_of_finished_runs_and_says_which_seeds_it_lacks(tmp_path: Path) -> None:
    for arm, order in (("both", 0), ("neither", 1)):
        for seed, status in enumerate(["finished", "failed", "diverged", "finished"]):
            run = fake_run(tmp_path, arm, seed, order=order, status="finished" if order == 0 else status)
            if seed < 3:
                loss = 3.0 if order == 0 or seed == 0 else 100.0
                keep(run.path, "context", "context", {}, [[8, loss], [16, loss - 0.1]])
    said = section(report(tmp_path, "softcap"), "positions")
    assert "both without seed 3 (not measured)." in said
    assert "neither without seed 1 (failed), 2 (diverged) and 3 (not measured)." in said
    assert " 75" not in said, "the axis holds no loss of 100"
    assert "3 seeds" in said  # both's
    assert "1 seed " in f"{said} "  # neither's


def test_spikes_are_means_over_runs_and_what_is_infinite_is_reported(tmp_path: Path) -> None:
    fake_sweep(tmp_path, LOSSES)
    for seed in range(3):
        run = tmp_path / "softcap" / "both" / f"seed-{seed}"
        keep(run, "a", "stability", {"loss_spikes": seed, "largest_attention_logit": [10, 20, float("inf")][seed]})
        keep(run, "b", "stability", {"loss_spikes": 9, "largest_attention_logit": 9})
    keep(tmp_path / "softcap" / "neither" / "seed-1", "a", "stability", {"loss_spikes": 4})
    said = section(report(tmp_path, "softcap"), "stability")
    assert "both 3 finished 3 1.0 15.00; inf in seed 2" in said
    assert "neither 3 finished 3 4.0 (1 of 3)" in said


def test_a_cost_that_isnt_known_takes_no_seed_out_of_a_mean(tmp_path: Path) -> None:
    for order, (arm, memory) in enumerate({"a": [1e9, 1.1e9], "b": [2e9, None], "c": [None, None]}.items()):
        for seed, bytes_ in enumerate(memory):
            run = fake_run(tmp_path, arm, seed, order=order, baseline="a", loss=[2.0, 3.0][seed] + order)
            if bytes_:
                summary = json.loads((run.path / "summary.json").read_text())
                summary["costs"]["peak_memory_bytes"] = bytes_
                write_json(run.path / "summary.json", summary)
    said = section(report(tmp_path, "softcap"), "pareto")
    assert "Not drawn, because their peak memory of training is not known: b (1 of 2) and c." in said
    assert re.search(r"b, mean of 2: 3\.50* at 2\.00G", said)


def test_a_run_whose_state_is_damaged_keeps_its_evaluations(tmp_path: Path) -> None:
    fake_sweep(tmp_path, LOSSES)
    for arm in LOSSES:
        for seed in range(3):
            keep(tmp_path / "softcap" / arm / f"seed-{seed}", "context", "context", {}, [[8, 3.0], [16, 2.9]])
    (tmp_path / "softcap" / "both" / "seed-1" / "state.json").write_text("")
    page = report(tmp_path, "softcap")
    assert "without seed" not in section(page, "positions")
    assert "softcap/both/seed-1 : its state can’t be read" in section(page, "stability")


def test_native_kernels_are_named_by_their_builds_or_by_the_reason(tmp_path: Path) -> None:
    fake_sweep(tmp_path, LOSSES)
    run = tmp_path / "softcap" / "neither" / "seed-0" / "run.json"
    native = {"attention": {"key": "f" * 64, "compiler": "g++ 12"}, "norms": {"detail": "there is no <g++>"}}
    write_json(run, json.loads(run.read_text()) | {"provenance": {"native": native}})
    text = section(report(tmp_path, "softcap"), "reproducibility")
    (words,) = re.findall("native kernels (.*) compiled", text)
    assert words == f"attention {'f' * 16}, built by g++ 12; norms not available: there is no <g++>"


@pytest.mark.parametrize(
    "change",
    [
        {"provenance": {"commit": 5, "device": ["gpu"], "host": 7, "data": 3, "kernels": "sdpa"}},
        {"provenance": {"device": "cpu", "processes": "2", "threads": "many", "nodes": -1, "compile": {"a": 1}}},
        {"provenance": {"native": {"attention": {"key": 5}, "norms": "none", "mlp": {}}}},
        {"provenance": {"native": ["attention"]}},
        {"provenance": "none"},
        {"overrides": "seed=0", "experiment": 5},
        {"costs": {"parameters": "many", "flops_per_token": None}},
        {"axes": {"model/span": ["a", {"b": None}]}},
    ],
)
def test_whatever_a_run_recorded_is_read_or_left_out(tmp_path: Path, change: dict[str, Any]) -> None:
    fake_sweep(tmp_path, LOSSES)
    run = tmp_path / "softcap" / "neither" / "seed-0"
    write_json(run / "run.json", json.loads((run / "run.json").read_text()) | change)
    keep(run, "odd", "context", {"loss_spikes": "many"}, 5)
    keep(run, "odder", "stability", {"loss_spikes": True, "largest_attention_logit": "high"}, [[1], "x", None])
    assert section(report(tmp_path, "softcap"), "verdicts")


def test_a_page_takes_the_place_of_nothing_but_a_page(tmp_path: Path) -> None:
    from tests.comparison.test_report import ask

    root = tmp_path / "runs"
    fake_sweep(root, LOSSES)
    run = root / "softcap" / "both" / "seed-0" / "run.json"
    before = run.read_bytes()
    pipe = tmp_path / "pipe.html"
    os.mkfifo(pipe)
    for place in (run, pipe, tmp_path / f"{'x' * 300}.html", tmp_path):
        code, said = ask(root, "softcap", "--out", str(place))
        assert (code, said.count("\n")) == (2, 0)
        assert said.startswith(f"--out: {place}")
    assert run.read_bytes() == before
    assert pipe.is_fifo()
    page, link = tmp_path / "page.html", tmp_path / "link.html"
    link.symlink_to(page.name)
    for _ in range(2):
        assert ask(root, "softcap", "--out", str(link))[0] == 0
    assert link.is_symlink()
    assert page.read_bytes().startswith(b"<!DOCTYPE html>")


def test_compute_counts_the_runs_that_tuned(tmp_path: Path) -> None:
    tuned(tmp_path, GOOD, report=PICKED)
    said = section(report(tmp_path, "softcap"), "reproducibility")
    assert (
        "0.067 core-hours of training in 4 runs that ended; 81.9k tokens in addition, for tuning or left out: " in said
    )
    assert "in addition, for tuning or left out: 0.100 core-hours of training in 6 runs that ended; 123k tokens" in said
