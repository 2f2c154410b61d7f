"""Limit of how far a tuning may move the blocks that are returned, as a share of their norms."""

from collections.abc import Mapping

import torch
from torch import Tensor

from tasks.core.tuning.lora import FACTORS
from tasks.core.tuning.method import TuningMethod, require_limitable

State = Mapping[str, Tensor]


class ChangeLimit:
    """Scales the change of each tuned block down to a share of the block's norm; the direction stays.

    Made before the training, of which it keeps the initial values. initial: the whole tuned blocks of the emulator,
    `"{block}.{name}"` to tensor; largest: norm of a block's change divided by the norm of the block.

    Raises:
        SettingError: when the method returns what changes no block.
    """

    def __init__(self, initial: State, variant: TuningMethod, largest: float) -> None:
        require_limitable(variant)
        self._variant, self._largest = variant, largest
        self._sizes = _norms(initial)
        has_factors = variant.method == "lora"
        self._initial = {} if has_factors else {name: tensor.float().clone() for name, tensor in initial.items()}

    def changes(self, state: State) -> dict[int, float]:
        """Return how far each tuned block of a state moved, as a share of its norm."""
        return {block: norm / max(self._sizes[block], 1e-30) for block, norm in self._norms_of_change(state).items()}

    @torch.no_grad()
    def limited(self, state: State) -> dict[str, Tensor]:
        """Return the state with limited changes; blocks of others than the tuned ones stay as they are."""
        scales = {block: min(1.0, self._largest / max(moved, 1e-30)) for block, moved in self.changes(state).items()}
        return {name: self._scaled(name, tensor, scales.get(_block(name), 1.0)) for name, tensor in state.items()}

    def _scaled(self, name: str, tensor: Tensor, scale: float) -> Tensor:
        if scale == 1.0:
            return tensor
        if self._variant.method == "lora":
            # The change is a multiple of the product of both factors.
            return tensor * scale if name.endswith(FACTORS[1]) else tensor
        before = self._initial[name].to(tensor.device)
        return before + (tensor - before) * scale

    def _norms_of_change(self, state: State) -> dict[int, float]:
        own = {name: tensor for name, tensor in state.items() if _block(name) in self._sizes}
        if self._variant.method != "lora":
            return _norms({name: tensor - self._initial[name].to(tensor.device) for name, tensor in own.items()})
        scale = self._variant.lora_alpha / self._variant.lora_rank
        down, up = (f".{factor}" for factor in FACTORS)
        products = {
            name: scale * (tensor.double() @ own[name.removesuffix(up) + down].double())
            for name, tensor in own.items()
            if name.endswith(up)
        }
        return _norms(products)


def _norms(tensors: State) -> dict[int, float]:
    """Return the norm of the tensors of each block."""
    squares: dict[int, float] = {}
    for name, tensor in tensors.items():
        squares[_block(name)] = squares.get(_block(name), 0.0) + float(tensor.double().square().sum())
    return {block: square**0.5 for block, square in squares.items()}


def _block(name: str) -> int:
    return int(name.partition(".")[0])
