"""Next-token prediction as a Lightning module: one batch is one optimizer step, divided into micro-batches.

Optimization is manual, so that a step is a pure function of (weights, optimizer state, step). The learning rate, the
batch and the random numbers of dropout all depend on the number of the step, so nothing is skipped on resuming.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from components.attention.kernels import KernelChoice
from components.fused.piece import forms
from components.language_model import LanguageModel
from components.loss import at, token_losses
from lab.refusals import RequestError
from lab.training.compilation import Compiler
from lab.training.data.documents import document_ids
from lab.training.optimizers.optimizer import Optimizer, check_trained
from lab.training.optimizers.schedule import Schedule
from lab.training.options import Train
from lab.training.parallel.group import SINGLE_PROCESS, Group
from lab.training.parallel.strategies import full_tensor, shard
from lab.training.parallel.world import MicroBatch


@dataclass(frozen=True)
class StepResult:
    """The measurements of a training step. All processes have the same values.

    Attributes:
        loss: mean cross-entropy over the global batch before the step, in nats per token.
        grad_norm: global L2 norm of the gradient of the objective, before clipping.
        lr: the learning rate of the step.
        auxiliary: name → weighted auxiliary loss of the model; mean over the micro-batches.
        terms: name → other value that the recipe measures; mean over the global batch.
    """

    loss: float
    grad_norm: float
    lr: float
    auxiliary: dict[str, float] = field(default_factory=dict)
    terms: dict[str, float] = field(default_factory=dict)

    @property
    def fault(self) -> str | None:
        """Which value is not finite, so that the step was not taken; None if the step was taken."""
        if not math.isfinite(self.loss):
            return f"the training loss is {self.loss}"
        for name, value in self.auxiliary.items():
            if not math.isfinite(value):
                return f"the auxiliary loss {name} is {value}"
        for name, value in self.terms.items():
            if not math.isfinite(value):
                return f"{name} is {value}"
        if not math.isfinite(self.grad_norm):
            return f"the gradient's norm is {self.grad_norm}"
        return None


@dataclass(frozen=True)
class Losses:
    """The losses of a micro-batch: scalars, means over its tokens in nats.

    Attributes:
        next_token: cross-entropy against the text. It is the loss of a step in every recipe, so that recipes can be
            compared.
        objective: the minimised loss, including the auxiliary losses.
        auxiliary: name → weighted auxiliary loss of the model.
        terms: name → other value to record, detached.
    """

    next_token: Tensor
    objective: Tensor
    auxiliary: dict[str, Tensor] = field(default_factory=dict)
    terms: dict[str, Tensor] = field(default_factory=dict)


def step_seed(seed: int, step: int) -> int:
    """The random seed of a training step."""
    return int.from_bytes(hashlib.sha256(f"step/{seed}/{step}".encode()).digest()[:8], "little") >> 1


def micro_batch_seed(seed: int, step: int, first: int) -> int:
    """The random seed of a micro-batch, from the index of its first sequence in the global batch.

    The first micro-batch has the seed of the step.
    """
    if first == 0:
        return step_seed(seed, step)
    return int.from_bytes(hashlib.sha256(f"step/{seed}/{step}/{first}".encode()).digest()[:8], "little") >> 1


def _seed_generators(seed: int, device: torch.device) -> None:
    # Not torch.manual_seed: for every device type that isn't initialized it queues a call with its traceback, which
    # takes longer than a step of a small model and is never freed.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


class NextToken(LightningModule):
    """Trains a language model on batches of (inputs, targets), each [B, T].

    A batch may have targets at n places of each sequence only: (inputs [B, T], targets [B, n], places [B, n]). The loss
    is then the mean over these.

    With a `separator`, the id that ends a document, the model also gets the document ids, [B, T].

    A step whose loss or gradient is not finite is not taken; `StepResult.fault` has the reason.

    Several processes take a step together, each on its part of the batch. The step is that of a single process except
    for the order of sums and for dropout. A single process seeds its generators once per step; several processes seed
    them for each micro-batch, by its place in the global batch. So with two or more processes, dropout depends on the
    micro-batches but not on which process computes them. A mixture of experts always balances its load over the tokens
    of a micro-batch.

    Other recipes derive from this class. A recipe can have parameters of its own; its `fills()` says how they start.
    They are trained and saved with the model's, by the same optimizer and under the same clipping.
    """

    from_logits: ClassVar[bool] = False
    """Whether the recipe needs all logits, so that the model can't compute the loss in chunks."""

    def __init__(
        self,
        model: LanguageModel,
        *,
        train: Train,
        optimizer: Optimizer,
        schedule: Schedule,
        seed: int,
        separator: int | None = None,
        group: Group = SINGLE_PROCESS,
        compiler: Compiler | None = None,
        n_targets: int | None = None,
    ) -> None:
        """
        Args:
            seed: the random seed of the run.
            separator: the id that ends a document, to mask documents; None not to.
            group: the processes that train together; a batch is this process's part of the global batch.
            compiler: compiles the model's blocks; None to compile nothing.
            n_targets: number of targets in a sequence; None if every token has one.
        """
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self._train = train
        self._optimizer = optimizer
        self._schedule = schedule
        self._seed = seed
        self._separator = separator
        self._group = group
        self._compiler = compiler
        self._n_targets = n_targets
        self._peak_rates: list[float] = []

    def configure_model(self) -> None:
        """Shard the model if the strategy requires it.

        Raises:
            RequestError: the recipe has parameters of its own, which can't be sharded.
        """
        if self.device_mesh is not None:
            if self.own_parameters():
                name = next(iter(self.own_parameters()))
                problem = f"the recipe has parameters of its own, such as {name}, which can't be sharded"
                raise RequestError(problem, kind="unsupported", given="fsdp", fix="use strategy ddp")
            shard(self.model, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = self if self.own_parameters() else self.model
        optimizer = self._optimizer.build(trained)
        check_trained(optimizer, trained, self._optimizer.name)
        # Read now: after loading a checkpoint, the groups have the rate of its step.
        self._peak_rates = [group["lr"] for group in optimizer.param_groups]
        return optimizer

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> dict[str, Any]:
        step = self.trainer.global_step
        optimizer: Any = self.optimizers()

        def compute_gradients() -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
            _seed_generators(step_seed(self._seed, step), self.device)
            return self._accumulate(*batch)

        compiler = self._compiler
        loss, auxiliary, terms = (
            compute_gradients() if compiler is None else compiler.step(compute_gradients, undo=optimizer.zero_grad)
        )
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        norm = full_tensor(torch.nn.utils.get_total_norm(gradients))
        # All values in one transfer, because each read waits for the device.
        values = torch.stack([value.to(loss) for value in (loss, *auxiliary.values(), *terms.values())])
        norm_value, loss_value, *others = torch.cat([norm.to(loss).view(1), self._group.sum(values)]).tolist()
        factor = self._schedule.factor(step, self._train.steps, self._train.tokens_per_step)
        for group, peak in zip(optimizer.param_groups, self._peak_rates, strict=True):
            group["lr"] = peak * factor
        result = StepResult(
            loss=loss_value,
            grad_norm=norm_value,
            lr=self._peak_rates[0] * factor,
            auxiliary=dict(zip(auxiliary, others, strict=False)),
            terms=dict(zip(terms, others[len(auxiliary) :], strict=True)),
        )
        if result.fault is None:
            if self._train.grad_clip is not None:
                torch.nn.utils.clip_grads_with_norm_(self.parameters(), self._train.grad_clip, norm)
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return {"result": result}

    def kernel_choices(self) -> dict[str, KernelChoice] | None:
        """Layer kind → attention kernel used here, and the reasons against the others; None if the model can't tell."""
        sequences = self._group.world.sequences_per_forward(self._train)
        return self.model.kernel_choices(sequences, self._train.context, documents=self._train.mask_documents)

    def piece_forms(self) -> dict[str, str]:
        """Fused piece → the form that a step uses: `fused`, or `naive` with the reason."""
        decision = None if self._compiler is None else self._compiler.decision
        dtype = torch.bfloat16 if self._train.precision == "bf16-mixed" else torch.float32
        return forms(self.device.type, dtype, compiled=decision is not None and decision.is_on)

    def loss_form(self, device: torch.device) -> str:
        """How the loss of a micro-batch is computed: from all logits (`plain`), or in chunks."""
        tokens = self._group.world.sequences_per_forward(self._train) * (self._n_targets or self._train.context)
        return "plain" if self.from_logits else self.model.loss_form(tokens, device.type)

    def own_parameters(self) -> dict[str, torch.nn.Parameter]:
        """The parameters of the recipe itself, by name: those that are not the model's."""
        of_model = set(map(id, self.model.parameters()))
        return {name: parameter for name, parameter in self.named_parameters() if id(parameter) not in of_model}

    def losses_of(self, tokens: Tensor, targets: Tensor) -> Losses:
        """What a pass over tokens and targets, each [B, T], gives the model to learn from."""
        return self._measure(tokens, targets)

    def facts(self) -> dict[str, object]:
        """Further entries of the run's summary."""
        return {}

    def _accumulate(
        self, inputs: Tensor, targets: Tensor, places: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Accumulate the gradient of the global batch's objective over the micro-batches of this process.

        Returns:
            This process's share of the mean loss, of the auxiliary losses and of the recipe's terms, detached. Their
            sums over the processes are the means over the global batch.
        """
        world = self._group.world
        micro_batches = world.micro_batches(self._train)
        total = torch.zeros((), device=inputs.device)
        auxiliary: dict[str, Tensor] = {}
        terms: dict[str, Tensor] = {}
        for number, micro_batch in enumerate(micro_batches, start=1):
            begin = micro_batch.first - micro_batches[0].first
            part = slice(begin, begin + micro_batch.size)
            x, y, at_places = inputs[part], targets[part], None if places is None else places[part]
            share = len(x) / self._train.global_batch if micro_batch.is_counted else 0.0
            self._seed_micro_batch(micro_batch)
            losses = self._measure(x, y, at_places)
            with contextlib.nullcontext() if number == len(micro_batches) else self._no_gradient_sync():
                # Gradients are averaged over the processes, but the sum is needed.
                self.manual_backward(losses.objective * (share * world.size))
            total = total + losses.next_token.detach() * share
            for sums, values in ((auxiliary, losses.auxiliary), (terms, losses.terms)):
                for name, term in values.items():
                    sums[name] = sums.get(name, 0.0) + term.detach() * share
        return total, auxiliary, terms

    def _seed_micro_batch(self, micro_batch: MicroBatch) -> None:
        """Seed the generators by the place of the micro-batch in the global batch. A single process doesn't."""
        if self._group.world.several:
            _seed_generators(micro_batch_seed(self._seed, self.trainer.global_step, micro_batch.first), self.device)

    def _no_gradient_sync(self) -> contextlib.AbstractContextManager[None]:
        """Delay the exchange of gradients between replicas until the last micro-batch of a step.

        Shards exchange them in every micro-batch; otherwise each process would need memory for the whole gradient.
        """
        strategy: Any = self.trainer.strategy
        block: Any = getattr(strategy, "block_backward_sync", contextlib.nullcontext)
        return block()  # type: ignore[no-any-return]

    def _measure(self, tokens: Tensor, targets: Tensor, places: Tensor | None = None) -> Losses:
        """Compute the losses of a micro-batch, tokens [B, T]."""
        if not self.from_logits:
            measured = self.model.losses(*self._inputs(tokens), targets=targets, places=places)
            return Losses(measured.next_token.mean(), measured.objective, measured.auxiliary)
        logits, auxiliary = self._outputs(tokens)
        losses = self._losses(tokens, targets, logits if places is None else at(logits, places))
        return replace(losses, objective=sum(auxiliary.values(), losses.objective), auxiliary=auxiliary)

    def _losses(self, tokens: Tensor, targets: Tensor, logits: Tensor) -> Losses:
        """What there is to learn from all logits of a pass, the model's auxiliary losses aside: a recipe's own part."""
        loss = token_losses(logits, targets).mean()
        return Losses(next_token=loss, objective=loss)

    def _inputs(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """What a model is called with."""
        return (tokens,) if self._separator is None else (tokens, document_ids(tokens, self._separator))

    def _outputs(self, tokens: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        output = self.model.outputs(*self._inputs(tokens))
        return output.logits, output.losses
