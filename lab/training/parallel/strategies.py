"""Lightning strategies for several processes that are already started and connected.

Both write the checkpoints of a single process: full tensors under the model's own names, and the optimizer's state in
its own order. So a run can resume with any number of processes and with either strategy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from components.language_model import LanguageModel
from lab.training.parallel.world import World


class Environment(ClusterEnvironment):
    """Tells Lightning the rank of a process, and that the other processes are already running."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return self._world.address

    @property
    def main_port(self) -> int:
        return self._world.port

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._world.size

    def set_world_size(self, size: int) -> None:
        """Ignored: Lightning would derive the size from devices and nodes, but nodes may differ in their devices."""

    def global_rank(self) -> int:
        return self._world.rank

    def set_global_rank(self, rank: int) -> None:
        """Ignored, for the same reason as the size."""

    def local_rank(self) -> int:
        return self._world.local_rank

    def node_rank(self) -> int:
        return 0


class Replicated(DDPStrategy):
    """Every process has the whole model and optimizer. Gradients are averaged in the last micro-batch of a step."""

    def __init__(self, world: World, device: torch.device) -> None:
        # With `find_unused_parameters`, torch doesn't rebuild the gradient buckets after the first step. That would
        # change the order of sums, so that a resumed run of three or more processes would differ from an uninterrupted
        # one.
        super().__init__(
            cluster_environment=Environment(world),
            find_unused_parameters=True,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )
        self._device = device

    @property
    def root_device(self) -> torch.device:
        return self._device


class Sharded(ModelParallelStrategy):
    """Every process has a shard of each weight, its gradient and its optimizer state (FSDP2, torch's fully_shard).

    Lightning's FSDPStrategy doesn't support CPUs, and its flattened weights have another optimizer state than those of
    a single process.
    """

    def __init__(self, world: World, device: torch.device) -> None:
        super().__init__(data_parallel_size=world.size, tensor_parallel_size=1, save_distributed_checkpoint=False)
        self.cluster_environment = Environment(world)
        self._device = device

    @property
    def root_device(self) -> torch.device:
        return self._device

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The full weights in the first process; the others take part in gathering and get empty results."""
        assert self.model is not None
        gathered: dict[str, Any] = _gather(self.model.state_dict(), keep=self.is_global_zero)
        return gathered

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The full state in the first process, in the form of an optimizer of unsharded parameters."""
        gathered: dict[str, Any] = _gather(_plain(optimizer).state_dict(), keep=self.is_global_zero)
        return gathered

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.model is not None
        own = self.model.state_dict()
        parts = {
            name: _part(value, own[name]) if name in own else value for name, value in checkpoint["state_dict"].items()
        }
        self.model.load_state_dict(parts, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            parts = {
                number: {name: _part(value, parameters[number]) for name, value in values.items()}
                for number, values in state["state"].items()
            }
            _plain(optimizer).load_state_dict({**state, "state": parts})

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: object = None) -> None:
        """Write one file, in the first process, with the checkpoint plugin."""
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Load the full checkpoint in every process; each then takes its shards."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)


def strategy_of(world: World, device: torch.device) -> DDPStrategy | ModelParallelStrategy:
    """The strategy of a run with several processes, each on its own device."""
    return Sharded(world, device) if world.strategy == "fsdp" else Replicated(world, device)


def shard(model: LanguageModel, mesh: DeviceMesh) -> None:
    """Shard a model over the processes, in place: first each block, then the remaining parameters.

    Remaining parameters, such as a tied embedding, are gathered for the whole forward pass, so that the model can use
    them anywhere.
    """
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for method in ("outputs", "losses", "logits_at"):
        register_fsdp_forward_method(model, method)


def reshard(model: nn.Module) -> None:
    """Free the weights that a forward pass without a backward pass has gathered. Does nothing to an unsharded model."""
    if isinstance(model, FSDPModule):
        model.reshard()


def full_tensor(tensor: Tensor) -> Tensor:
    """Gather a tensor if it is sharded. All processes must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _gather(state: Any, *, keep: bool) -> Any:
    """A state with full tensors on the CPU; without the tensors if `keep` is False."""
    if isinstance(state, Mapping):
        gathered = {key: _gather(value, keep=keep) for key, value in state.items()}
        return {key: value for key, value in gathered.items() if keep or not isinstance(value, Tensor)}
    if isinstance(state, list | tuple):
        return type(state)(_gather(value, keep=keep) for value in state)
    if not isinstance(state, Tensor):
        return state
    value = full_tensor(state.detach())
    return value.cpu() if keep else value.new_empty(0)


def _part(value: Any, like: Any) -> Any:
    """The shard of this process of a full tensor, if `like` is sharded and has its shape; otherwise the tensor."""
    if isinstance(value, Tensor) and isinstance(like, DTensor) and value.shape == like.shape:
        value = value.to(like.device)
        return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
    return value


def _plain(optimizer: Any) -> Optimizer:
    """The optimizer inside Lightning's wrapper."""
    plain: Optimizer = getattr(optimizer, "optimizer", optimizer)
    return plain
