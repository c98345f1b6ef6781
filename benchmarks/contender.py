"""One contender of a benchmark, in a separate process: it takes a step on request, and reports the time.

The contenders take their steps in turn, so that other work on the machine affects them equally. This module needs torch
only, since the contenders of other libraries run in an environment without the lab.
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
    """The parser of a contender's command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("name")
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    return parser


def serve(step: Callable[[], object], clock: str, facts: dict[str, object]) -> None:
    """Take one step to warm up, then one for every line on standard input; answer each with a line of JSON.

    The first answer has `first` (its seconds) and `facts`, the others `seconds`; all have `peak`, the peak memory of
    the process in bytes.
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
    """Set the number of threads, and the seed of the weights and tokens."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)


def _peak() -> int:
    matches = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(matches[0]) * 1024
