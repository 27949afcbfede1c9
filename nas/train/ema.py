"""The exponential moving average of a network's weights, which is scored and kept in place of the last step's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nas.errors import RunError

_Lists = tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]
"""Averages and the network's float tensors, then the copies and the network's other ones, in one order."""


class Ema:
    """A moving average of the parameters and float buffers (batch-norm statistics) of a network; other buffers are copied.

    Source: the released EfficientNet code, which averages the statistics too, with the decay
    min(decay, (1 + n) / (10 + n)) of tf.train.ExponentialMovingAverage, so that the first weights are soon forgotten.

    Args:
        network: On its device, in its memory format; the average begins as a copy of it.
        decay: Share of the average that a step keeps, 0 to below 1.
        warmup: Whether the decay rises as above; without, it is the same from the first step on.
    """

    def __init__(self, network: nn.Module, decay: float, *, warmup: bool = True) -> None:
        self.decay = decay
        self.warmup = warmup
        self.values: dict[str, Tensor] = {name: value.detach().clone() for name, value in network.state_dict().items()}
        self._lists: tuple[nn.Module, int, _Lists] | None = None

    def decay_at(self, step: int) -> float:
        """Return the decay at a step, counted from 1."""
        return min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the network after an optimiser step, without waiting for the device.

        Args:
            step: Optimiser steps done, this one included.
        """
        averages, floats, copies, others = self._sorted(network)
        torch._foreach_lerp_(averages, floats, 1 - self.decay_at(step))
        if copies:
            torch._foreach_copy_(copies, others)

    @contextmanager
    def swapped(self, network: nn.Module) -> Iterator[None]:
        """Give the network the average's values for a while, then its own again; the tensors stay where they are.

        What is written to the network meanwhile (by a forward pass in training mode, say) is lost.
        """
        averages, floats, copies, others = self._sorted(network)
        live = floats + others
        with torch.no_grad():
            own = [value.clone() for value in live]
            torch._foreach_copy_(live, averages + copies)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(live, own)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the average by tensor name, as the network's `state_dict` would be; the tensors are the average's own."""
        return dict(self.values)

    @torch.no_grad()
    def load_state_dict(self, stored: Mapping[str, Tensor]) -> None:
        """Take a stored average, value for value.

        Raises:
            RunError: its tensors are not those of this network.
        """
        found = {name: tuple(value.shape) for name, value in stored.items()}
        wanted = {name: tuple(value.shape) for name, value in self.values.items()}
        if found != wanted:
            odd = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
            raise RunError(
                f"moving average: {len(odd)} tensors do not fit ({odd[0]}: found {found.get(odd[0])}; allowed: "
                f"{wanted.get(odd[0])}). Use the checkpoint of the same network."
            )
        for name, value in self.values.items():
            value.copy_(stored[name])

    def _sorted(self, network: nn.Module) -> _Lists:
        # Walking through a network of 360 tensors takes 3 ms, which is much of a step of it on a GPU. So the lists are kept as
        # long as the network's tensors stay where they are; moving or converting it moves the first one too.
        first = next(network.parameters()).data_ptr()
        if self._lists is None or self._lists[0] is not network or self._lists[1] != first:
            self._lists = (network, first, self._walked(network))
        return self._lists[2]

    def _walked(self, network: nn.Module) -> _Lists:
        averages: list[Tensor] = []
        floats: list[Tensor] = []
        copies: list[Tensor] = []
        others: list[Tensor] = []
        found = network.state_dict()
        if list(found) != list(self.values):
            raise RunError(
                "moving average: found a network with other tensors; allowed: its own. Make a new average for it."
            )
        for name, own in self.values.items():
            (averages if own.is_floating_point() else copies).append(own)
            (floats if own.is_floating_point() else others).append(found[name])
        return averages, floats, copies, others
