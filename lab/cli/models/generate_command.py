"""`lab generate RUN PROMPT…`: text from a run's model."""

from __future__ import annotations

import json
import operator
import sys
import time
from pathlib import Path

import click

from lab.cli import completion
from lab.cli.options import accelerator_option, json_option, root_option


@click.command("generate")
@click.argument("run", shell_complete=completion.runs)
@click.argument("prompts", nargs=-1, required=True, metavar="PROMPT...")
@click.option("--max-tokens", type=click.IntRange(min=1), default=200, show_default=True, help="Tokens at most.")
@click.option("--temperature", type=float, help="Divides the logits; 1 by default, 0 is greedy.")
@click.option("--top-k", type=int, help="Draw from this many of the likeliest tokens.")
@click.option("--top-p", type=float, help="Draw from the fewest likeliest tokens whose probabilities reach this sum.")
@click.option("--seed", type=int, help="Of the draws; 0 by default.")
@click.option("--greedy", is_flag=True, help="Always take the likeliest token.")
@click.option(
    "--cache/--no-cache", default=True, show_default=True, help="Keep keys and values between tokens; the text is one."
)
@accelerator_option
@root_option
@json_option
def command(
    run: str,
    prompts: tuple[str, ...],
    max_tokens: int,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
    greedy: bool,
    cache: bool,
    accelerator: str,
    root: Path,
    as_json: bool,
) -> None:
    """Continue each PROMPT with RUN's model, up to the end of a document, and print what comes after the prompt.

    PROMPT becomes tokens as text does in training, with no token of its own before it; an empty one begins a document.
    Several go through the model together, each with the random numbers that it would have by itself; what one becomes
    then stands under a line with the prompt, and --json gives a list. How fast it went is said on standard error.
    """
    from lab.refusals import RequestError

    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    set_ones = {option: value for option, value in given.items() if value is not None}
    if greedy and set_ones:
        raise RequestError(f"--{next(iter(set_ones)).replace('_', '-')} has no effect with --greedy")

    from components.generation import Sampling, generate_batch
    from components.registry import OptionError
    from lab.evaluation.load import load_model
    from lab.records import resolve

    try:
        sampling = Sampling(temperature=0.0) if greedy else Sampling(**set_ones)  # type: ignore[arg-type]
    except OptionError as error:
        raise RequestError(f"--{error.option.replace('_', '-')}: {error.message}") from None
    loaded = load_model(resolve(root, run), accelerator)  # type: ignore[arg-type]
    encoder, context = loaded.encoder, loaded.experiment.train.context
    ids = [[int(i) for i in row] or [encoder.separator] for row in encoder.encode_batch(list(prompts))]
    start = time.perf_counter()
    try:
        continued = generate_batch(loaded.model, ids, max_tokens, sampling, stop={encoder.separator}, cached=cache)
    except ValueError as error:
        raise RequestError(str(error)) from None
    seconds = time.perf_counter() - start
    if max(map(len, map(operator.add, ids, continued))) > context and loaded.run.record.imported is None:
        click.echo(f"note: this goes beyond the {context:,} tokens of context that it was trained with", err=True)
    count = sum(map(len, continued))
    speed = count / seconds
    results = []
    for prompt, tokens in zip(prompts, continued, strict=True):
        ended = tokens[-1] == encoder.separator
        text = encoder.decode(tokens[:-1] if ended else tokens)
        results.append({"prompt": prompt, "text": text, "tokens": tokens, "ended": ended, "step": loaded.step})
    if as_json:
        results = [result | {"tokens_per_second": speed} for result in results]
        click.echo(json.dumps(results if len(prompts) > 1 else results[0], indent=1, ensure_ascii=False))
        return
    for result in results:
        sys.stdout.write((f"── {result['prompt']}\n" if len(prompts) > 1 else "") + f"{result['text']}\n")
    click.echo(f"{count:,} tokens in {seconds:.2f} s: {speed:,.0f} tokens/s", err=True)
