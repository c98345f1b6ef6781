"""Next-token prediction as a Lightning module: one batch is one optimizer step, cut into as many passes as memory asks.

Optimization is manual so that a step is a pure function of (weights, optimizer state, step): the learning rate, the
batch and the random numbers of dropout are all addressed by the step, and nothing has to be fast-forwarded to resume.
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
from components.language_model import LanguageModel
from components.loss import at, token_losses
from lab.training.compilation import Compiler
from lab.training.data.documents import document_ids
from lab.training.optimizers.optimizer import Optimizer
from lab.training.optimizers.schedule import Schedule
from lab.training.options import Train
from lab.training.parallel.group import ALONE, Group
from lab.training.parallel.strategies import shard, whole
from lab.training.parallel.world import Pass


@dataclass(frozen=True)
class StepResult:
    """What a training step measured.

    Attributes:
        loss: mean cross-entropy over the global batch before the step, nats per token; as all of this, the same in
            every process.
        grad_norm: global L2 norm of the gradient of that and the auxiliary losses together, before clipping.
        lr: the learning rate of the step.
        auxiliary: what the model asked to be added to the cross-entropy, weighted, by name; mean over the passes.
        terms: what else the recipe measured, by name; mean over the global batch.
    """

    loss: float
    grad_norm: float
    lr: float
    auxiliary: dict[str, float] = field(default_factory=dict)
    terms: dict[str, float] = field(default_factory=dict)

    @property
    def fault(self) -> str | None:
        """What is not finite, and why the step was therefore not taken; None for a step taken."""
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
    """What a recipe makes of one pass, means over its tokens in nats.

    Attributes:
        next_token: cross-entropy against the text: a step's loss in every recipe, so that recipes can be compared.
        objective: what is minimised, with the auxiliary losses in it.
        auxiliary: what the model asked to be added, weighted, by name.
        terms: what else is worth recording, by name, detached.
    """

    next_token: Tensor
    objective: Tensor
    auxiliary: dict[str, Tensor] = field(default_factory=dict)
    terms: dict[str, Tensor] = field(default_factory=dict)


def step_seed(seed: int, step: int) -> int:
    """Seed of the random numbers that a training step draws, a function of the two alone."""
    return int.from_bytes(hashlib.sha256(f"step/{seed}/{step}".encode()).digest()[:8], "little") >> 1


def pass_seed(seed: int, step: int, first: int) -> int:
    """The random seed of a pass, from the index of its first sequence in the global batch.

    The first pass's is the step's.
    """
    if first == 0:
        return step_seed(seed, step)
    return int.from_bytes(hashlib.sha256(f"step/{seed}/{step}/{first}".encode()).digest()[:8], "little") >> 1


def _seed_generators(seed: int, device: torch.device) -> None:
    # Not torch.manual_seed: it queues a call, with its traceback, for every kind of device that has not started, which
    # takes longer than a small model's step and is never freed.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


class NextToken(LightningModule):
    """Trains a language model on batches of (inputs, targets), each [B, T].

    A batch may say where there is something to predict, at n places of each sequence: (inputs [B, T], targets [B, n],
    places [B, n]). The loss is the mean over those then.

    With a `separator`, the id that ends a document, the model is also given the document ids, [B, T].

    A step whose loss or gradient is not finite is not taken, and says so in its result.

    Several processes take a step together, each on its part of the batch, and it is the step of one process but for the
    order in which sums are taken. With dropout it is another draw: a process by itself draws for one pass after the
    other, several draw for each pass by its place in the batch. So any two numbers of processes that go through the
    same passes drop the same activations, whichever process goes through which; a mixture of experts balances its
    load over the tokens of a pass, in one process as in several.

    Recipes that learn from more than the text derive from it.
    """

    from_logits: ClassVar[bool] = False
    """Whether the recipe reads all logits, so that the model has to make them."""

    def __init__(
        self,
        model: LanguageModel,
        *,
        train: Train,
        optimizer: Optimizer,
        schedule: Schedule,
        seed: int,
        separator: int | None = None,
        group: Group = ALONE,
        compiler: Compiler | None = None,
        n_targets: int | None = None,
    ) -> None:
        """
        Args:
            n_targets: number of targets in a sequence; None if every token has one.
            group: the processes that train together; a batch is this one's part of the global batch.
            compiler: of the model's blocks; None to compile nothing.
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
        self._peaks: list[float] = []

    def configure_model(self) -> None:
        """Hold a part of each weight only, if that is the strategy."""
        if self.device_mesh is not None:
            shard(self.model, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = self._optimizer.build(self.model)
        # Now, since a checkpoint's groups hold the rate of the step that it was taken at.
        self._peaks = [group["lr"] for group in optimizer.param_groups]
        return optimizer

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> dict[str, Any]:
        step = self.trainer.global_step
        optimizer: Any = self.optimizers()

        def passes() -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
            _seed_generators(step_seed(self._seed, step), self.device)
            return self._accumulate(*batch)

        compiler = self._compiler
        loss, auxiliary, terms = passes() if compiler is None else compiler.step(passes, undo=optimizer.zero_grad)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = whole(torch.nn.utils.get_total_norm(gradients))
        # Together, since each read waits for the device.
        measured = torch.stack([value.to(loss) for value in (loss, *auxiliary.values(), *terms.values())])
        norm_value, loss_value, *others = torch.cat([norm.to(loss).view(1), self._group.sum(measured)]).tolist()
        factor = self._schedule.factor(step, self._train.steps, self._train.tokens_per_step)
        for group, peak in zip(optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        result = StepResult(
            loss=loss_value,
            grad_norm=norm_value,
            lr=self._peaks[0] * factor,
            auxiliary=dict(zip(auxiliary, others, strict=False)),
            terms=dict(zip(terms, others[len(auxiliary) :], strict=True)),
        )
        if result.fault is None:
            if self._train.grad_clip is not None:
                torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self._train.grad_clip, norm)
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return {"result": result}

    def kernel_choices(self) -> dict[str, KernelChoice] | None:
        """Which attention kernel each layer kind uses here and why no other, if the model can tell."""
        sequences = self._group.world.sequences_per_forward(self._train)
        return self.model.kernel_choices(sequences, self._train.context, documents=self._train.mask_documents)

    def loss_form(self, device: torch.device) -> str:
        """How the loss of a pass is computed: from all logits (`plain`), or in chunks that hold some of them."""
        tokens = self._group.world.sequences_per_forward(self._train) * (self._n_targets or self._train.context)
        return "plain" if self.from_logits else self.model.loss_form(tokens, device.type)

    def facts(self) -> dict[str, object]:
        """What the run's summary says besides, by key."""
        return {}

    def _accumulate(
        self, inputs: Tensor, targets: Tensor, places: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Add the gradient of the global batch's objective, one of this process's passes after another.

        Returns:
            This process's share of the mean loss, of the auxiliary losses and of the recipe's terms, detached; their
            sums over the processes are the means over the global batch.
        """
        world = self._group.world
        passes = world.passes(self._train)
        total = torch.zeros((), device=inputs.device)
        auxiliary: dict[str, Tensor] = {}
        terms: dict[str, Tensor] = {}
        for number, each in enumerate(passes, start=1):
            begin = each.first - passes[0].first
            part = slice(begin, begin + each.size)
            x, y, at_places = inputs[part], targets[part], None if places is None else places[part]
            share = len(x) / self._train.global_batch if each.counts else 0.0
            self._seed_pass(each)
            losses = self._measure(x, y, at_places)
            with contextlib.nullcontext() if number == len(passes) else self._keeping_gradients():
                # The processes' gradients are averaged, and their sum is wanted.
                self.manual_backward(losses.objective * (share * world.size))
            total = total + losses.next_token.detach() * share
            for sums, found in ((auxiliary, losses.auxiliary), (terms, losses.terms)):
                for name, term in found.items():
                    sums[name] = sums.get(name, 0.0) + term.detach() * share
        return total, auxiliary, terms

    def _seed_pass(self, each: Pass) -> None:
        """Address the pass's random numbers by its place in the global batch; one process draws them in a row."""
        if self._group.world.several:
            _seed_generators(pass_seed(self._seed, self.trainer.global_step, each.first), self.device)

    def _keeping_gradients(self) -> contextlib.AbstractContextManager[None]:
        """Let replicas exchange gradients in the last pass of a step only. Parts of them are exchanged in each pass,
        or every process would have to hold them whole until then."""
        strategy: Any = self.trainer.strategy
        block: Any = getattr(strategy, "block_backward_sync", contextlib.nullcontext)
        return block()  # type: ignore[no-any-return]

    def _measure(self, tokens: Tensor, targets: Tensor, places: Tensor | None = None) -> Losses:
        """One pass over tokens [B, T]: what the model is to learn from it, and what it asks for besides."""
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
