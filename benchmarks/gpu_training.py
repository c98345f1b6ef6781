"""MFU of training a 1B model of Gemma 2's shape in bf16 on a CUDA device: the lab, Hugging Face, attention kernels.

python benchmarks/gpu_training.py                       # on a machine with a CUDA device
python benchmarks/gpu_training.py --tiny --out -        # a trial of the script, on a CPU and in a minute

The lab trains its model in its own loop, as in a run: with clipping, AdamW and its promise of determinism. A plain loop
with autocast, fused AdamW and clipping trains Hugging Face's model, in all of its attention implementations, with and
without torch.compile. The page marks an implementation that computes another function, or that doesn't run. Every
implementation has a separate process and the largest batch that fits. The results are in benchmarks/gpu_training.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import page

SCRIPT = Path(__file__).resolve()
sys.path.insert(0, str(SCRIPT.parent.parent))  # so that it runs from a checkout that isn't installed
IMPLEMENTATIONS = {
    "lab": "",
    "lab-compiled": "",
    "hf-eager": "eager",
    "hf-eager-compiled": "eager",
    "hf-sdpa": "sdpa",
    "hf-sdpa-compiled": "sdpa",
    "hf-flex": "flex_attention",
    "hf-flex-compiled": "flex_attention",
    "hf-flash": "flash_attention_2",
    "hf-flash-compiled": "flash_attention_2",
}


@dataclass(frozen=True)
class Shape:
    """The sizes of a model with the parts of Gemma 2; what isn't listed is as in Gemma 2 2B."""

    vocab_size: int = 256_000
    d_model: int = 1536
    n_layers: int = 16
    n_heads: int = 8
    n_kv_heads: int = 4
    head_dim: int = 256
    d_ff: int = 6144
    window: int = 4096

    def architecture(self) -> Any:
        """The architecture in the lab."""
        from lab.composition.compose import compose

        heads = {"n_heads": self.n_heads, "n_kv_heads": self.n_kv_heads, "head_dim": self.head_dim}
        options = {"vocab_size": self.vocab_size, "d_model": self.d_model, "n_layers": self.n_layers}
        heads["query_pre_attn_scalar"] = self.head_dim
        options |= {f"heads.{name}": value for name, value in heads.items()}
        options |= {"mlp.d_ff": self.d_ff, "span.window": self.window}
        overrides = ["model=gemma2_2b", *(f"model.{name}={value}" for name, value in options.items())]
        return compose("gemma2_tiny", overrides).experiment.model

    def config(self, attention: str, **changes: Any) -> Any:
        """The configuration in transformers."""
        from transformers import Gemma2Config

        own = {
            "vocab_size": self.vocab_size,
            "hidden_size": self.d_model,
            "intermediate_size": self.d_ff,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.head_dim,
            "query_pre_attn_scalar": self.head_dim,
            "sliding_window": self.window,
            "max_position_embeddings": 32_768,
            "attn_implementation": attention,
        }
        return Gemma2Config(**(own | changes))


TINY = Shape(vocab_size=512, d_model=32, n_layers=2, n_heads=2, n_kv_heads=1, head_dim=16, d_ff=64, window=16)


@dataclass(frozen=True)
class Task:
    """The measurement of one process."""

    implementation: str
    shape: Shape
    context: int
    batches: tuple[int, ...]
    steps: int
    device: str


def lab(task: Task, batch: int) -> dict[str, Any]:
    """Train with the lab: speed, memory and kernels."""
    from components.decoder import Decoder
    from lab.training.fit import Procedure, fit
    from lab.training.optimizers.optimizer import AdamW
    from lab.training.optimizers.schedule import Cosine
    from lab.training.options import Train, Validation
    from lab.training.progress.stopwatch import UNMEASURED_STEPS

    steps, context = UNMEASURED_STEPS + task.steps, task.context
    procedure = Procedure(
        train=Train(
            tokens=steps * batch * context,
            context=context,
            global_batch=batch,
            precision="bf16-mixed",
            accelerator="cuda" if task.device == "cuda" else "cpu",
            compile="on" if task.implementation == "lab-compiled" else "off",
        ),
        validation=Validation(tokens=context),
        optimizer=AdamW(lr=1e-5),
        schedule=Cosine(warmup_tokens=0),
        seed=0,
        data_seed=0,
    )
    model = Decoder.initialized(task.shape.architecture(), seed=0)
    with tempfile.TemporaryDirectory(prefix="lab-gpu-") as folder:
        text = RandomText(task.shape.vocab_size, (steps * batch + 1) * (context + 1), context + 1)
        summary = fit(model, text, procedure, Path(folder) / "run").summary.as_json()
    kernels = ", ".join(f"{kind}: {kernel}" for kind, kernel in summary["provenance"]["kernels"].items())
    return {"tokens_per_second": summary["costs"]["tokens_per_second"], "note": kernels} | _of(model)


class RandomText:
    """Random tokens, with the interface of a text."""

    def __init__(self, vocab_size: int, train: int, validation: int) -> None:
        import numpy as np

        draw = np.random.default_rng(0)
        self.train, self.validation = (draw.integers(0, vocab_size, n).astype(np.uint32) for n in (train, validation))
        self.digest, self.validation_bytes, self.unigram_loss, self.separator = "random", validation, 0.0, 0
        self.validation_targets, self.bos = validation, None
        self.part_digests: dict[str, str] = {}
        self.left_out: dict[str, int] = {}


def hugging_face(task: Task, batch: int) -> dict[str, Any]:
    """Train Hugging Face's model in a plain loop: speed and memory."""
    import torch
    from transformers import Gemma2ForCausalLM

    from lab.training.progress.stopwatch import UNMEASURED_STEPS

    attention = IMPLEMENTATIONS[task.implementation]
    different = _difference(attention, task.device)
    with torch.device(task.device):
        model = Gemma2ForCausalLM(task.shape.config(attention))
    forward = torch.compile(model) if task.implementation.endswith("-compiled") else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    finish: Callable[[], None] = torch.cuda.synchronize if task.device == "cuda" else lambda: None
    seconds = 0.0
    for step in range(UNMEASURED_STEPS + task.steps):
        tokens = torch.randint(0, task.shape.vocab_size, (batch, task.context)).to(task.device)
        finish()
        start = time.perf_counter()
        with torch.autocast(task.device, torch.bfloat16):
            loss = forward(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        finish()
        seconds += time.perf_counter() - start if step >= UNMEASURED_STEPS else 0.0
    speed = task.steps * batch * task.context / seconds
    note = "" if different < 1e-2 else f"another function: logits {different:.0%} off eager's where the cap bites"
    return {"tokens_per_second": speed, "note": note, "same": not note} | _of(model)


def _difference(attention: str, device: str) -> float:
    """The largest relative difference from the logits of `eager`, on a text where caps and windows matter."""
    import torch
    from transformers import Gemma2ForCausalLM

    if attention == "eager":
        return 0.0
    dtype = torch.bfloat16 if attention == "flash_attention_2" else torch.float32
    tokens = torch.randint(0, TINY.vocab_size, (1, 128), generator=torch.Generator().manual_seed(0)).to(device)
    results = []
    for kind in ("eager", attention):
        torch.manual_seed(0)
        config = TINY.config(kind, head_dim=64, attn_logit_softcapping=1.0, initializer_range=0.3)
        model = Gemma2ForCausalLM(config).to(device, dtype).eval()
        with torch.no_grad():
            results.append(model(input_ids=tokens, use_cache=False).logits.float())
    # bf16 rounds each of them by itself.
    slack = 5e-2 if dtype == torch.bfloat16 else 0.0
    return max(0.0, float((results[1] - results[0]).norm() / results[0].norm()) - slack)


def _of(model: Any) -> dict[str, Any]:
    import torch

    memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return {"parameters": sum(parameter.numel() for parameter in model.parameters()), "memory": memory}


def measure(task: Task) -> dict[str, Any]:
    """Measure an implementation with the largest batch that fits. The result may be why it can't be measured."""
    import gc

    import torch

    if task.implementation == "kernels":
        return kernels(task)
    run = lab if task.implementation.startswith("lab") else hugging_face
    for batch in task.batches:
        try:
            return {"batch": batch} | run(task, batch)
        except torch.OutOfMemoryError:
            pass
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return {"problem": f"out of memory with {task.batches[-1]} sequence{'s' if task.batches[-1] > 1 else ''}"}


def kernels(task: Task) -> dict[str, Any]:
    """Spec → kernel → milliseconds of a forward and backward pass over one layer's attention."""
    import torch

    from components.attention.kernels import KERNELS, choose
    from components.attention.spec import AttentionInputs, AttentionSpec

    shape, finish = task.shape, torch.cuda.synchronize if task.device == "cuda" else lambda: None
    draw = torch.Generator(task.device).manual_seed(0)

    def random_heads(heads: int) -> torch.Tensor:
        x = torch.randn(1, task.context, heads, shape.head_dim, generator=draw, device=task.device)
        return x.bfloat16().transpose(1, 2).requires_grad_()

    inputs = AttentionInputs(
        random_heads(shape.n_heads), random_heads(shape.n_kv_heads), random_heads(shape.n_kv_heads)
    )
    leaves, results = (inputs.q, inputs.k, inputs.v), {}
    for cap in (None, 50.0):
        for window in (None, task.context // 4):
            spec = AttentionSpec(scale=shape.head_dim**-0.5, window=window, softcap=cap)
            row = {"chosen": choose(spec, inputs).name}
            for name, kernel in KERNELS.items():
                if kernel.refusal(spec, inputs) is not None:
                    row[name] = "refuses"
                    continue
                seconds = []
                try:
                    for _ in range(3 + task.steps):
                        finish()
                        start = time.perf_counter()
                        out = kernel.attend(spec, inputs)
                        torch.autograd.grad(out, leaves, torch.ones_like(out))
                        finish()
                        seconds.append(time.perf_counter() - start)
                    row[name] = f"{min(seconds[3:]) * 1000:.2f}"
                except (RuntimeError, NotImplementedError) as error:
                    row[name] = type(error).__name__
            results[f"cap {cap or 'none'}, window {window or 'none'}"] = row
    return {"kernels": results}


def in_child(task: Task) -> dict[str, Any]:
    """Run `measure` in a separate process."""
    command = [sys.executable, str(SCRIPT), "--task", json.dumps(asdict(task))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        results: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return results
    error_lines = [line for line in done.stderr.splitlines() if line.strip()]
    return {"problem": error_lines[-1][:160] if error_lines else f"ended with {done.returncode}"}


@click.command(context_settings={"show_default": True})
@click.option("--contexts", default="4096,8192", type=page.Numbers(), help="Tokens of a sequence.")
@click.option(
    "--batches",
    default="8,4,2,1",
    type=page.Numbers(),
    help="Sequences of a step: the first that fits in memory is measured.",
)
@click.option("--steps", default=10, help="Measured steps, after those in which everything settles.")
@click.option("--only", default=",".join([*IMPLEMENTATIONS, "kernels"]), help="What to measure.")
@click.option("--tiny", is_flag=True, help="A tiny shape on the CPU: shows that the script works and measures nothing.")
@page.out_option(__file__)
@click.option("--task", hidden=True, help="The script calls itself so.")
def main(
    contexts: list[int], batches: list[int], steps: int, only: str, tiny: bool, out: str, task: str | None
) -> None:
    """Measure, print the page and write it. Without a CUDA device, nothing is measured."""
    if task is not None:
        given = json.loads(task)
        task_spec = Task(**(given | {"shape": Shape(**given["shape"]), "batches": tuple(given["batches"])}))
        click.echo(json.dumps(measure(task_spec)))
        return
    names = only.split(",")
    unknown = [name for name in names if name not in (*IMPLEMENTATIONS, "kernels")]
    if unknown:
        raise click.BadParameter(f"'{unknown[0]}' is none of {', '.join([*IMPLEMENTATIONS, 'kernels'])}")
    import gpu_training_page
    import torch

    if not tiny and not torch.cuda.is_available():
        click.echo("no CUDA device here: not measured (--tiny tries the script on the CPU)")
        if out != "-" and not Path(out).exists():
            Path(out).write_text(gpu_training_page.NOT_MEASURED, encoding="utf-8")
        return
    shape = TINY if tiny else Shape()
    sizes, lengths = ((2, 1), [64]) if tiny else (tuple(batches), contexts)
    results: dict[tuple[str, int], dict[str, Any]] = {}
    for context in lengths:
        for name in names:
            task_spec = Task(name, shape, context, sizes, 2 if tiny else steps, "cpu" if tiny else "cuda")
            results[name, context] = in_child(task_spec)
            summary = {key: value for key, value in results[name, context].items() if key != "kernels"}
            click.echo(f"{name}, {context}: {summary or 'done'}", err=True)
    page.keep(gpu_training_page.report(shape, results, tiny=tiny), out)


if __name__ == "__main__":
    main()
