"""`lab eval RUN perplexity` says what training said, of the same text, and of another what a plain sum says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lab.data.corpora.split import key_fraction
from lab.data.shards import prepare
from lab.evaluation.evaluate import evaluate, parse_request
from lab.evaluation.load import load_model
from lab.records import RunFolder
from lab.training.progress.outcome import Stopped
from tests.evaluation.conftest import Done, Trained, files, train, write_text
from tests.records.made import make_run

Lab = Callable[..., Done]


def refused(done: Done, message: str) -> None:
    """One message, exit code 2."""
    assert done.code == 2, done
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert done.out == ""


def naive_loss(run: RunFolder, tokens: list[int], context: int, windows: list[int]) -> float:
    """Mean loss over windows of a token list, a token at a time, in fp64."""
    model = load_model(run, "cpu").model.double()
    total, count = 0.0, 0
    for window in windows:
        cut = tokens[window * context : window * context + context + 1]
        logits = model(torch.tensor([cut[:-1]]))[0]
        for row, target in zip(logits, cut[1:], strict=True):
            total += float(torch.logsumexp(row, 0) - row[target])
            count += 1
    return total / count


@pytest.mark.parametrize("which", ["bytes", "bpe"])
def test_without_options_it_measures_what_training_measured_at_its_end(trained: Trained, which: str) -> None:
    run: RunFolder = getattr(trained, which)
    metrics = evaluate(run, parse_request("perplexity", [])).record.metrics
    assert run.summary is not None
    assert metrics["loss"] == run.summary.metrics["val/loss"]
    assert metrics["bits_per_byte"] == run.summary.metrics["val/bits_per_byte"]
    assert metrics["perplexity"] == math.exp(metrics["loss"])
    assert metrics["tokens"] == 512


def test_the_curve_by_position_is_the_mean_over_windows_of_each_stretch(trained: Trained) -> None:
    result = evaluate(
        trained.bytes, parse_request("perplexity", ["context=12", "tokens=1M", "batch=7"]), save_as="p"
    ).record.as_json()
    loaded = load_model(trained.bytes, "cpu")
    text = torch.from_numpy(prepare(loaded.experiment.data).validation.astype("int64"))
    used = (len(text) - 1) // 12 * 12
    logits = loaded.model.double()(text[:used].view(-1, 12))
    losses = torch.logsumexp(logits, -1) - logits.gather(-1, text[1 : used + 1].view(-1, 12, 1))[..., 0]
    stretches = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 6), (6, 8), (8, 12)]
    points = result["curves"]["loss_by_position"]["points"]
    assert [x for x, _ in points] == [1, 2, 3, 4, 5.5, 7.5, 10.5]
    for (start, stop), (_, loss) in zip(stretches, points, strict=True):
        assert loss == pytest.approx(float(losses[:, start:stop].mean()), rel=1e-6)


def test_one_that_was_stopped_comes_to_the_same_numbers(trained: Trained) -> None:
    whole = evaluate(trained.bytes, parse_request("perplexity", ["batch=2"]), save_as="whole").record.as_json()
    asked = iter([False, False, False, True])
    with pytest.raises(Stopped):
        evaluate(trained.bytes, parse_request("perplexity", ["batch=2"]), save_as="cut", stop=lambda: next(asked))
    again = evaluate(trained.bytes, parse_request("perplexity", ["batch=2"]), save_as="cut").record.as_json()
    assert (again["metrics"], again["curves"]) == (whole["metrics"], whole["curves"])


def test_another_corpus_is_read_in_the_tokens_that_the_run_learnt(trained: Trained, tmp_path: Path) -> None:
    cubes = write_text(tmp_path / "cubes.jsonl", "{n} apples and {square} pears! ", documents=60)
    options = ("tokens=100k", "context=16", *files(cubes), "data.validation_fraction=0.5")
    result = evaluate(trained.bpe, parse_request("perplexity", options), save_as="cubes").record.as_json()
    encoder = load_model(trained.bpe, "cpu").encoder
    tokens, size = [], 0
    for line, text in enumerate(cubes.read_text().splitlines(), start=1):
        document = json.loads(text)["text"]
        if key_fraction(f"cubes.jsonl#{line}") < 0.5:
            tokens += [*map(int, encoder.encode_batch([document])[0]), encoder.separator]
            size += len(document.encode())
    windows = list(range((len(tokens) - 1) // 16))
    assert result["metrics"]["tokens"] == 16 * len(windows)
    loss = naive_loss(trained.bpe, tokens, 16, windows)
    assert result["metrics"]["loss"] == pytest.approx(loss, rel=1e-5)
    assert result["metrics"]["bits_per_byte"] == pytest.approx(loss / math.log(2) * len(tokens) / size, rel=1e-5)
    assert result["data"]["digest"] != trained.bpe.record.provenance.data


def test_the_same_evaluation_writes_the_same_bytes(trained: Trained, lab: Lab) -> None:
    arguments = ("eval", trained.bytes.path, "perplexity", "context=24", "--root", trained.root, "--as", "twice")
    first = lab(*arguments)
    assert first.code == 0, first
    path = trained.bytes.path / "evaluations" / "twice.json"
    content = path.read_bytes()
    path.unlink()
    printed = lab(*arguments, "--json")
    assert path.read_bytes() == content
    assert json.loads(printed.out) == json.loads(content)
    result = json.loads(content)
    assert result["options"] == {"tokens": None, "context": 24, "batch": None}
    assert (result["step"], result["steps"]) == (8, 8)
    assert "loss" in first.out
    assert f"{result['metrics']['loss']:.4f}" in first.out
    assert list(path.parent.glob(".*")) == []


def test_what_cannot_be_evaluated_is_refused_and_leaves_nothing(trained: Trained, lab: Lab, tmp_path: Path) -> None:
    run = ("eval", trained.bytes.path, "--root", trained.root, "--as", "refused")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    short = write_text(tmp_path / "short.jsonl", "{n}", documents=30)
    for arguments, message in [
        (["perplexiti"], "no evaluator is called 'perplexiti'; did you mean 'perplexity'?"),
        (["perplexity", "contxt=3"], "perplexity: override 'contxt=3': contxt: no such key; did you mean 'context'?"),
        (["perplexity", "context=0"], "context: must be at least 1, got 0"),
        (["perplexity", "tokens=many"], "tokens: expected a whole number"),
        (["perplexity", "data/tokenizer=bpe"], "lab eval accepts overrides of data.corpus, data.validation_fraction"),
        (["perplexity", "model/heads=mha"], "the run's configuration is frozen"),
        (["perplexity", "data/corpus=filez"], "did you mean 'files'?"),
        (["perplexity", "data.validation_fraction=0.4"], "would hold out text that the run was trained on"),
        (["perplexity", *files(empty)], "corpus 'files' holds no text"),
        (["perplexity", *files(short), "context=4k"], "too few for one window of context 4,000"),
    ]:
        refused(lab(*run, *arguments), message)
    assert not (trained.bytes.path / "evaluations" / "refused.json").exists()


def test_a_context_beyond_learned_positions_is_refused(trained: Trained, lab: Lab) -> None:
    learned = ("model/position=learned", "model.position.context=40")
    run = train(trained.root, *files(trained.text), *learned, "train.tokens=128", "schedule.warmup_tokens=0")
    ask = ("eval", run.path, "perplexity", "--root", trained.root)
    refused(lab(*ask, "context=41"), "context: 41 tokens are beyond the model's 40 positions")
    assert lab(*ask, "context=40").code == 0
    generate = ("generate", run.path, "12345", "--root", trained.root, "--max-tokens")
    refused(lab(*generate, "36"), "5 tokens of prompt and 36 more are beyond the model's 40 positions")
    assert lab(*generate, "35").code == 0


def test_a_run_without_a_checkpoint_is_refused(trained: Trained, lab: Lab, tmp_path: Path) -> None:
    info = trained.bytes.record
    run = make_run(tmp_path / "runs/a/b/seed-0", (trained.bytes.path / "config.yaml").read_text(), info)
    done = lab("eval", run.path, "perplexity", "--root", tmp_path / "runs")
    refused(done, "a/b/seed-0 has no whole checkpoint: it is queued")
    assert not (run.path / "evaluations").exists()


def test_text_that_has_changed_since_training_is_no_longer_the_runs_own(lab: Lab, trained: Trained) -> None:
    text = write_text(trained.text.with_name("changing.jsonl"), "{n} plus {n} ")
    run = train(trained.root, *files(text), "train.tokens=128", "schedule.warmup_tokens=0")
    ask = ("eval", run.path, "perplexity", "--root", trained.root)
    assert lab(*ask).code == 0
    write_text(text, "{n} minus {n} ")
    refused(lab(*ask), "its text has changed since it was trained")
    assert lab(*ask, *files(trained.text)).code == 0


def test_one_text_file_is_measured_as_a_whole(trained: Trained, lab: Lab, tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text(" ".join(f"{n} apples and {n * n} pears!" for n in range(60)))
    done = lab(
        "eval", trained.bpe.path, "perplexity", "tokens=100k", "context=16", *files(book), "--root", trained.root,
        "--as", "book",
    )  # fmt: skip
    assert done.code == 0, done
    metrics = json.loads((trained.bpe.path / "evaluations" / "book.json").read_text())["metrics"]
    encoder = load_model(trained.bpe, "cpu").encoder
    tokens = [*map(int, encoder.encode_batch([book.read_text()])[0]), encoder.separator]
    windows = list(range((len(tokens) - 1) // 16))
    assert metrics["tokens"] == 16 * len(windows)
    loss = naive_loss(trained.bpe, tokens, 16, windows)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["bits_per_byte"] == pytest.approx(loss / math.log(2) * len(tokens) / book.stat().st_size, rel=1e-5)
    options = ("tokens=100k", "context=16", f"corpora={{book: {{name: files, paths: [{book}]}}}}")
    transfer = evaluate(trained.bpe, parse_request("transfer", options), save_as="books").record.metrics
    assert transfer["book/loss"] == metrics["loss"]
    options = ("tokens=100k", "context=16", f"corpora={{book: {{name: files, validation_paths: [{book}]}}}}")
    named = evaluate(trained.bpe, parse_request("transfer", options), save_as="named").record.metrics
    assert named == transfer
    options = ("tokens=100k", "context=16", "data/corpus=files", f"data.corpus.validation_paths=[{book}]")
    alone = evaluate(trained.bpe, parse_request("perplexity", options), save_as="alone").record.metrics
    assert alone["loss"] == metrics["loss"]


def test_text_that_was_trained_on_cannot_be_measured_under_another_name(
    trained: Trained, lab: Lab, tmp_path: Path
) -> None:
    link = tmp_path / "link.jsonl"
    link.symlink_to(trained.text)
    run = ("eval", trained.bytes.path, "--root", trained.root, "--as", "refused")
    for arguments in (
        ["perplexity", *files(link)],
        ["perplexity", "data.corpus.paths=[]", f"data.corpus.validation_paths=[{trained.text}]"],
        ["transfer", f"corpora={{x: {{name: files, paths: [{link}]}}}}"],
    ):
        refused(lab(*run, *arguments), "is also in the run's own text, which this corpus would divide otherwise")
