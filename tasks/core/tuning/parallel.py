"""Processes that tune one model together, one device each; most tunings have a single process.

A *batch* is the rows of one optimizer step, a *part* the rows of it that one process computes, a *pass* one forward and
backward pass. Gradients are those of the mean over all answers of the batch, however it is divided: every process
scales its losses by the number of processes, and gradients are then averaged over the processes. The order of sums
differs from that of one process, so results differ by rounding; with dropout, other values are dropped.
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
    """A single process; subclasses override its methods for several processes."""

    rank, size = 0, 1
    # Whether a pass of one process needs a simultaneous pass of every other process.
    in_step = False

    def divide(self, rows: Sequence[Example]) -> list[list[Example]]:
        """Divide the rows of a batch by process; every process gets the same result."""
        return [list(rows)]

    def wrap(self, trained: Trained) -> nn.Module:
        """Make the loss as a module, on this process's device."""
        return trained.make_loss()

    def seed(self, seed: int, step: int) -> None:
        """Seed the random numbers of a step; a single process continues its sequence."""

    def average_gradients(self) -> None:
        """Average gradients after the last pass of a step, so that every process has those of the whole batch."""

    def clip(self, parameters: list[nn.Parameter], largest: float) -> float:
        """Clip the whole gradient to a norm of at most `largest`; return its norm before clipping."""
        return float(nn.utils.clip_grad_norm_(parameters, largest))

    def sum(self, *values: float) -> list[float]:
        """Return sums over all processes."""
        return list(values)

    def any(self, flag: bool) -> bool:
        """Return whether the flag is true in any process."""
        return self.sum(float(flag))[0] > 0

    def whole(self, tensor: Tensor) -> Tensor:
        """Return the whole tensor in the first process; other processes may get an empty one."""
        return tensor

    def like(self, own: Tensor, tensor: Tensor) -> Tensor:
        """Return this process's part of a whole tensor, divided like `own`."""
        return tensor

    def from_first(self, saved: Saved | None) -> Saved | None:
        """Return the saved state of the first process, in all processes."""
        return saved


class DataTeam(Team):
    """Processes with a copy of the model each; DistributedDataParallel averages gradients once per step.

    It wraps the tuned parameters instead of the loss. The passes of a step then need no communication, so that a
    process that runs out of memory, or has no row of a small batch, does not block the others.
    """

    def __init__(self) -> None:
        self.rank, self.size = torch.distributed.get_rank(), torch.distributed.get_world_size()

    def divide(self, rows: Sequence[Example]) -> list[list[Example]]:
        """Deal out the rows by length, so that all processes have about the same number of tokens."""
        order = sorted(rows, key=lambda row: -row.num_tokens)
        return [order[rank :: self.size] for rank in range(self.size)]

    def wrap(self, trained: Trained) -> nn.Module:
        """Make the unchanged loss, and prepare averaging the gradients of the trained parameters."""
        # All processes read the same files, so nothing has to be sent before the first step.
        self._tuned = nn.parallel.DistributedDataParallel(_Touch(trained.parameters()), init_sync=False)
        return super().wrap(trained)

    def seed(self, seed: int, step: int) -> None:
        """Seed by the seed, step and process, so that a checkpoint needs no random state of every process."""
        torch.manual_seed(((seed * 1_000_003 + step) * 1_009 + self.rank) % 2**63)

    def average_gradients(self) -> None:
        """Run a backward pass that adds zero to every gradient, which triggers the averaging over processes."""
        self._tuned().backward()

    def sum(self, *values: float) -> list[float]:
        """Return sums over all processes, using the process group of the CPU."""
        total = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(total)
        return total.tolist()

    def from_first(self, saved: Saved | None) -> Saved | None:
        """Send the saved state of the first process to all, tensor by tensor.

        Only one process reads the file, so that a damaged one is set aside only once.
        """
        tensors, facts = saved or ({}, {})
        shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
        message: list[Any] = [saved is not None, facts, shapes]
        torch.distributed.broadcast_object_list(message, src=0, device=torch.device("cpu"))
        found, facts, shapes = message
        for name, (shape, dtype) in shapes.items():
            if self.rank:
                tensors[name] = torch.empty(shape, dtype=dtype)
            # Sent as a view with one dimension, so that scalars can be sent too; the memory is the tensor's.
            torch.distributed.broadcast(tensors[name].view(-1), src=0)
        return (tensors, facts) if found else None


class ShardedTeam(DataTeam):
    """Processes with a shard of every block each, including frozen ones; a block is gathered while it runs (FSDP2)."""

    in_step = True

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.mesh = torch.distributed.init_device_mesh(device.type, (self.size,))

    def wrap(self, trained: Trained) -> nn.Module:
        """Make the loss, and shard the model's parameters, moving them to the device block by block."""
        from torch.distributed.fsdp import fully_shard

        for blocks in tied_blocks(trained.model):
            for block in blocks:
                block.register_forward_hook(_own_memory)
            fully_shard(blocks if len(blocks) > 1 else blocks[0], mesh=self.mesh, reshard_after_forward=True)
        loss = trained.make_loss()
        fully_shard(loss, mesh=self.mesh)
        return loss

    def average_gradients(self) -> None:
        """Do nothing: each pass averages its gradients."""

    def clip(self, parameters: list[nn.Parameter], largest: float) -> float:
        """Clip the gradient by its norm over the shards of all processes; return the norm before clipping."""
        norm: Any = nn.utils.clip_grad_norm_(parameters, largest)
        return float(norm.full_tensor())

    def whole(self, tensor: Tensor) -> Tensor:
        """Gather a tensor from all processes; the first one returns it on the CPU, the others an empty one."""
        if not hasattr(tensor, "full_tensor"):
            return tensor
        full = tensor.full_tensor()
        return full.cpu() if self.rank == 0 else full.new_empty(0)

    def like(self, own: Tensor, tensor: Tensor) -> Tensor:
        """Return this process's shard of a tensor that all processes have."""
        from torch.distributed.tensor import DTensor, distribute_tensor

        # Some tensors are not sharded, such as the step count of an optimizer.
        if not isinstance(own, DTensor) or tensor.shape != own.shape:
            return tensor
        return distribute_tensor(tensor.to(own.device), own.device_mesh, own.placements)


def make_team(parallel: str, device: torch.device) -> Team:
    """Make the team of this process: a single process for "layers", else the process group that it has joined.

    parallel: "layers", "data" or "sharded"; see `PARALLEL`.
    """
    assert parallel in PARALLEL
    if parallel == "layers":
        return Team()
    assert torch.distributed.is_initialized(), "join a process group first"
    return DataTeam() if parallel == "data" else ShardedTeam(device)


def tied_blocks(model: nn.Module) -> list[list[nn.Module]]:
    """Group the model's blocks by shared tensors, because only tensors sharded in one group stay tied."""
    groups: list[tuple[set[int], list[nn.Module]]] = []
    for block in get_blocks(model):
        tensors, members = {id(parameter) for parameter in block.parameters()}, [block]
        for group in [group for group in groups if group[0] & tensors]:
            groups.remove(group)
            tensors, members = tensors | group[0], group[1] + members
        groups.append((tensors, members))
    return [members for _, members in groups]


class _Touch(nn.Module):
    """Module whose output is zero and depends on every parameter."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.tuned = nn.ParameterList(parameters)

    def forward(self) -> Tensor:
        return torch.stack([parameter.sum() for parameter in self.tuned]).sum() * 0.0


def _own_memory(_: nn.Module, __: Any, output: Any) -> Any:
    """Copy an output that is a view: FSDP2 loses track of a block whose output is a view that is changed in place."""
    if isinstance(output, Tensor):
        return output.clone() if output._is_view() else output
    return (_own_memory(_, __, output[0]), *output[1:]) if isinstance(output, tuple) else output
