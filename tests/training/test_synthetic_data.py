"""Training on synthetic tasks: which items, where the loss is taken, and that nothing else of a run changes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from components.decoder import Decoder
from lab.composition.compose import compose
from lab.data.options import MQAR, Data, Ids
from lab.data.synthetic.draws import Draws
from lab.data.synthetic.synthetic_data import SyntheticData, load
from lab.refusals import RequestError
from lab.training.fit import fit
from lab.training.optimizers.schedule import ConstantSchedule
from lab.training.options import Validation
from lab.training.parallel.world import World

from . import tiny
from .test_fit import PlainDescent

DATA = Data(corpus=MQAR(pairs=3), tokenizer=Ids(size=tiny.VOCAB))


def text() -> SyntheticData:
    found = load(DATA)
    assert isinstance(found, SyntheticData)
    return found


def at_places(logits: Tensor, places: Tensor) -> Tensor:
    return torch.stack([row[place] for row, place in zip(logits, places, strict=True)])


def test_batches_take_one_item_after_another_whatever_their_size() -> None:
    few, many = text().batches(16, 4, seed=1), text().batches(16, 12, seed=1)
    items = MQAR(pairs=3).items(Draws("train/1", np.arange(24)), 16, tiny.VOCAB)
    for name, part in (("tokens", 0), ("targets", 1), ("places", 2)):
        whole = torch.from_numpy(getattr(items, name))
        assert torch.equal(torch.cat([few.at(step)[part] for step in range(6)]), whole)
        assert torch.equal(torch.cat([many.at(step)[part] for step in range(2)]), whole)
    assert not torch.equal(few.at(0)[0], text().batches(16, 4, seed=2).at(0)[0])


def test_what_is_held_out_is_the_same_for_every_run_and_never_trained_on() -> None:
    held_out = text().validation_batches(16, 5, 16 * 11 + 1)
    assert [len(batch[0]) for batch in held_out] == [5, 5, 2]
    again = text().validation_batches(16, 12, 16 * 12)
    for part, whole in enumerate(again[0]):
        assert torch.equal(torch.cat([batch[part] for batch in held_out]), whole)
    seen = {tuple(row) for row in text().batches(16, 2000, seed=0).at(0)[0].tolist()}
    assert len(seen) == 2000
    assert not seen & {tuple(row) for row in again[0][0].tolist()}


def test_the_digest_follows_the_task_and_its_ids() -> None:
    others = [Data(corpus=MQAR(pairs=2), tokenizer=Ids(size=32)), Data(corpus=MQAR(pairs=3), tokenizer=Ids(size=33))]
    assert load(DATA).digest == text().digest
    assert len({text().digest, *(load(other).digest for other in others)}) == 3


@pytest.mark.parametrize("micro_batch", [None, 1])
def test_a_step_goes_down_the_gradient_of_the_mean_over_what_is_asked(tmp_path: Path, micro_batch: int | None) -> None:
    by_hand = tiny.TinyModel().double()
    inputs, targets, places = text().batches(tiny.CONTEXT, tiny.BATCH, seed=6).at(0)
    loss = F.cross_entropy(at_places(by_hand(inputs), places).flatten(0, 1), targets.flatten())
    loss.backward()  # type: ignore[no-untyped-call]
    model = tiny.TinyModel().double()
    plan = tiny.procedure(steps=1, grad_clip=None, micro_batch=micro_batch)
    fit(model, text(), replace(plan, optimizer=PlainDescent(), schedule=ConstantSchedule()), tmp_path)
    for (name, start), actual in zip(by_hand.named_parameters(), model.parameters(), strict=True):
        assert start.grad is not None, name
        torch.testing.assert_close(actual, start - 0.5 * start.grad, rtol=1e-9, atol=1e-12)
    assert tiny.points(tmp_path)[0]["train/loss"] == pytest.approx(loss.item(), rel=1e-6)


def test_the_summary_holds_loss_and_accuracy_where_items_ask(tmp_path: Path) -> None:
    model = tiny.TinyModel()
    plan = replace(tiny.procedure(steps=30), validation=Validation(every=None, tokens=150 * tiny.CONTEXT))
    outcome = fit(model, text(), plan, tmp_path)
    (held_out,) = text().validation_batches(tiny.CONTEXT, 150, 150 * tiny.CONTEXT)
    logits = at_places(model.eval()(held_out[0]), held_out[2]).double()
    metrics, data = outcome.summary.metrics, outcome.summary.as_json()["data"]
    assert metrics["val/loss"] == pytest.approx(F.cross_entropy(logits.flatten(0, 1), held_out[1].flatten()).item())
    assert metrics["val/accuracy"] == (logits.argmax(-1) == held_out[1]).double().mean().item() > 0
    assert metrics["unigram/loss"] == math.log(16)
    assert set(metrics) == {"val/loss", "val/accuracy", "unigram/loss", "train/loss"}
    assert data == {"digest": text().digest, "scored_per_sequence": 3}
    assert tiny.points(tmp_path)[-1]["val/accuracy"] == metrics["val/accuracy"]


def trained(folder: Path, stop: Any = None, world: World | None = None) -> dict[str, Tensor]:
    model = tiny.TinyModel(dropout=0.3)
    outcome = fit(model, text(), tiny.procedure(micro_batch=2), folder, stop=stop, world=world)
    assert outcome.status == ("finished" if stop is None else "preempted")
    return tiny.weights(model)


def test_a_resumed_run_is_the_run_that_was_never_interrupted(tmp_path: Path) -> None:
    expected = trained(tmp_path / "whole")
    trained(tmp_path / "cut", tiny.stop_after(5))
    assert tiny.same(trained(tmp_path / "cut"), expected)
    assert tiny.timeless(tmp_path / "cut") == tiny.timeless(tmp_path / "whole")


def test_another_task_does_not_go_on_in_the_same_folder(tmp_path: Path) -> None:
    trained(tmp_path, tiny.stop_after(5))
    other = load(replace(DATA, corpus=MQAR(pairs=2)))
    with pytest.raises(ValueError, match="the text has changed since the checkpoint"):
        fit(tiny.TinyModel(), other, tiny.procedure(), tmp_path)


@pytest.mark.parametrize("rows", [None, 5])
def test_a_decoder_takes_its_loss_where_it_is_asked_in_either_form(
    rows: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture = compose("mqar_tiny", ["data.tokenizer.size=40", "model.d_model=16", "model.mlp.d_ff=16"])
    model = Decoder.initialized(architecture.experiment.model, seed=3).double()
    monkeypatch.setattr("components.decoder.rows_at_once", lambda *_: rows)
    inputs, targets, places = text().batches(16, 6, seed=0).at(0)
    found = model.losses(inputs, targets=targets, places=places)
    logits = at_places(model(inputs), places)
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    torch.testing.assert_close(found.next_token, expected)
    torch.testing.assert_close(model.logits_at(inputs, places), logits)
    gradients = [torch.autograd.grad(each, list(model.parameters())) for each in (found.objective, expected.mean())]
    for actual, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data/tokenizer=byte"], "data.tokenizer: corpus 'mqar' generates ids and has no text for 'byte' to read"),
        (["data/corpus=stdlib"], "data.tokenizer: 'ids' reads no text such as corpus 'stdlib'"),
        (["data.validation_fraction=0.1"], "data.validation_fraction: corpus 'mqar' has no documents to hold out"),
        (["data.corpus.pairs=17"], "data.corpus.pairs: 17 pairs need a context of at least 68 tokens, got 64"),
        (["data.tokenizer.size=9"], "data.corpus.pairs: 4 pairs need a vocabulary of at least 10 tokens, got 9"),
        (["train.mask_documents=true"], "train.mask_documents: corpus 'mqar' has no documents to stay inside of"),
        (["recipe=distillation", "recipe.teacher=x"], "recipe: distillation learns at every token of a text"),
        (["+evaluate.p={name: perplexity}"], "evaluate.p: perplexity reads text, and corpus 'mqar' has none"),
        (["model.vocab_size=63"], "model.vocab_size: 63 is too small for the tokenizer's 64 tokens"),
    ],
)
def test_what_does_not_go_with_a_task_is_refused_by_name(overrides: list[str], message: str) -> None:
    with pytest.raises(RequestError) as error:
        compose("mqar_tiny", overrides)
    assert message in str(error.value)


def test_ids_are_written_out_and_nothing_else_is_one() -> None:
    encoder = text().encoder
    assert [list(map(int, row)) for row in encoder.encode_batch(["3 17 31", "0"])] == [[3, 17, 31], [0]]
    assert encoder.decode([3, 17, 31]) == "3 17 31"
    for wrong in ("32", "-1", "x", ""):
        with pytest.raises(RequestError, match="is no id: this vocabulary has 0 to 31"):
            encoder.encode_batch([wrong])
