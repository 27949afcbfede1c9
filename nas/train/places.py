"""Where a captured step finds what changes from step to step: tensors that stay where they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from nas.train.images import DeviceData
from nas.train.recipes import Recipe


@dataclass(frozen=True)
class Places:
    """Where a captured step finds what changes from step to step, and leaves its loss; all on the device.

    Args:
        rates: (steps,), those of the phase. rate: (1,), that of the step. done: int64, (1,), steps done.
        index: int64, (B,), the images of the batch. pixels: uint8, (B, H, W, C), the batch itself where the images lie on the
            host; None where the step gathers it. total: (), sum of the losses.
    """

    rates: Tensor
    rate: Tensor
    done: Tensor
    index: Tensor
    pixels: Tensor | None
    total: Tensor

    @classmethod
    def of(cls, data: DeviceData, recipe: Recipe, rates: Sequence[float]) -> Places:
        """Return the places of a phase's steps."""
        device, size, pixels = data.device, recipe.batch_size, data.train_images.pixels
        # The optimiser's kernel reads the rate as float32; on a CPU it is a float64 as it is without places.
        number = torch.float32 if device.type == "cuda" else torch.float64
        return cls(
            rates=torch.tensor(rates, dtype=number, device=device),
            rate=torch.zeros(1, dtype=number, device=device),
            done=torch.zeros(1, dtype=torch.int64, device=device),
            index=torch.zeros(size, dtype=torch.int64, device=device),
            pixels=None if pixels.device == device else pixels.new_zeros((size, *pixels.shape[1:]), device=device),
            total=torch.zeros((), device=device),
        )

    def put(self, data: DeviceData, index: Tensor) -> None:
        """Say which images the next step is on."""
        self.index.copy_(index, non_blocking=True)
        if self.pixels is not None:
            data.train_images.into(self.pixels, index)


@contextmanager
def rate_at(optimizer: torch.optim.Optimizer, place: Tensor) -> Iterator[None]:
    """Let an optimiser find its rate in a tensor; afterwards it has a number, which is what a checkpoint holds."""
    for group in optimizer.param_groups:
        group["lr"] = place
    try:
        yield
    finally:
        for group in optimizer.param_groups:
            group["lr"] = 0.0
