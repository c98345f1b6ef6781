"""Lightning's strategies for a run over several processes that somebody else has started and connected.

Both keep checkpoints as one process writes them: whole tensors under the model's own names, and the optimizer's state
in its own order. So a run goes on with any number of processes, under either strategy.
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
    """Tells Lightning where a process stands, and that the others run already."""

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
        """Nothing: Lightning would work it out from devices and nodes, which need not be alike on every node."""

    def global_rank(self) -> int:
        return self._world.rank

    def set_global_rank(self, rank: int) -> None:
        """Nothing, as for the size."""

    def local_rank(self) -> int:
        return self._world.local_rank

    def node_rank(self) -> int:
        return 0


class Replicated(DDPStrategy):
    """Every process holds the whole model and optimizer; gradients are averaged in the last pass of a step."""

    def __init__(self, world: World, device: torch.device) -> None:
        # Looking for unused parameters keeps torch from laying the buckets of gradients out anew after the first step,
        # which would sum in another order: a resumed run of three or more processes would not be the undisturbed one.
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
    """Every process holds a part of each weight, its gradient and its optimizer state (FSDP2, torch's fully_shard).

    Not Lightning's FSDPStrategy: that one refuses a CPU, and holds weights in flattened buffers, whose optimizer state
    is not one process's.
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
        """The whole weights, in the first process; the others help to gather them and get nothing."""
        assert self.model is not None
        gathered: dict[str, Any] = _gathered(self.model.state_dict(), keep=self.is_global_zero)
        return gathered

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state, in the first process, as an optimizer of unsharded parameters has it."""
        gathered: dict[str, Any] = _gathered(_plain(optimizer).state_dict(), keep=self.is_global_zero)
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
                number: {name: _part(value, parameters[number]) for name, value in of_one.items()}
                for number, of_one in state["state"].items()
            }
            _plain(optimizer).load_state_dict({**state, "state": parts})

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: object = None) -> None:
        """One file, written by the first process through the checkpoint plugin, as under any other strategy."""
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """The whole checkpoint, in every process; each then takes its parts."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)


def strategy_of(world: World, device: torch.device) -> DDPStrategy | ModelParallelStrategy:
    """The strategy of a run over several processes, each on its own device."""
    return Sharded(world, device) if world.strategy == "fsdp" else Replicated(world, device)


def shard(model: LanguageModel, mesh: DeviceMesh) -> None:
    """Let each process hold its part of a model, in place: each of its blocks by itself, then the rest.

    The rest, such as a tied embedding, is gathered for a whole pass, so the model may use it where it likes.
    """
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for method in ("outputs", "losses", "logits_at"):
        register_fsdp_forward_method(model, method)


def reshard(model: nn.Module) -> None:
    """Let go of what a forward pass without a backward pass has gathered; nothing for a model that isn't sharded."""
    if isinstance(model, FSDPModule):
        model.reshard()


def whole(tensor: Tensor) -> Tensor:
    """A tensor, gathered if it is held in parts; then all processes have to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _gathered(found: Any, *, keep: bool) -> Any:
    """A state in which every tensor is whole and on the CPU; empty where it isn't kept."""
    if isinstance(found, Mapping):
        gathered = {key: _gathered(value, keep=keep) for key, value in found.items()}
        return {key: value for key, value in gathered.items() if keep or not isinstance(value, Tensor)}
    if isinstance(found, list | tuple):
        return type(found)(_gathered(value, keep=keep) for value in found)
    if not isinstance(found, Tensor):
        return found
    value = whole(found.detach())
    return value.cpu() if keep else value.new_empty(0)


def _part(value: Any, like: Any) -> Any:
    """What this process holds of a whole tensor, if `like` is held in parts and of its shape."""
    if isinstance(value, Tensor) and isinstance(like, DTensor) and value.shape == like.shape:
        value = value.to(like.device)
        return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
    return value


def _plain(optimizer: Any) -> Optimizer:
    """The optimizer under Lightning's wrapper."""
    plain: Optimizer = getattr(optimizer, "optimizer", optimizer)
    return plain
