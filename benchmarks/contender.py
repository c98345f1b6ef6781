"""One contender of a benchmark, in a process of its own: it takes a step whenever it is told to, and says how long.

Contenders then take their steps in turn, so that whatever else the machine does meets them all alike. Needs torch only,
since other libraries' contenders run in an environment without the lab.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch


def options(description: str) -> argparse.ArgumentParser:
    """What every contender is told on its command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("name")
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    return parser


def serve(step: Callable[[], object], clock: str, facts: dict[str, object]) -> None:
    """Take one step to warm up, then one for every line on standard input; answer each with a line of JSON.

    The first answer has `first` (its seconds) and `facts`, the others `seconds`; all have `peak`, the most bytes that
    the process has held.
    """
    now = time.perf_counter if clock == "wall" else time.process_time
    answer = sys.stdout
    sys.stdout = sys.stderr  # a library that prints must not be taken for an answer

    def timed() -> float:
        start = now()
        step()
        return now() - start

    print(json.dumps({"first": timed(), "peak": _peak(), "facts": facts}), file=answer, flush=True)
    for _ in sys.stdin:
        print(json.dumps({"seconds": timed(), "peak": _peak()}), file=answer, flush=True)


def setup(threads: int) -> None:
    """Threads, and the same weights and tokens every time."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)


def _peak() -> int:
    found = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[0]) * 1024
