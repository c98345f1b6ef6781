"""summary.json: what a run came to and what it cost."""

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
    from lab.training.conductor import Conductor
    from lab.training.data.batches import Text


def summarize(
    conductor: Conductor,
    train: Train,
    text: Text | SyntheticData,
    model: LanguageModel,
    device: torch.device,
    *,
    steps: int,
    peak_memory: int,
    world: World,
) -> Summary:
    """The summary of a run that stands at `steps`.

    Losses are in nats per token. `train/loss` of a finished run is the mean of its last steps; of any other it is that
    of the last step taken. A loss that was never measured, or never finite, has no entry, nor has an MFU whose
    peak isn't known (the provenance says why). Tokens and their speed are of all processes together, seconds are the
    first one's, and memory is that of the process that used most.
    """
    status = conductor.status(steps)
    tokens = steps * train.tokens_per_step
    seconds = conductor.stopwatch.seconds
    speed = conductor.stopwatch.tokens_per_second or (tokens / seconds if seconds else None)
    mfu = None if conductor.utilization is None else conductor.utilization.mfu(speed)
    costs = {
        "tokens": tokens,
        "steps": steps,
        "seconds": seconds,
        "tokens_per_second": speed,
        "mfu": mfu,
        "peak_memory_bytes": peak_memory,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    return Summary(
        status=status,
        reason=conductor.reason,
        metrics=_metrics(conductor, text, status),
        costs={name: cost for name, cost in costs.items() if cost is not None},
        data_digest=text.digest,
        data=_size(text),
        provenance=Provenance.of(_provenance(conductor, text, device, world)),
    )


def _provenance(
    conductor: Conductor, text: Text | SyntheticData, device: torch.device, world: World
) -> ProvenanceFacts:
    facts: ProvenanceFacts = {
        **environment.facts(device),
        "kernels": conductor.kernels,
        "data": text.digest,
        "processes": world.size,
        "nodes": world.nodes,
        "strategy": world.strategy if world.several else None,
    }
    if conductor.kernels_passed_over is not None:
        facts["kernels_passed_over"] = conductor.kernels_passed_over
    if conductor.compiler is not None:
        facts["compile"] = conductor.compilation
    if conductor.utilization is not None:
        facts["peak_flops_per_second"] = conductor.utilization.peak.flops_per_second
        facts["peak_basis"] = conductor.utilization.peak.basis
    return facts


def _size(text: Text | SyntheticData) -> dict[str, int]:
    if isinstance(text, SyntheticData):
        return {"scored_per_sequence": text.n_targets}
    return {"train_tokens": len(text.train), "validation_tokens": len(text.validation)}


def _metrics(conductor: Conductor, text: Text | SyntheticData, status: str) -> dict[str, float]:
    metrics = {"unigram/loss": text.unigram_loss}
    train_loss = conductor.final_train_loss if status == "finished" else conductor.train_loss
    if train_loss is not None:
        metrics["train/loss"] = train_loss
    metrics |= conductor.validation
    if conductor.validation and not isinstance(text, SyntheticData):
        loss = conductor.validation["val/loss"]
        metrics["val/bits_per_byte"] = bits_per_byte(loss, len(text.validation), text.validation_bytes)
    return metrics
