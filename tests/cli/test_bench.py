"""`lab bench kernels` as a user types it: a table, JSON, refusals with their reasons, and an exit code that judges."""

from __future__ import annotations

import json
import re

import pytest
import torch
from click.testing import CliRunner

from components.attention.kernels import KERNELS
from lab.bench import atlas, ruler
from lab.bench.atlas import AtlasPlan, measure
from lab.bench.conformance import Shape
from lab.bench.typical import answers
from lab.cli.look.bench_command import command
from lab.refusals import RequestError

SMALL = ["kernels", "--quick", "--context", "48", "--heads", "4", "--head-dim", "16", "--accelerator", "cpu"]


def test_the_atlas_is_whole_and_every_cell_measured_or_refused() -> None:
    done = CliRunner().invoke(command, [*SMALL, "--json", "--dtype", "fp32", "--dtype", "bf16"], catch_exceptions=False)
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["shape"] == {"batch": 1, "heads": 4, "kv_heads": 2, "queries": 48, "head_dim": 16, "offset": 0}
    cells = found["cells"]
    assert {cell["kernel"] for cell in cells} == set(KERNELS)
    assert {cell["dtype"] for cell in cells} == {"float32", "bfloat16"}
    assert len(cells) == len({(c["spec"], c["kernel"], c["dtype"], c["direction"]) for c in cells})
    for cell in cells:
        if cell["refusal"] is None:
            assert cell["milliseconds"] > 0
            assert cell["peak_bytes"] > 0
            random = cell["spec"] == "dropout" and cell["direction"] == "training"
            assert cell["error"] is None if random else cell["error"] <= 1
        else:
            assert cell["kernel"] in ("sdpa", "flex", "xformers") or "dropout" in cell["refusal"]
    for spec in {cell["spec"] for cell in cells}:
        chosen = [cell for cell in cells if cell["spec"] == spec and cell["chosen"]]
        assert len(chosen) == len({(cell["dtype"], cell["direction"]) for cell in chosen}) > 0
        assert all(cell["refusal"] is None for cell in chosen)


def test_the_table_tells_each_reason_once_and_progress_goes_elsewhere() -> None:
    done = CliRunner().invoke(command, [*SMALL, "--kernel", "sdpa", "--kernel", "xformers"], catch_exceptions=False)
    assert "B=1 H=4 K=2 T=48 D=16, cpu" in done.stdout
    assert len(re.findall(r"^\[\d\] softcap = 5: torch's fused attention", done.stdout, re.MULTILINE)) == 1
    assert len(re.findall(r"^\[\d\] device = cpu: xformers", done.stdout, re.MULTILINE)) == 1
    assert "1 of 44: causal" in done.stderr
    assert "of 44" not in done.stdout


def test_a_kernel_that_computes_something_else_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = KERNELS["sdpa"].compute
    monkeypatch.setattr(KERNELS["sdpa"], "compute", lambda spec, inputs: honest(spec, inputs) * 1.01)
    done = CliRunner().invoke(command, [*SMALL, "--kernel", "sdpa", "--json"])
    assert done.exit_code == 1
    wrong = [cell for cell in json.loads(done.stdout)["cells"] if cell["wrong"]]
    assert {cell["spec"] for cell in wrong} >= {"causal", "window", "documents", "ALiBi"}


def test_a_kernel_that_breaks_is_a_failure_with_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(spec: object, inputs: object) -> None:
        raise RuntimeError("out of something\nand a long explanation")

    monkeypatch.setattr(KERNELS["sdpa"], "compute", broken)
    cells = list(measure(AtlasPlan(Shape(1, 2, 2, 16, 8), ["float32"], ["sdpa"], "cpu", repeats=1)))
    assert {cell.failure for cell in cells if cell.refusal is None} == {"RuntimeError: out of something"}
    assert all(cell.wrong for cell in cells if cell.refusal is None)


def test_scores_that_do_not_fit_are_left_out_with_both_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atlas, "_free_bytes", lambda device: 2**20)
    cells = list(measure(AtlasPlan(Shape(1, 8, 8, 256, 8), ["float32"], ["reference"], "cpu", repeats=1)))
    assert any("its scores need" in (cell.refusal or "") for cell in cells)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kernel", "blokwise"], "--kernel: no attention kernel is called 'blokwise'; did you mean 'blockwise'?"),
        (["--heads", "6", "--kv-heads", "4"], "--kv-heads: must divide the 6 query heads, got 4"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        CliRunner().invoke(command, ["kernels", *arguments], catch_exceptions=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_the_doctor_tells_accounts_for_every_kernel(dtype: torch.dtype) -> None:
    for entry in answers("cpu", dtype):
        choice = entry.choice
        assert {choice.kernel, *choice.others} == set(KERNELS)
        assert choice.refusals["xformers"].startswith("device = cpu")
        assert choice.kernel not in choice.refusals
        assert ("flex" in choice.refusals) == (not entry.spec.startswith("decoding"))


def test_the_ruler_counts_what_is_held_at_once() -> None:
    def work() -> torch.Tensor:
        first = torch.empty(1000, 1000)
        second = first + 1
        del first
        return second * 2

    assert ruler.peak_bytes(work, "cpu") == pytest.approx(8_000_000, rel=1e-3)
