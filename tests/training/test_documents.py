"""Masked documents: a packed sequence trains as its documents would by themselves."""

from __future__ import annotations

import torch

from components.decoder import Decoder
from components.loss import token_losses
from lab.training.data.documents import document_ids
from lab.training.data.validation import validation_loss
from lab.training.module import NextToken
from lab.training.optimizers.optimizer import AdamW
from lab.training.optimizers.schedule import ConstantSchedule
from lab.training.options import Train
from tests.components.architectures import gemma2

SEPARATOR = 60


def test_a_separator_belongs_to_the_document_that_it_ends() -> None:
    tokens = torch.tensor([[5, 60, 7, 8, 60, 60, 9], [1, 2, 3, 4, 5, 6, 60]])
    assert document_ids(tokens, 60).tolist() == [[0, 0, 1, 1, 1, 2, 3], [0] * 7]


def packed() -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """One row of three documents, its targets, and the documents."""
    generator = torch.Generator().manual_seed(0)
    documents = [torch.cat([torch.randint(0, 60, (n,), generator=generator), torch.tensor([60])]) for n in (4, 6, 3)]
    row = torch.cat(documents)
    return row[None, :-1], row[None, 1:], documents


def by_itself(model: Decoder, documents: list[torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
    """Mean loss of the same targets, each document run alone: attention sees relative positions only."""
    logits = torch.cat([model(document[None]) for document in documents], dim=1)[:, :-1]
    return token_losses(logits, targets).mean()


def test_the_training_loss_is_that_of_the_documents_by_themselves() -> None:
    model = Decoder.initialized(gemma2(), seed=0).double()
    inputs, targets, documents = packed()
    train = Train(tokens=100, context=15, global_batch=1, mask_documents=True)
    parts = {"train": train, "optimizer": AdamW(), "schedule": ConstantSchedule(), "seed": 0}
    masked, _ = NextToken(model, separator=SEPARATOR, **parts)._outputs(inputs)
    joined, _ = NextToken(model, **parts)._outputs(inputs)
    expected = by_itself(model, documents, targets)
    torch.testing.assert_close(token_losses(masked, targets).mean(), expected)
    assert abs(token_losses(joined, targets).mean() - expected) > 1e-3


def test_validation_masks_as_training_does() -> None:
    model = Decoder.initialized(gemma2(), seed=0).double()
    inputs, targets, documents = packed()
    measured = validation_loss(model, [(inputs, targets)], torch.device("cpu"), SEPARATOR)
    torch.testing.assert_close(torch.tensor(measured), by_itself(model, documents, targets).float().detach())
