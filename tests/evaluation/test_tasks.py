"""Tasks of lm-eval on a small file: scores are those of a loop over tokens, and of transformers on the exported run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lab.evaluation.evaluate import evaluate, parse_request
from lab.evaluation.load import load_model
from lab.records import RunFolder
from lab.refusals import RequestError
from tests.evaluation.conftest import Done, Trained

pytest.importorskip("lm_eval", reason="the tasks evaluator needs lm-eval")

Lab = Callable[..., Done]

QUESTIONS = [
    {
        "question": f"The square of {n} is",
        "choices": [f" {n * n}.", f" {n * n + 1}, or more", " a pear"],
        "answer": n % 3,
    }
    for n in range(12)
]


def task(folder: Path, name: str, **changes: Any) -> Path:
    """A file that defines a task over QUESTIONS."""
    data = folder / "questions.jsonl"
    data.write_text("\n".join(json.dumps(question) for question in QUESTIONS))
    definition = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": str(data)}},
        "validation_split": "validation",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_target": "answer",
        "doc_to_choice": "choices",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        **changes,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(definition))
    return path


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf/datasets"))


def naive(run: RunFolder, before: str, after: str) -> float:
    """log p of a continuation, a token at a time, in fp64."""
    loaded = load_model(run, "cpu")
    model = loaded.model.double()
    tokens, total = [int(token) for token in loaded.encoder.encode_batch([before])[0]], 0.0
    for token in map(int, loaded.encoder.encode_batch([after])[0]):
        total += float(model(torch.tensor([tokens]))[0, -1].log_softmax(-1)[token])
        tokens.append(token)
    return total


def best(scores: list[list[float]]) -> float:
    """Share of the questions whose answer has the highest score."""
    chosen = [row.index(max(row)) for row in scores]
    return sum(mine == each["answer"] for mine, each in zip(chosen, QUESTIONS, strict=True)) / len(QUESTIONS)


def test_multiple_choice_is_scored_as_a_loop_over_tokens_scores_it(trained: Trained, tmp_path: Path) -> None:
    path = task(tmp_path, "squares")
    metrics = evaluate(
        trained.bytes, parse_request("tasks", (f"tasks=[{path}]", "context=64", "batch=5"))
    ).record.as_json()["metrics"]
    scores = [[naive(trained.bytes, q["question"], choice) for choice in q["choices"]] for q in QUESTIONS]
    lengths = [[len(choice) for choice in q["choices"]] for q in QUESTIONS]
    assert metrics["squares/accuracy"] == pytest.approx(best(scores))
    by_length = [[a / b for a, b in zip(*rows, strict=True)] for rows in zip(scores, lengths, strict=True)]
    assert metrics["squares/normalised_accuracy"] == pytest.approx(best(by_length))
    share = metrics["squares/accuracy"]
    assert metrics["squares/accuracy_stderr"] == pytest.approx((share * (1 - share) / (len(QUESTIONS) - 1)) ** 0.5)


def test_the_exported_run_has_the_same_likelihoods_in_transformers(trained: Trained, lab: Lab, tmp_path: Path) -> None:
    from lm_eval.api.instance import Instance
    from transformers import AutoModelForCausalLM

    from lab.evaluation.measure.lm_eval import HarnessModel

    folder = tmp_path / "exported"
    assert lab("export", trained.bpe.path, folder, "--root", trained.root).code == 0
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    loaded = load_model(trained.bpe, "cpu")
    pairs = [(q["question"], choice) for q in QUESTIONS for choice in q["choices"]]
    asked = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    found = HarnessModel(loaded, 64, 7).loglikelihood(asked)
    for (before, after), (value, greedy) in zip(pairs, found, strict=True):
        whole = torch.tensor(loaded.encoder.encode_batch([before + after])[0].tolist())
        first = len(loaded.encoder.encode_batch([before])[0])
        if whole[:first].tolist() != loaded.encoder.encode_batch([before])[0].tolist():
            continue  # the tokenizer joins characters across the border: scored in parts
        with torch.no_grad():
            logits = theirs(whole[None]).logits[0, first - 1 : -1].log_softmax(-1)
        assert value == pytest.approx(float(logits.gather(1, whole[first:, None]).sum()), abs=1e-3)
        assert greedy == bool((logits.argmax(-1) == whole[first:]).all())


def test_a_completion_is_what_generation_gives_up_to_the_stop(trained: Trained, tmp_path: Path) -> None:
    from components.generation import Sampling, generate

    loaded = load_model(trained.bytes, "cpu")
    prompts = [[int(t) for t in loaded.encoder.encode_batch([q["question"]])[0]] for q in QUESTIONS]
    greedy = Sampling(temperature=0.0)
    said = [loaded.encoder.decode(list(generate(loaded.model, each, 6, greedy))).split(" ")[0] for each in prompts]
    data = tmp_path / "completions.jsonl"
    wrong = [text + "x" if n % 4 == 0 else text for n, text in enumerate(said)]
    rows = [{"question": q["question"], "target": t} for q, t in zip(QUESTIONS, wrong, strict=True)]
    data.write_text("\n".join(map(json.dumps, rows)))
    path = task(
        tmp_path,
        "completion",
        dataset_kwargs={"data_files": {"validation": str(data)}},
        output_type="generate_until",
        doc_to_target="{{target}}",
        doc_to_choice=None,
        generation_kwargs={"until": [" "], "max_gen_toks": 6, "do_sample": False},
        metric_list=[{"metric": "exact_match"}],
    )
    metrics = evaluate(trained.bytes, parse_request("tasks", (f"tasks=[{path}]", "context=64"))).record.metrics
    assert metrics["completion/exact_match"] == pytest.approx(9 / 12)


def test_a_model_that_fails_over_its_cache_is_refused_before_it_generates(trained: Trained) -> None:
    from lm_eval.api.instance import Instance

    from lab.evaluation.measure.lm_eval import HarnessModel

    loaded = load_model(trained.bytes, "cpu")
    mixer = loaded.model.blocks[1].mixer
    mixer.cache_tensors = lambda capacity, dtype: {}
    with pytest.raises(RequestError, match="the model can't generate from a cache: layer 1: mixer 'attention'"):
        HarnessModel(loaded, 16, 3).generate_until([Instance("generate_until", {}, ("The", {"until": ["."]}), 0)])


def test_text_is_scored_in_pieces_of_the_context(trained: Trained) -> None:
    from lm_eval.api.instance import Instance

    from lab.evaluation.measure.lm_eval import HarnessModel

    loaded = load_model(trained.bytes, "cpu")
    text = "The square of 7 is 49. The square of 8 is 64."
    (found,) = HarnessModel(loaded, 16, 3).loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)])
    tokens = [loaded.encoder.separator, *map(int, loaded.encoder.encode_batch([text])[0])]
    model, total = load_model(trained.bytes, "cpu").model.double(), 0.0
    last = len(tokens) - 1 - (len(tokens) - 1) % 16  # the last piece is filled up with tokens before it
    for place in range(1, len(tokens)):
        start = (place - 1) // 16 * 16 if place <= last else len(tokens) - 1 - 16
        total += float(model(torch.tensor([tokens[start:place]]))[0, -1].log_softmax(-1)[tokens[place]])
    assert found == pytest.approx(total, rel=1e-5)


def test_what_is_no_task_is_refused(trained: Trained, lab: Lab, tmp_path: Path) -> None:
    path = task(tmp_path, "squares")
    (tmp_path / "no.yaml").write_text("- 1\n")
    for arguments, message in [
        (("tasks=[piqaa]",), "the lm-eval library has no task 'piqaa'; did you mean 'piqa'?"),
        ((f"tasks=[{tmp_path}/none.yaml]",), "none.yaml"),
        ((f"tasks=[{tmp_path}/no.yaml]",), "expected the definition of one task"),
        (("tasks=[]",), "tasks: must name at least one task"),
        ((f"tasks=[{path}]", "few_shot=-1"), "few_shot: cannot be negative, got -1"),
        ((f"tasks=[{path}]", "context=4"), "context: a continuation of"),
        ((), "tasks: is missing"),
    ]:
        done = lab("eval", trained.bytes.path, "tasks", *arguments, "--root", trained.root, "--as", "no")
        assert (done.code, message in done.err) == (2, True), done
    assert not (trained.bytes.path / "evaluations/no.json").exists()
