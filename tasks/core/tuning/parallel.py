"""The processes that tune one model together, a device each; most tunings have one.

Words: a *batch* is what one optimizer step learns from, a *part* the rows of it that one process computes, a *pass* one
forward and backward pass. Gradients are those of the mean over all answers of the batch, however it is divided: every
process scales its losses by the number of processes, and gradients are then averaged over them. Sums are taken in
another order than by one process, so results differ by rounding; and where a model has dropout, other values drop out.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tasks.core.batching import Example
from tasks.core.blocks.surgery import get_blocks
from tasks.core.tuning.settings import PARALLEL
from tasks.core.tuning.trainable import Trained

Saved = tuple[dict[str, Tensor], dict[str, Any]]


class Team:
    """One process alone. The others say what several do in its place."""

    rank, size = 0, 1
    # Whether a pass of one process needs a pass of every other one at the same time.
    in_step = False

    def divide(self, rows: Sequence[Example]) -> list[list[Example]]:
        """A batch's rows by process, the same in each of them."""
        return [list(rows)]

    def wrap(self, trained: Trained) -> nn.Module:
        """The loss as a module, on this process's device."""
        return trained.make_loss()

    def seed(self, seed: int, step: int) -> None:
        """Random numbers of a step; one process goes on with those it has."""

    def average_gradients(self) -> None:
        """After the last pass of a step every process has the gradients of the whole batch."""

    def clip(self, parameters: list[nn.Parameter], largest: float) -> float:
        """The norm of the whole gradient, which is then at most `largest`."""
        return float(nn.utils.clip_grad_norm_(parameters, largest))

    def sum(self, *values: float) -> list[float]:
        """Sums over all processes."""
        return list(values)

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return self.sum(float(flag))[0] > 0

    def whole(self, tensor: Tensor) -> Tensor:
        """All of a tensor in the first process; others may get an empty one."""
        return tensor

    def like(self, own: Tensor, tensor: Tensor) -> Tensor:
        """A whole tensor, divided as this process's `own`."""
        return tensor

    def from_first(self, saved: Saved | None) -> Saved | None:
        """What the first process has, in all of them."""
        return saved


class DataTeam(Team):
    """Every process has a copy of the model; DistributedDataParallel averages gradients, once a step.

    It wraps the tuned parameters, not the loss: passes of a step then need nothing of other processes, so that one
    that runs out of memory, or has no row of a small batch, holds up nobody.
    """

    def __init__(self) -> None:
        self.rank, self.size = torch.distributed.get_rank(), torch.distributed.get_world_size()

    def divide(self, rows: Sequence[Example]) -> list[list[Example]]:
        """Dealt out by length, so that all have about as many tokens."""
        order = sorted(rows, key=lambda row: -row.num_tokens)
        return [order[rank :: self.size] for rank in range(self.size)]

    def wrap(self, trained: Trained) -> nn.Module:
        """The loss as it is; gradients of what is trained will be averaged."""
        # All processes read the same files: nothing has to be sent before the first step.
        self._tuned = nn.parallel.DistributedDataParallel(_Touch(trained.parameters()), init_sync=False)
        return super().wrap(trained)

    def seed(self, seed: int, step: int) -> None:
        """A function of seed, step and process, so that a checkpoint needs no state of every process."""
        torch.manual_seed(((seed * 1_000_003 + step) * 1_009 + self.rank) % 2**63)

    def average_gradients(self) -> None:
        """A backward pass that adds zero to every gradient, on which those of all passes are averaged."""
        self._tuned().backward()

    def sum(self, *values: float) -> list[float]:
        """Sums over all processes, over the CPU's group."""
        total = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(total)
        return total.tolist()

    def from_first(self, saved: Saved | None) -> Saved | None:
        """Read by one process, so that a damaged file is set aside once; sent tensor by tensor."""
        tensors, facts = saved or ({}, {})
        shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
        message: list[Any] = [saved is not None, facts, shapes]
        torch.distributed.broadcast_object_list(message, src=0, device=torch.device("cpu"))
        found, facts, shapes = message
        for name, (shape, dtype) in shapes.items():
            if self.rank:
                tensors[name] = torch.empty(shape, dtype=dtype)
            # Scalars have no memory to send from a view; one dimension more does no harm.
            torch.distributed.broadcast(tensors[name].view(-1), src=0)
        return (tensors, facts) if found else None


class ShardedTeam(DataTeam):
    """Every process has a share of every block, frozen ones too, and gathers a block while it computes: FSDP2."""

    in_step = True

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.mesh = torch.distributed.init_device_mesh(device.type, (self.size,))

    def wrap(self, trained: Trained) -> nn.Module:
        """The loss; the model's parameters are shares from now on, and were moved to the device block by block."""
        from torch.distributed.fsdp import fully_shard

        for blocks in tied_blocks(trained.model):
            for block in blocks:
                block.register_forward_hook(_own_memory)
            fully_shard(blocks if len(blocks) > 1 else blocks[0], mesh=self.mesh, reshard_after_forward=True)
        loss = trained.make_loss()
        fully_shard(loss, mesh=self.mesh)
        return loss

    def average_gradients(self) -> None:
        """Done by each pass."""

    def clip(self, parameters: list[nn.Parameter], largest: float) -> float:
        """The norm over the shares of all processes."""
        norm: Any = nn.utils.clip_grad_norm_(parameters, largest)
        return float(norm.full_tensor())

    def whole(self, tensor: Tensor) -> Tensor:
        """Gathered from all processes and kept, outside the device, by the first."""
        if not hasattr(tensor, "full_tensor"):
            return tensor
        full = tensor.full_tensor()
        return full.cpu() if self.rank == 0 else full.new_empty(0)

    def like(self, own: Tensor, tensor: Tensor) -> Tensor:
        """This process's share of a tensor that all of them have."""
        from torch.distributed.tensor import DTensor, distribute_tensor

        # The count of an optimizer's steps, for one, is not divided.
        if not isinstance(own, DTensor) or tensor.shape != own.shape:
            return tensor
        return distribute_tensor(tensor.to(own.device), own.device_mesh, own.placements)


def make_team(parallel: str, device: torch.device) -> Team:
    """The team of this process: of the process group that it has joined, unless the model is spread by layers.

    parallel: "layers", "data" or "sharded"; see `PARALLEL`.
    """
    assert parallel in PARALLEL
    if parallel == "layers":
        return Team()
    assert torch.distributed.is_initialized(), "join a process group first"
    return DataTeam() if parallel == "data" else ShardedTeam(device)


def tied_blocks(model: nn.Module) -> list[list[nn.Module]]:
    """The model's blocks, those that share a tensor together: only shares of one group stay tied."""
    groups: list[tuple[set[int], list[nn.Module]]] = []
    for block in get_blocks(model):
        tensors, members = {id(parameter) for parameter in block.parameters()}, [block]
        for group in [group for group in groups if group[0] & tensors]:
            groups.remove(group)
            tensors, members = tensors | group[0], group[1] + members
        groups.append((tensors, members))
    return [members for _, members in groups]


class _Touch(nn.Module):
    """Zero, which depends on every parameter."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.tuned = nn.ParameterList(parameters)

    def forward(self) -> Tensor:
        return torch.stack([parameter.sum() for parameter in self.tuned]).sum() * 0.0


def _own_memory(_: nn.Module, __: Any, output: Any) -> Any:
    """A view gets memory of its own: FSDP2 loses sight of a block whose output is a view that is changed in place."""
    if isinstance(output, Tensor):
        return output.clone() if output._is_view() else output
    return (_own_memory(_, __, output[0]), *output[1:]) if isinstance(output, tuple) else output
