"""Build the summary of a run: its results and costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from components.language_model import LanguageModel
from lab.data.synthetic.synthetic_data import SyntheticData
from lab.records import Provenance, ProvenanceFacts, Summary
from lab.training import environment
from lab.training.data.validation import bits_per_byte
from lab.training.options import Train
from lab.training.parallel.world import World

if TYPE_CHECKING:
    from lab.training.data.batches import Text
    from lab.training.step_callback import StepCallback


def summarize(
    callback: StepCallback,
    train: Train,
    text: Text | SyntheticData,
    model: LanguageModel,
    device: torch.device,
    *,
    steps: int,
    peak_memory: int,
    world: World,
    validation_tokens: int,
) -> Summary:
    """The summary of a run after `steps` optimizer steps.

    Losses are in nats per token. `train/loss` is the mean over the last steps of a finished run, and otherwise the loss
    of the last step. A loss that was never finite has no entry. There is no MFU if the peak is unknown; the provenance
    has the reason. Tokens and speed are totals over all processes, seconds are those of the first process, and memory
    is that of the process with the highest peak.

    Args:
        validation_tokens: tokens that all validations measured on.
    """
    status = callback.status(steps)
    tokens = steps * train.tokens_per_step
    seconds = callback.stopwatch.seconds
    speed = callback.stopwatch.tokens_per_second or (tokens / seconds if seconds else None)
    mfu = None if callback.utilization is None else callback.utilization.mfu(speed)
    costs = {
        "tokens": tokens,
        "steps": steps,
        "seconds": seconds,
        "tokens_per_second": speed,
        "mfu": mfu,
        "peak_memory_bytes": peak_memory,
        "validation_tokens": validation_tokens,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    return Summary(
        status=status,
        reason=callback.reason,
        metrics=_metrics(callback, text, status),
        costs={name: cost for name, cost in costs.items() if cost is not None},
        data_digest=text.digest,
        data=_facts(text),
        provenance=Provenance.of(_provenance(callback, text, device, world)),
    )


def _provenance(
    callback: StepCallback, text: Text | SyntheticData, device: torch.device, world: World
) -> ProvenanceFacts:
    facts: ProvenanceFacts = {
        **environment.facts(device),
        "kernels": callback.kernels,
        "data": text.digest,
        "processes": world.size,
        "nodes": world.nodes,
        "strategy": world.strategy if world.several else None,
    }
    if callback.kernels_passed_over is not None:
        facts["kernels_passed_over"] = callback.kernels_passed_over
    if callback.pieces is not None:
        facts["pieces"] = callback.pieces
    if native := environment.native_libraries():
        facts["native"] = native
    if callback.compiler is not None:
        facts["compile"] = callback.compilation
    if callback.utilization is not None:
        facts["peak_flops_per_second"] = callback.utilization.peak.flops_per_second
        facts["peak_basis"] = callback.utilization.peak.basis
    return facts


def _facts(text: Text | SyntheticData) -> dict[str, object]:
    """The size of a text, and the digests of its parts, by which a comparison knows runs with the same text."""
    if isinstance(text, SyntheticData):
        return {"scored_per_sequence": text.n_targets}
    return {
        "train_tokens": len(text.train),
        "validation_tokens": len(text.validation),
        "validation_bytes": text.validation_bytes,
        "parts": dict(text.part_digests),
        **text.left_out,
    }


def _metrics(callback: StepCallback, text: Text | SyntheticData, status: str) -> dict[str, float]:
    metrics = {"unigram/loss": text.unigram_loss}
    train_loss = callback.final_train_loss if status == "finished" else callback.train_loss
    if train_loss is not None:
        metrics["train/loss"] = train_loss
    metrics |= callback.validation
    if callback.validation and not isinstance(text, SyntheticData):
        loss = callback.validation["val/loss"]
        metrics["val/bits_per_byte"] = bits_per_byte(loss, text.validation_targets, text.validation_bytes)
    return metrics
