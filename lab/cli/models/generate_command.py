"""`lab generate RUN PROMPT…`: generates text with a run's model."""

from __future__ import annotations

import json
import operator
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.cli import completion
from lab.cli.options import accelerator_option, json_option, root_option

if TYPE_CHECKING:
    from components.compilation import Compile
    from lab.training.options import Accelerator


@click.command("generate")
@click.argument("run", shell_complete=completion.runs)
@click.argument("prompts", nargs=-1, required=True, metavar="PROMPT...")
@click.option(
    "--max-tokens", type=click.IntRange(min=1), default=200, show_default=True, help="Number of tokens at most."
)
@click.option("--temperature", type=float, help="Divide the logits by this; 0 is greedy.  [default: 1]")
@click.option("--top-k", type=int, help="Sample from this many most likely tokens.")
@click.option("--top-p", type=float, help="Sample from the most likely tokens whose probabilities add up to this.")
@click.option("--seed", type=int, help="Random seed of the sampling.  [default: 0]")
@click.option("--greedy", is_flag=True, help="Always take the most likely token.")
@click.option("--plain-text", is_flag=True, help="Take names of special tokens in PROMPT as text.")
@click.option("--no-bos", is_flag=True, help="Put no begin token before PROMPT.")
@click.option(
    "--cache/--no-cache", default=True, show_default=True, help="Cache keys and values. The text is the same."
)
@click.option(
    "--compile",
    "compile_mode",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Compile the steps; auto compiles if the tokens repay the time of compiling.",
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
    plain_text: bool,
    no_bos: bool,
    cache: bool,
    compile_mode: Compile,
    accelerator: Accelerator,
    root: Path,
    as_json: bool,
) -> None:
    """Continue each PROMPT with RUN's model, up to the end of a document, and print the continuation.

    The tokenizer adds the special tokens to PROMPT that it adds to every text, such as a begin token. The name of a
    special token in PROMPT, such as <eos>, stands for that token. An empty PROMPT starts a new document.

    Several prompts are generated in one batch; each gets the same text as it would alone. Their continuations are
    printed below a line with the prompt, and --json prints a list. The speed is printed to standard error.
    """
    from lab.refusals import RequestError

    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    set_options = {option: value for option, value in options.items() if value is not None}
    if greedy and set_options:
        raise RequestError(f"--{next(iter(set_options)).replace('_', '-')} has no effect with --greedy")

    from components.generation import Sampling, generate_batch
    from components.registry import OptionError
    from lab.evaluation.cached_decoding import check_cached_decoding
    from lab.evaluation.imported import missing_special_tokens
    from lab.evaluation.load import load_model
    from lab.records import resolve

    try:
        sampling = Sampling(temperature=0.0) if greedy else Sampling(**set_options)  # type: ignore[arg-type]
    except OptionError as error:
        raise RequestError(f"--{error.option.replace('_', '-')}: {error.message}") from None
    loaded = load_model(resolve(root, run), accelerator)
    if (note := missing_special_tokens(loaded.run)) is not None:
        click.echo(f"note: {note}", err=True)
    if cache:
        try:
            check_cached_decoding(loaded.model)
        except RequestError as error:
            raise error.with_fix("--no-cache generates without one") from None
    encoder, context = loaded.encoder, loaded.experiment.train.context
    if no_bos and encoder.bos is None:
        raise RequestError("--no-bos has no effect: the run's tokenizer has no begin token")
    ids = [encoder.encode_prompt(prompt, plain=plain_text, bos=not no_bos) or [encoder.separator] for prompt in prompts]
    start = time.perf_counter()
    try:
        continuations = generate_batch(
            loaded.model, ids, max_tokens, sampling, stop=encoder.stop_ids, cached=cache, compile=compile_mode
        )
    except OptionError as error:
        raise RequestError(f"--{error.option}: {error.message}") from None
    except ValueError as error:
        raise RequestError(str(error)) from None
    seconds = time.perf_counter() - start
    if max(map(len, map(operator.add, ids, continuations))) > context and loaded.run.record.imported is None:
        click.echo(f"note: this is longer than the model's training context of {context:,} tokens", err=True)
    count = sum(map(len, continuations))
    speed = count / seconds
    results = []
    for prompt, prompt_ids, tokens in zip(prompts, ids, continuations, strict=True):
        is_complete = tokens[-1] in encoder.stop_ids
        text = encoder.decode_continuation(prompt_ids, tokens[:-1] if is_complete else tokens)
        results.append({"prompt": prompt, "text": text, "tokens": tokens, "ended": is_complete, "step": loaded.step})
    if as_json:
        results = [result | {"tokens_per_second": speed} for result in results]
        click.echo(json.dumps(results if len(prompts) > 1 else results[0], indent=1, ensure_ascii=False))
        return
    for result in results:
        sys.stdout.write((f"── {result['prompt']}\n" if len(prompts) > 1 else "") + f"{result['text']}\n")
    click.echo(f"{count:,} tokens in {seconds:.2f} s: {speed:,.0f} tokens/s", err=True)
