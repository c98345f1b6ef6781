"""Tokens/s of generation on a CPU beside Hugging Face's `generate` with its cache, same weights, and the cache's bytes.

python benchmarks/decoding.py
python benchmarks/decoding.py --batches 1 --contexts 512 --out -

Both take greedy tokens after the same random prompts, one call after the other; a step's time is the median over the
tokens of a call, and of the calls the best counts. The model is imported from the folder that transformers writes. The
results are kept in benchmarks/decoding.md.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import click
import torch
import transformers
from torch import Tensor

from components.architecture import Architecture
from components.attention.heads import GQA, MHA, MQA, Heads
from components.attention.span import GlobalSpan, InterleavedSpan, Span
from components.decoder import Decoder
from components.generation import CachedForward, Sampling, continuations
from lab.accounting.cache import cache_bytes, cache_bytes_by_kind
from lab.interop.folder import import_folder

SCRIPT = Path(__file__).resolve()
BAR = 2.0
WINDOW, VOCAB, MOST_SCORES = 256, 1024, 1 << 28


def _numbers(_: click.Context, parameter: click.Parameter, value: str) -> list[int]:
    try:
        return [int(word) for word in value.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"expected numbers, separated by commas, got '{value}'") from error


@dataclass(frozen=True)
class Speed:
    """Of one call: seconds until its first token, and the median of those between its others."""

    first: float
    step: float
    tokens: list[list[int]]


@click.command(context_settings={"show_default": True})
@click.option("--batches", default="1,16", callback=_numbers, help="Prompts at once.")
@click.option("--contexts", default="512,1024,2048,4096", callback=_numbers, help="Tokens of each prompt.")
@click.option("--tokens", default=32, help="Tokens to generate.")
@click.option("--rounds", default=3, help="Calls of each, of which the best counts.")
@click.option("--d-model", default=256, help="Width of the model; d_ff is four times that.")
@click.option("--layers", default=6, help="Layers.")
@click.option("--threads", default=2, help="CPU threads.")
@click.option(
    "--clock",
    type=click.Choice(["wall", "cpu"]),
    default="wall",
    help="Wall-clock time, or on a busy machine processor time (over all threads: use with --threads 1).",
)
@click.option("--out", default=str(SCRIPT.with_suffix(".md")), help="Where the tables are kept; - for nowhere.")
def main(
    batches: list[int],
    contexts: list[int],
    tokens: int,
    rounds: int,
    d_model: int,
    layers: int,
    threads: int,
    clock: str,
    out: str,
) -> None:
    """Print and keep the tables; exit code 1 where twice the tokens/s, or a byte of the formula, is missed."""
    torch.set_num_threads(threads)
    now = time.perf_counter if clock == "wall" else time.process_time
    theirs, ours = models(d_model, layers)
    lines, met = speeds(theirs, ours, batches, contexts, tokens, rounds, now)
    sizes, exact = bytes_kept(ours.architecture, max(contexts))
    text = "\n".join(
        [
            "# Generation",
            "",
            f"Greedy, fp32, {layers} layers of Gemma 2's shape, d_model {d_model}, 4 heads over 2 of 64, window "
            f"{WINDOW} on every other layer, vocabulary {VOCAB}: {sum(p.numel() for p in ours.parameters()):,} "
            f"parameters. {os.cpu_count()} cores, {threads} thread{'s' * (threads > 1)}, {clock} time, Python "
            f"{platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__} (eager "
            "attention, the one that honours the soft-cap). Tokens/s are those of all rows together after the prompt, "
            f"the median of {tokens - 1} steps, the best of {rounds} calls. `python benchmarks/decoding.py` makes this "
            "page.",
            "",
            *lines,
            "",
            "## Bytes of the cache",
            "",
            f"One text of {max(contexts)} tokens, fp32, as measured (the bytes of every tensor that the layers keep) "
            "and as `lab.accounting.cache` computes them from the configuration.",
            "",
            *sizes,
        ]
    )
    print(text)
    if out != "-":
        Path(out).write_text(text + "\n", encoding="utf-8")
    sys.exit(0 if met and exact else 1)


def models(d_model: int, layers: int) -> tuple[Any, Decoder]:
    """transformers' model with random weights, and the lab's import of it."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        vocab_size=VOCAB,
        hidden_size=d_model,
        intermediate_size=4 * d_model,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=16_384,
        sliding_window=WINDOW,
        query_pre_attn_scalar=64,
        attn_implementation="eager",
        initializer_range=d_model**-0.5,  # larger than Gemma's, so that tokens differ
    )
    theirs = transformers.Gemma2ForCausalLM(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        architecture, weights, _ = import_folder(Path(folder))
    ours = Decoder(architecture)
    ours.load_state_dict(weights)
    return theirs, ours.eval().requires_grad_(False)


def speeds(
    theirs: Any,
    ours: Decoder,
    batches: Sequence[int],
    contexts: Sequence[int],
    tokens: int,
    rounds: int,
    now: Callable[[], float],
) -> tuple[list[str], bool]:
    """The table of tokens/s, and whether all of it meets the bar."""
    lines = [
        "| batch | context | Hugging Face tokens/s | lab tokens/s | times | same tokens | its prompt s | lab's |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    met = True
    for batch in batches:
        for context in contexts:
            generator = torch.Generator().manual_seed(batch * context)
            prompts = torch.randint(2, VOCAB, (batch, context), generator=generator)
            calls = [
                (by_transformers(theirs, prompts, tokens, now), by_lab(ours, prompts, tokens, now))
                for _ in range(rounds)
            ]
            step = [min(call[who].step for call in calls) for who in (0, 1)]
            first = [min(call[who].first for call in calls) for who in (0, 1)]
            made = [list(chain.from_iterable(speed.tokens)) for speed in calls[0]]
            same = sum(mine == other for mine, other in zip(*made, strict=True))
            times = step[0] / step[1]
            met &= times >= BAR
            lines.append(
                f"| {batch} | {context} | {batch / step[0]:,.0f} | {batch / step[1]:,.0f} | {times:.1f} | "
                f"{same / batch / tokens:.0%} | {first[0]:.2f} | {first[1]:.2f} |"
            )
            print(lines[-1], file=sys.stderr, flush=True)
    return lines, met


class Clock:
    """What `generate` streams tokens to: notes when each comes."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now, self.times = now, [now()]
        self.tokens: list[Tensor] = []

    def put(self, tokens: Tensor) -> None:
        """The prompt first, then each step's tokens."""
        self.tokens.append(tokens)
        self.times.append(self.now())

    def end(self) -> None:
        """Nothing more comes."""


def by_transformers(model: Any, prompts: Tensor, tokens: int, now: Callable[[], float]) -> Speed:
    """One call of `generate`; long prompts in parts, as its scores of all of them would not fit into memory."""
    batch, context = prompts.shape
    part = MOST_SCORES // (batch * 4 * context)
    chunks = {"prefill_chunk_size": part} if part < context else {}
    clock = Clock(now)
    model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        streamer=clock,
        **chunks,
    )
    made = torch.stack(clock.tokens[1:]).mT.tolist()
    times = clock.times[2:]
    return Speed(times[0] - clock.times[0], _median_step(times), made)


def by_lab(model: Decoder, prompts: Tensor, tokens: int, now: Callable[[], float]) -> Speed:
    """One call of the lab's generation."""
    start, times, steps = now(), [], []
    for step in continuations(model, prompts.tolist(), tokens, Sampling(temperature=0.0)):
        times.append(now())
        steps.append(step)
    made = [[step[row] for step in steps] for row in range(len(prompts))]
    return Speed(times[0] - start, _median_step(times), made)  # type: ignore[arg-type]


def _median_step(times: Sequence[float]) -> float:
    return statistics.median(after - before for before, after in pairwise(times))


def bytes_kept(shape: Architecture, context: int) -> tuple[list[str], bool]:
    """The table of bytes, and whether each is the formula's."""
    arms: dict[str, tuple[Heads, Span]] = {
        "mha": (MHA(n_heads=4, head_dim=64), GlobalSpan()),
        "gqa, 2 key-value heads": (GQA(n_heads=4, n_kv_heads=2, head_dim=64), GlobalSpan()),
        "mqa": (MQA(n_heads=4, head_dim=64), GlobalSpan()),
        f"gqa, interleaved, window {WINDOW}": (
            GQA(n_heads=4, n_kv_heads=2, head_dim=64),
            InterleavedSpan(window=WINDOW),
        ),
    }
    lines = ["| heads | measured | formula | bytes/token | of mha | by layer kind |", "|---|--:|--:|--:|--:|---|"]
    exact, of_mha = True, 0
    for name, (heads, span) in arms.items():
        architecture = replace(shape, heads=heads, span=span, pattern=None, kinds={})
        forward = CachedForward(Decoder.initialized(architecture, seed=0).eval())
        with torch.inference_mode():
            forward.begin([[1] * (context - 8)], 8)
        assert forward.cache is not None
        measured, formula = forward.cache.bytes, cache_bytes(architecture, 1, context, torch.float32)
        of_mha = of_mha or formula
        exact &= measured == formula
        kinds = cache_bytes_by_kind(architecture, 1, context, torch.float32)
        shown = ", ".join(f"{kind} {size:,}" for kind, size in kinds.items())
        lines.append(
            f"| {name} | {measured:,} | {formula:,} | {formula / context:,.0f} | {formula / of_mha:.1%} | {shown} |"
        )
    return lines, exact


if __name__ == "__main__":
    main()
