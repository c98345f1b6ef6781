"""Peaks: never another device's, dense, the vendors'; and a CPU's as it is measured once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.fabric.utilities.throughput import _CUDA_FLOPS

from lab.accounting import peaks
from lab.accounting.peaks import Peak, measured, published
from lab.accounting.utilization import Utilization

ENTRIES: list[dict[str, Any]] = yaml.safe_load(peaks.TABLE.read_text())


@pytest.mark.parametrize("name", ["NVIDIA H100 80GB HBM3", "NVIDIA H200", "NVIDIA A100-SXM4-80GB", "NVIDIA L4"])
def test_a_known_device_has_its_peak_and_where_it_is_from(name: str) -> None:
    found = published(name, "bfloat16")
    assert found.flops_per_second is not None
    assert "data sheet" in found.basis or "Architecture" in found.basis
    assert f"{found.flops_per_second / 1e12:g} TFLOP/s dense in bfloat16" in found.basis


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA H20",
        "NVIDIA A10G",
        "NVIDIA A100",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "nvidia h100 pcie",
        "",
    ],
)
def test_a_device_that_is_merely_called_alike_is_unknown(name: str) -> None:
    found = published(name, "bfloat16")
    assert found == Peak(None, f"no peak is known for the device '{name}' (lab/accounting/peaks.yaml)")


def test_a_dtype_that_a_device_lacks_is_unknown() -> None:
    assert published("Tesla T4", "bfloat16").flops_per_second is None
    assert "no known peak in bfloat16" in published("Tesla T4", "bfloat16").basis
    assert published("Tesla T4", "float16").flops_per_second == 65e12


@pytest.mark.parametrize(
    ("name", "other", "dtypes"),
    [
        ("NVIDIA H100 80GB HBM3", "h100 sxm", ["float32", "tf32", "bfloat16", "float16"]),
        ("NVIDIA H100 PCIe", "h100 pcie", ["float32", "tf32", "bfloat16", "float16"]),
        ("NVIDIA A100-PCIE-40GB", "a100", ["float32", "tf32", "bfloat16", "float16"]),
        ("NVIDIA L4", "l4", ["float32", "tf32", "bfloat16", "float16"]),
        ("NVIDIA L40", "l40", ["float32", "tf32", "bfloat16", "float16"]),
        ("NVIDIA A10", "a10g", ["float32", "tf32", "bfloat16", "float16"]),  # its source is the A10's data sheet
        ("NVIDIA A40", "a40", ["float32", "tf32"]),
        ("NVIDIA GeForce RTX 4090", "rtx 4090", ["float32", "tf32"]),
        ("NVIDIA GeForce RTX 3090", "rtx 3090", ["float32", "tf32"]),
        ("Tesla V100-SXM2-16GB", "v100 sxm", ["float32", "float16"]),
        ("Tesla V100-PCIE-16GB", "v100 pcie", ["float32", "float16"]),
        ("Tesla T4", "t4", ["float32", "float16"]),
    ],
)
def test_peaks_are_those_of_lightnings_table(name: str, other: str, dtypes: list[str]) -> None:
    """Apart from where it has rates with sparsity, of two cards, or of products outside of tensor cores."""
    for dtype in dtypes:
        theirs = _CUDA_FLOPS[other]["tfloat32" if dtype == "tf32" else getattr(torch, dtype)]
        assert published(name, dtype).flops_per_second == pytest.approx(theirs, rel=0.01)


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry["names"][0] for entry in ENTRIES])
def test_rates_of_a_device_are_all_dense(entry: dict[str, Any]) -> None:
    """Tensor cores do twice as many products in 16 bits as in tf32: one of the two with sparsity would show."""
    assert set(entry) <= {"names", "source", "bfloat16", "float16", "tf32", "float32"}
    assert entry.get("bfloat16", entry["float16"]) == entry["float16"]
    if "tf32" in entry:
        assert entry["bfloat16"] / entry["tf32"] == pytest.approx(2, rel=0.03)


def test_no_device_is_listed_twice() -> None:
    names = [name for entry in ENTRIES for name in entry["names"]]
    assert len(names) == len(set(names))


def test_fp32_products_run_on_tensor_cores_only_where_torch_was_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-40GB")
    device = torch.device("cuda", 0)
    assert peaks.peak(device, torch.float32).flops_per_second == 19.5e12
    assert peaks.peak(device, torch.bfloat16).flops_per_second == 312e12
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert peaks.peak(device, torch.float32).flops_per_second == 156e12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cpu_is_measured_once_and_draws_nothing_of_a_runs_random_numbers(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_rng_state()
    found = measured(dtype, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert found.flops_per_second is not None
    assert 1e7 < found.flops_per_second < 1e15
    assert str(dtype).removeprefix("torch.") in found.basis

    def measures(_: str) -> Peak:
        raise AssertionError("it is known")

    monkeypatch.setattr(peaks, "_measure", measures)
    peaks._measured.cache_clear()
    assert measured(dtype, tmp_path) == found


def test_the_rate_is_that_of_products_that_were_done() -> None:
    """In half a second or so nothing is done at twice the rate that was the best: the rate counts two FLOPs each."""
    import time

    found = peaks._measure("float32").flops_per_second
    assert found is not None
    a = torch.ones(512, 512)
    rates = []
    for _ in range(20):
        start = time.perf_counter()
        a @ a
        rates.append(2 * 512**3 / (time.perf_counter() - start))
    assert max(rates) < 5 * found


def test_the_peak_is_that_of_the_products_that_projections_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a slower product than the one in use, MFU would be too high: also beside one that is in the cache."""
    products: list[int] = []

    def counted(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        products.append(len(x))
        return x

    monkeypatch.setattr(peaks, "product", counted)
    monkeypatch.setattr(peaks, "SECONDS", 0.01)
    monkeypatch.setattr(peaks, "onednn_is_faster", lambda: False)
    measured(torch.float32, tmp_path)
    assert not products
    monkeypatch.setattr(peaks, "onednn_is_faster", lambda: True)
    peaks._measured.cache_clear()
    measured(torch.bfloat16, tmp_path)
    assert not products
    measured(torch.float32, tmp_path)
    assert products


@pytest.mark.parametrize("content", ["", "{", "[]", '{"flops_per_second": null, "basis": ""}', '{"flops": 1}'])
def test_a_damaged_cache_is_measured_again(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "_measure", lambda dtype: Peak(7e9, "now"))
    assert measured(torch.float32, tmp_path) == Peak(7e9, "now")
    (file,) = tmp_path.glob("*/*.json")
    file.write_text(content)
    peaks._measured.cache_clear()
    monkeypatch.setattr(peaks, "_measure", lambda dtype: Peak(8e9, "again"))
    assert measured(torch.float32, tmp_path) == Peak(8e9, "again")
    assert json.loads(file.read_text())["flops_per_second"] == 8e9


def test_other_threads_are_measured_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = iter([1e9, 2e9, 3e9])
    monkeypatch.setattr(peaks, "_measure", lambda dtype: Peak(next(rates), ""))
    assert measured(torch.float32, tmp_path).flops_per_second == 1e9
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert measured(torch.float32, tmp_path).flops_per_second == 2e9
    assert measured(torch.bfloat16, tmp_path).flops_per_second == 3e9


def test_a_cache_that_cannot_be_written_costs_nothing_but_the_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setattr(peaks, "_measure", lambda dtype: Peak(7e9, "now"))
    assert measured(torch.float32, tmp_path / "cache") == Peak(7e9, "now")


def test_utilization_is_the_share_of_all_devices_peaks() -> None:
    four = Utilization(2e9, Peak(1e12, "known"), devices=4)
    assert four.mfu(500.0) == 0.25
    assert four.mfu(None) is None
    assert four.facts() == {"peak_flops_per_second": 1e12, "peak_basis": "known"}
    unknown = Utilization(2e9, Peak(None, "why"))
    assert unknown.mfu(500.0) is None
    assert unknown.facts() == {"peak_flops_per_second": None, "peak_basis": "why"}
