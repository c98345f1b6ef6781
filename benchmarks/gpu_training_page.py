"""The page benchmarks/gpu_training.md, from the measurements of gpu_training.py."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

import page
import torch

from lab.accounting.conventions import conventions
from lab.accounting.costs import costs
from lab.accounting.peaks import peak
from lab.accounting.utilization import Utilization

TITLE = "# Training a 1B Gemma-2-shaped model on a CUDA device"
NOT_MEASURED = (
    f"{TITLE}\n\nNot yet measured: no CUDA device was at hand. `python benchmarks/gpu_training.py` on a machine with "
    "one\nmeasures and writes this page.\n"
)
MFU_AIM, SPEED_AIM = 0.45, 1.3
HEAD = ["implementation", "sequences", "tokens/s", "MFU", "peak GiB", ""]

Results = Mapping[tuple[str, int], Mapping[str, Any]]
"""Measurements by implementation and context."""


def report(shape: Any, results: Results, *, tiny: bool) -> str:
    """The results as Markdown.

    Args:
        shape: `gpu_training.Shape`.
        tiny: only a trial of the script: a CPU, and a model too small to say anything.
    """
    architecture = shape.architecture()
    contexts = list(dict.fromkeys(context for _, context in results))
    device = torch.device("cpu" if tiny else "cuda")
    lines = [TITLE, "", _setting(architecture, shape, device, tiny), ""]
    rate = peak(device, torch.bfloat16)
    lines += [f"Peak: {rate.basis}." if rate.flops_per_second else f"No MFU: {rate.basis}.", ""]
    for context in contexts:
        rows = {name: result for (name, at), result in results.items() if at == context and name != "kernels"}
        counted = conventions(architecture, context)
        use = Utilization(costs(architecture, context).flops_per_token, rate)
        lines += [
            f"## T = {context:,}",
            "",
            f"{counted['visible'] / 1e9:.3g} GFLOPs a token with the pairs that attention sees, "
            f"{counted['square'] / 1e9:.3g} with all T²; MFU is of the first.",
            "",
            page.table(HEAD, [_row(name, result, use) for name, result in rows.items()]),
            "",
            *_against(rows, use),
        ]
        if ("kernels", context) in results:
            lines += [*_kernels(results["kernels", context], shape), ""]
    return "\n".join(lines)


def _setting(architecture: Any, shape: Any, device: torch.device, tiny: bool) -> str:
    name = "a CPU, a trial of the script with a tiny shape" if tiny else torch.cuda.get_device_name(device)
    cuda = f", CUDA {torch.version.cuda}" if torch.version.cuda else ""
    return (
        f"{page.command('gpu_training.py')}: {name}, transformers {metadata.version('transformers')}{cuda}. "
        f"{costs(architecture, 1).parameters:,} parameters: {shape.n_layers} layers, d_model {shape.d_model}, "
        f"{shape.n_heads} heads over {shape.n_kv_heads} of {shape.head_dim}, d_ff {shape.d_ff}, vocabulary "
        f"{shape.vocab_size:,}, window {shape.window:,} in every second layer, caps 50 and 30; bf16 autocast over fp32 "
        f"weights, AdamW.\n\n{page.machine()}"
    )


def _row(name: str, result: Mapping[str, Any], use: Utilization) -> list[object]:
    if "problem" in result:
        return [name, "–", "–", "–", "–", result["problem"]]
    mfu = use.mfu(result["tokens_per_second"])
    memory = "–" if result["memory"] is None else f"{result['memory'] / 2**30:.1f}"
    share = "–" if mfu is None else f"{mfu:.1%}"
    return [name, result["batch"], f"{result['tokens_per_second']:,.0f}", share, memory, result["note"]]


def _against(rows: Mapping[str, Mapping[str, Any]], use: Utilization) -> list[str]:
    """The lab's best beside Hugging Face's best that computes the same function."""
    done = {name: result for name, result in rows.items() if "problem" not in result}
    sizes = {result["parameters"] for result in done.values()}
    if len(sizes) > 1:
        raise ValueError(f"the implementations are not the same model: {sorted(sizes)} parameters")
    own = {name: result["tokens_per_second"] for name, result in done.items() if name.startswith("lab")}
    peers = {name: result for name, result in done.items() if name.startswith("hf") and result["same"]}
    theirs = {name: result["tokens_per_second"] for name, result in peers.items()}
    if not own or not theirs:
        return []
    best, other = max(own, key=own.__getitem__), max(theirs, key=theirs.__getitem__)
    times = own[best] / theirs[other]
    mfu = use.mfu(own[best])
    reached = "" if mfu is None else f" MFU {mfu:.1%} (aim: {MFU_AIM:.0%}, {page.verdict(mfu >= MFU_AIM)});"
    return [f"{best}:{reached} {times:.2f} × {other} (aim: {SPEED_AIM} ×, {page.verdict(times >= SPEED_AIM)}).", ""]


def _kernels(results: Mapping[str, Any], shape: Any) -> list[str]:
    """Milliseconds of every kernel, by spec."""
    if "problem" in results:
        return [f"Kernels: {results['problem']}"]
    rows: dict[str, dict[str, str]] = results["kernels"]
    names = [name for name in next(iter(rows.values())) if name != "chosen"]
    cells = {
        spec: [f"{row[name]}*" if name == row["chosen"] else row[name] for name in names] for spec, row in rows.items()
    }
    return [
        f"Attention alone, one sequence, {shape.n_heads} heads over {shape.n_kv_heads} of {shape.head_dim}, bf16: ms "
        "forward + backward; * is what `auto` chooses.",
        "",
        page.table(["", *names], [[spec, *cells[spec]] for spec in rows]),
    ]
