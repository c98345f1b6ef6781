"""What is generated follows from the weights, the prompt and the seed, and greedy text is transformers' own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from components.generation import Sampling, generate, generate_batch
from components.registry import OptionError
from lab.evaluation.load import load_model
from tests.evaluation.conftest import Done, Trained, files, train

Lab = Callable[..., Done]


@pytest.mark.parametrize("which", ["bytes", "bpe"])
def test_greedy_text_is_transformers_token_for_token(trained: Trained, lab: Lab, tmp_path: Path, which: str) -> None:
    transformers = pytest.importorskip("transformers")
    bpe = ("data/tokenizer=bpe", "data.tokenizer.size=280") if which == "bpe" else ()
    # Large weights, hardly trained: a model that repeats itself would agree by accident.
    short = (
        "train.tokens=128",
        "schedule.warmup_tokens=0",
        "optimizer.lr=1e-6",
        "model.init.gain=3",
        "model/embedding=untied",
    )
    run = train(tmp_path / "runs", *files(trained.text), *bpe, *short)
    assert lab("export", run.path, tmp_path / "hf", "--root", tmp_path / "runs").code == 0
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    encoder = load_model(run, "cpu").encoder
    ids = encoder.encode_batch(["The square of 3"])[0].tolist()
    ask = ("generate", run.path, "The square of 3", "--greedy", "--max-tokens", 24, "--root", tmp_path / "runs")
    tokens = json.loads(lab(*ask, "--json").out)["tokens"]
    assert len(set(tokens)) > 8
    expected = theirs.generate(
        torch.tensor([ids]), do_sample=False, max_new_tokens=24, eos_token_id=encoder.separator, use_cache=False
    )
    assert tokens == expected[0, len(ids) :].tolist()
    if which == "bpe":
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
        assert tokenizer("The square of 3", add_special_tokens=False)["input_ids"] == ids


def test_a_run_with_a_begin_token_is_exported_with_it(trained: Trained, lab: Lab, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    root, options = tmp_path / "runs", ("data/tokenizer=bpe", "data.tokenizer.size=280", "data.tokenizer.bos='<s>'")
    run = train(root, *files(trained.text), *options, "optimizer.lr=1e-2")
    assert lab("export", run.path, tmp_path / "hf", "--root", root).code == 0
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert [config[f"{name}_token_id"] for name in ("bos", "eos", "pad")] == [1, 0, None]
    assert config["max_position_embeddings"] == 32
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "<|endoftext|>")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    ids = tokenizer("The square of").input_ids
    assert ids[0] == 1
    expected = theirs.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=16)[0, len(ids) :].tolist()
    ask = ("The square of", "--greedy", "--max-tokens", 16, "--json", "--root", root)
    assert json.loads(lab("generate", run.path, *ask).out)["tokens"] == expected
    own = (*files(trained.text), "train.context=32", "validation.tokens=512", "data.validation_fraction=0.2")
    assert lab("import", tmp_path / "hf", "--name", "back", *own, "--root", root).code == 0
    assert json.loads(lab("generate", "imported/back", *ask).out)["tokens"] == expected
    assert run.summary is not None
    metrics = json.loads(lab("eval", "imported/back", "perplexity", "--json", "--root", root).out)["metrics"]
    assert metrics["loss"] == pytest.approx(run.summary.metrics["val/loss"], rel=1e-6)
    assert metrics["bits_per_byte"] == pytest.approx(run.summary.metrics["val/bits_per_byte"], rel=1e-6)
    for evaluator in ("context", "memorisation", "attention_maps"):
        few = ("samples=4", "prompt=6", "continuation=4") if evaluator == "memorisation" else ()
        done = lab("eval", run.path, evaluator, *few, "--root", root)
        assert done.code == 0, done


def test_a_seed_decides_the_text_and_another_one_another_text(trained: Trained, lab: Lab) -> None:
    def text(*options: object) -> str:
        done = lab("generate", trained.bytes.path, "The ", "--root", trained.root, "--max-tokens", 16, *options)
        assert done.code == 0, done
        return done.out

    assert text("--seed", 5) == text("--seed", 5)
    assert text("--seed", 5) != text("--seed", 6)
    assert text() == text("--seed", 0)
    greedy = text("--greedy")
    assert text("--top-k", 1, "--seed", 9) == greedy
    assert text("--top-p", 1e-9, "--seed", 9) == greedy
    assert text("--temperature", 0) == greedy


def test_probabilities_are_those_of_transformers_warpers() -> None:
    process = pytest.importorskip("transformers").generation.logits_process
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0)) * 3
    for temperature, top_k, top_p in [
        (0.7, None, None),
        (1.0, 5, None),
        (1.3, None, 0.8),
        (0.5, 12, 0.6),
        (2, 99, 1.0),
    ]:
        expected = logits[None].double() / temperature
        if top_k is not None:
            expected = process.TopKLogitsWarper(min(top_k, 50))(None, expected)
        if top_p is not None and top_p < 1:
            expected = process.TopPLogitsWarper(top_p)(None, expected)
        ours = Sampling(temperature=temperature, top_k=top_k, top_p=top_p).probabilities(logits)
        assert torch.allclose(ours, expected.softmax(-1)[0], atol=1e-12)
        assert torch.equal(ours == 0, expected[0] == -torch.inf)


def test_draws_are_as_frequent_as_they_are_probable(trained: Trained) -> None:
    model = load_model(trained.bytes, "cpu").model
    sampling = Sampling(temperature=0.5, top_k=4)
    prompt = [84, 104, 101]
    with torch.no_grad():
        expected = sampling.probabilities(model(torch.tensor([prompt]))[0, -1])
    drawn = [next(generate(model, prompt, 1, Sampling(temperature=0.5, top_k=4, seed=seed))) for seed in range(400)]
    counts = torch.bincount(torch.tensor(drawn), minlength=len(expected))
    assert set(drawn) <= set(expected.nonzero().flatten().tolist())
    spread = (400 * expected * (1 - expected)).sqrt()
    assert ((counts - 400 * expected).abs() <= 4 * spread + 1e-9).all()


def test_it_ends_with_the_end_of_a_document(trained: Trained) -> None:
    model = load_model(trained.bytes, "cpu").model
    greedy = list(generate(model, [84], 12, Sampling(temperature=0.0)))
    assert len(greedy) == 12
    stop = greedy[3]
    ended = list(generate(model, [84], 12, Sampling(temperature=0.0), stop={stop}))
    assert ended == greedy[: greedy.index(stop) + 1]


def test_an_empty_prompt_begins_a_document(trained: Trained, lab: Lab) -> None:
    ask = ("generate", trained.bytes.path, "", "--greedy", "--max-tokens", 4, "--json", "--root", trained.root)
    model = load_model(trained.bytes, "cpu").model
    expected = list(generate(model, [256], 4, Sampling(temperature=0.0), stop={256}))
    assert json.loads(lab(*ask).out)["tokens"] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temperature", "-1"], "--temperature: must be 0 or above"),
        (["--top-p", "0"], "--top-p: must lie in (0, 1]"),
        (["--top-k", "0"], "--top-k: must be at least 1"),
        (["--greedy", "--top-k", "3"], "--top-k has no effect with --greedy"),
        (["--temperature", "0", "--top-p", "0.5"], "--top-p: has no effect at temperature 0"),
        (["--max-tokens", "0"], "--max-tokens"),
    ],
)
def test_a_mistaken_option_is_one_message(trained: Trained, lab: Lab, arguments: list[str], message: str) -> None:
    done = lab("generate", trained.bytes.path, "x", "--root", trained.root, *arguments)
    assert done.code == 2
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_an_unknown_run_is_named_with_the_nearest(trained: Trained, lab: Lab) -> None:
    done = lab("generate", "nosuch", "x", "--root", trained.root)
    assert done.code == 2
    assert "no run is called 'nosuch'" in done.err


def test_sampling_options_are_checked_when_they_are_made() -> None:
    with pytest.raises(OptionError, match="top_k"):
        Sampling(temperature=0.0, top_k=2)


def test_the_cache_changes_the_speed_and_not_the_text(trained: Trained, lab: Lab) -> None:
    # Longer than the window of 32 and the training context of 32.
    ask = ("generate", trained.bytes.path, "The square of 12 is", "--max-tokens", 60, "--root", trained.root, "--json")
    for options in (["--greedy"], ["--seed", 3], ["--top-p", "0.8", "--temperature", "0.7"]):
        cached, full = (json.loads(lab(*ask, *options, *flag).out) for flag in ([], ["--no-cache"]))
        assert cached["tokens"] == full["tokens"]
        assert cached["tokens_per_second"] > 0


def test_several_prompts_become_what_each_becomes_alone(trained: Trained, lab: Lab) -> None:
    prompts = ["The square of 3", "", "The square of 145 is"]
    options = ("--max-tokens", 20, "--seed", 4, "--root", trained.root)
    alone = [json.loads(lab("generate", trained.bytes.path, each, "--json", *options).out) for each in prompts]
    together = lab("generate", trained.bytes.path, *prompts, "--json", *options)
    assert [each["tokens"] for each in json.loads(together.out)] == [each["tokens"] for each in alone]
    assert [each["prompt"] for each in json.loads(together.out)] == prompts
    plain = lab("generate", trained.bytes.path, *prompts, *options)
    expected = [f"── {each['prompt']}\n{each['text']}\n" for each in alone]
    assert plain.out == "".join(expected)
    assert plain.err.splitlines()[-1].endswith("tokens/s")


def test_a_row_that_has_ended_waits_for_the_others(trained: Trained) -> None:
    model = load_model(trained.bytes, "cpu").model
    greedy = generate_batch(model, [[84], [32, 51]], 12, Sampling(temperature=0.0))
    stop = next(token for token in greedy[0] if token not in greedy[1])
    ended = generate_batch(model, [[84], [32, 51]], 12, Sampling(temperature=0.0), stop={stop})
    assert ended == [greedy[0][: greedy[0].index(stop) + 1], greedy[1]]
    assert len(ended[0]) < 12 == len(ended[1])


def test_compilation_is_refused_where_it_has_no_effect_or_is_not_possible(
    trained: Trained, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = ("generate", trained.bytes.path, "The ", "--greedy", "--max-tokens", 20, "--root", trained.root)
    done = lab(*ask, "--no-cache", "--compile", "on")
    assert (done.code, done.out) == (2, "")
    assert "--compile: on has no effect without a cache" in done.err
    monkeypatch.setattr("components.generation.prepared.compiler_obstacle", lambda device: "no C++ compiler was found")
    done = lab(*ask, "--compile", "on")
    assert (done.code, done.out) == (2, "")
    assert "--compile: on is not possible here: no C++ compiler was found" in done.err
    assert lab(*ask).out == lab(*ask, "--compile", "off").out == lab(*ask, "--no-cache").out != ""
