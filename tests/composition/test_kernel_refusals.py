"""A kernel asked for by name that can't train a model is refused before anything runs, with its reason."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from components.attention.kernels import KERNELS, names
from lab.composition.compose import compose
from lab.refusals import RequestError

CPU = "train.accelerator=cpu"
CUDA = "train.accelerator=cuda"  # refusals need no device

REFUSED = [
    ("sdpa", [CPU], "sdpa refuses the local layers: softcap = 50"),
    ("sdpa", [CUDA], "sdpa refuses the local layers: softcap = 50"),
    ("sdpa", [CPU, "model/softcap=none", "model.heads.sinks=true"], "sdpa refuses the local layers: sinks"),
    ("native", [CUDA], "native refuses the local layers: device = cuda"),
    ("flex", [CPU], "flex refuses the local layers: training on cpu: it has no backward pass there"),
    ("flex", [CUDA, "model.heads.head_dim=8"], "flex refuses the local layers: head_dim = 8"),
    ("xformers", [CPU], "xformers refuses the local layers: device = cpu"),
    ("xformers", [CUDA], "xformers refuses the local layers: softcap = 50"),
    ("xformers", [CUDA, "model/softcap=none", "model/position=alibi"], "xformers refuses the local layers: alibi"),
]


@pytest.fixture(autouse=True)
def _a_toolchain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.attention.kernels.flex.toolchain_missing", lambda device: None)
    monkeypatch.setattr("components.attention.kernels.xformers._absent", lambda: False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.mark.parametrize(("kernel", "overrides", "message"), REFUSED)
def test_a_kernel_that_cannot_train_a_model_is_refused(kernel: str, overrides: list[str], message: str) -> None:
    with pytest.raises(RequestError) as refused:
        compose("gemma2_tiny", [f"train.kernel={kernel}", *overrides])
    assert f"train.kernel: {message}" in str(refused.value)


HONOURED = [
    ("auto", [CPU]),
    ("native", [CPU]),
    ("native", [CPU, "train.precision=bf16-mixed", "train.mask_documents=true", "model.heads.sinks=true"]),
    ("blockwise", [CPU]),
    ("reference", [CPU]),
    ("sdpa", [CPU, "model/softcap=none"]),
    ("flex", [CUDA]),
    ("flex", [CUDA, "model.heads.sinks=true", "train.mask_documents=true", "train.precision=bf16-mixed"]),
    ("xformers", [CUDA, "model/softcap=none", "train.mask_documents=true"]),
]


@pytest.mark.parametrize(("kernel", "overrides"), HONOURED)
def test_a_kernel_that_can_train_every_layer_is_accepted(kernel: str, overrides: list[str]) -> None:
    assert compose("gemma2_tiny", [f"train.kernel={kernel}", *overrides]).experiment.train.kernel == kernel


def test_every_kernel_has_a_refused_and_an_accepted_case_unless_it_trains_everything() -> None:
    assert {kernel for kernel, _ in HONOURED} == set(names())
    assert {kernel for kernel, _, _ in REFUSED} | {"blockwise", "reference"} == set(KERNELS)


def test_the_accelerator_left_to_the_machine_is_this_machines_and_the_other_is_named() -> None:
    hint = "for a run on a CUDA device, set train.accelerator=cuda"
    with pytest.raises(RequestError, match=hint):
        compose("gemma2_tiny", ["train.kernel=flex"])
    with pytest.raises(RequestError) as refused:
        compose("gemma2_tiny", ["train.kernel=xformers"])  # has no soft-cap anywhere
    assert hint not in str(refused.value)


@pytest.mark.parametrize(("given", "meant"), [("flx", "flex"), ("xformer", "xformers"), ("sdp", "sdpa")])
def test_a_misspelt_kernel_is_answered_with_the_nearest(given: str, meant: str) -> None:
    with pytest.raises(RequestError, match=f"no attention kernel is called '{given}'; did you mean '{meant}'"):
        compose("gemma2_tiny", [f"train.kernel={given}"])


@pytest.mark.parametrize("command", [["plan", "quickstart"], ["train", "gemma2_tiny"]])
def test_the_commands_exit_with_2_and_create_nothing(command: list[str], tmp_path: Path) -> None:
    run = [sys.executable, "-m", "lab.cli.main", *command, "train.kernel=sdpa"]
    done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "train.kernel: sdpa refuses the local layers: softcap = 50" in done.stderr
    assert not any(tmp_path.iterdir())
