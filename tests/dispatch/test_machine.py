"""Workers share the machine that is there, not the one that the operating system boasts of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab.dispatch.launchers.local import machine
from lab.dispatch.launchers.local.machine import MachineShare, divide_machine


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_cores", lambda: 8)


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("runs", "options", "expected"),
    [
        (100, {}, MachineShare(8, 1)),
        (3, {}, MachineShare(3, 2)),
        (1, {}, MachineShare(1, 8)),
        (0, {}, MachineShare(1, 8)),
        (100, {"max_parallel": 2}, MachineShare(2, 4)),
        (100, {"max_parallel": 16}, MachineShare(16, 1)),
        (100, {"threads": 4}, MachineShare(2, 4)),
        (100, {"threads": 16}, MachineShare(1, 16)),
        (100, {"max_parallel": 3, "threads": 1}, MachineShare(3, 1)),
        (100, {"gpus": ("0", "1")}, MachineShare(2, 4, ("0", "1"))),
        (100, {"gpus": ("0", "1"), "max_parallel": 4}, MachineShare(4, 2, ("0", "1"))),
    ],
)
def test_cores_and_gpus_are_divided(runs: int, options: dict[str, int], expected: MachineShare) -> None:
    assert divide_machine(runs, **options) == expected  # type: ignore[arg-type]


def test_workers_take_gpus_in_turn() -> None:
    plan = MachineShare(3, 2, ("4", "7"))
    assert [plan.environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(3)] == ["4", "7", "4"]
    assert plan.environment(0)["OMP_NUM_THREADS"] == "2"
    assert "CUDA_VISIBLE_DEVICES" not in MachineShare(1, 1).environment(0)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no affinity")
def test_cores_that_the_process_may_not_use_do_not_count() -> None:
    first = min(os.sched_getaffinity(0))
    script = (
        f"import os; os.sched_setaffinity(0, [{first}]); "
        "from lab.dispatch.launchers.local.machine import available_cores; print(available_cores())"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "1\n"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_a_containers_quota_is_read(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert machine._cgroup_quota(tmp_path) == quota


@pytest.mark.parametrize(
    ("visible", "found"), [("", ()), ("-1", ()), ("0", ("0",)), ("2, 3", ("2", "3")), ("MIG-ab", ("MIG-ab",))]
)
def test_gpus_hidden_by_the_environment_do_not_count(
    monkeypatch: pytest.MonkeyPatch, visible: str, found: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.available_gpus() == found
