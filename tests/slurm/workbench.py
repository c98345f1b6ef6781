"""A working folder with an experiment that trains as slowly as a test likes, and `lab` run in it as a person would.

The experiment's only peculiarity is an MLP that sleeps before it computes, for as long as a file says. So a run can be
hit in the middle on a machine of any speed, goes to its end at once when the file is gone, and has the same identity
and the same numbers at every pace.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.slurm.process import PATIENCE

REPOSITORY = Path(__file__).parents[2]
STEPS = 48
ARM = "paced"

COMPONENT = '''
import os, time
from pathlib import Path

import torch
from components.mlp import GEGLU
from components.registry import register


def pause(place):
    # One byte a layer and step of training, by process: what was computed, whether or not it was kept.
    with open(place / "trained" / str(os.getpid()), "ab") as file:
        file.write(b".")
    try:
        seconds = float((place / "pace").read_text())
    except FileNotFoundError:
        return
    time.sleep(seconds / 2)  # two layers


@register("paced", version=1)
class Paced(GEGLU):
    """GEGLU, as slow as LAB_TEST_BENCH/pace says, in seconds a step."""

    def inner(self, *projected):
        if torch.is_grad_enabled() and "LAB_TEST_BENCH" in os.environ:
            pause(Path(os.environ["LAB_TEST_BENCH"]))
        return super().inner(*projected)
'''

EXPERIMENT = f"""
defaults: [gemma2_tiny, override model/mlp: paced, override data/corpus: files, _self_]
model: {{n_layers: 2, d_model: 32, mlp: {{d_ff: 64}}, heads: {{n_heads: 2, n_kv_heads: 1, head_dim: 16}}}}
train: {{tokens: {STEPS * 128}, context: 32, global_batch: 4, log_every: 1, accelerator: cpu, checkpoint_minutes: 0.02}}
validation: {{every: 2048, tokens: 256}}
schedule: {{warmup_tokens: 512}}
data: {{corpus: {{paths: [TEXT]}}}}
"""

SWEEP = f"""
question: Does it come through?
experiment: paced
seeds: SEEDS
arms: {{{ARM}: {{}}}}
metrics: [val/loss]
"""


class Workbench:
    """A working folder, its run root, and the `lab` command in it.

    Attributes:
        root: of the runs.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], *, root: Path | None = None) -> None:
        """
        Args:
            folder: new, or empty; every workbench of a session has the same files in it.
            environment: where `lab` finds the cluster.
            root: of the runs; by default in the folder.
        """
        self.folder = folder
        self.root = root or folder / "runs"
        self._pace = folder / "pace"
        self._environment = {
            **environment,
            "LAB_CACHE": str(folder.parent / "cache"),  # of the session: the text is encoded once
            "LAB_ROOT": str(self.root),
            "LAB_TEST_BENCH": str(folder),
            "XDG_CONFIG_HOME": str(folder / "config"),  # not the settings of whoever runs the tests
            "OMP_NUM_THREADS": "1",
        }
        (folder / "experiments").mkdir(parents=True)
        (folder / "sweeps").mkdir()
        (folder / "trained").mkdir()
        text = folder.parent / "text.jsonl"
        text.write_text("\n".join(json.dumps({"text": f"The square of {n} is {n * n}. " * 4}) for n in range(300)))
        (folder / "lab_components.py").write_text(COMPONENT)
        (folder / "experiments" / "paced.yaml").write_text(EXPERIMENT.replace("TEXT", str(text)))

    def sweep(self, name: str, seeds: Sequence[int] = (0,), **overrides: Any) -> str:
        """Write a sweep of one arm; its name."""
        text = SWEEP.replace("SEEDS", json.dumps([*seeds])) + (
            f"overrides: {json.dumps(overrides)}\n" if overrides else ""
        )
        (self.folder / "sweeps" / f"{name}.yaml").write_text(text)
        return name

    def pace(self, seconds: float | None) -> None:
        """Let each step of every run take so long from now on; None: as long as it takes."""
        if seconds is None:
            self._pace.unlink(missing_ok=True)
        else:
            part = self._pace.with_suffix(".part")
            part.write_text(str(seconds))
            part.replace(self._pace)

    def run(self, sweep: str, seed: int = 0) -> Path:
        """The folder of one run of a sweep."""
        return self.root / sweep / ARM / f"seed-{seed}"

    def trained(self, run: Path) -> list[int]:
        """How many steps each attempt at a run has computed; only of runs with a worker of their own."""
        pids = re.findall(r"attempt \d+ on .*, process (\d+)", (run / "log.txt").read_text())
        return [(self.folder / "trained" / pid).stat().st_size // 2 for pid in pids]

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "lab.cli.main", *arguments]

    def start(self, *arguments: str, more: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """`lab` in the working folder; `more` goes into its environment."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env={**self.environment(), **(more or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def lab(
        self, *arguments: str, code: int | None = 0, seconds: float = PATIENCE, more: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `lab` to its end, which must have this exit code (None: any)."""
        with self.start(*arguments, more=more) as process:
            try:
                out, err = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        done = subprocess.CompletedProcess(arguments, process.returncode, out, err)
        assert code is None or done.returncode == code, f"lab {' '.join(arguments)}: {done.returncode}\n{out}{err}"
        return done

    def submit(self, sweep: str, *settings: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Send a sweep to the cluster."""
        return self.lab("submit", sweep, *slurm(*settings), code=code)

    def status(self, *sweep: str) -> dict[str, Any]:
        """What `lab status --json` prints, of one sweep or of all."""
        shown: dict[str, Any] = json.loads(self.lab("status", *sweep, "--json").stdout)
        return shown

    def environment(self) -> dict[str, str]:
        """Of `lab`: this session's lab and no other, in this folder's cache and root."""
        paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {**os.environ, **self._environment, "PYTHONPATH": os.pathsep.join(paths)}


def slurm(*settings: str) -> list[str]:
    """Options that send a sweep to the cluster, with the launcher's settings: slurm("partition=scavenge")."""
    given = {"time": "20", "signal_seconds": "20"} | dict(each.split("=", 1) for each in settings)
    return ["--on", "slurm", *(f"launcher.{key}={value}" for key, value in given.items())]
