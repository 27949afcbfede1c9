"""What a block type is, and the registry that the files of this folder fill."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from nas.registry import Registry
from nas.spec import BlockRule, LayerSpec, Value


class Count(NamedTuple):
    """Trainable parameters and multiply-adds (convolutions and linear layers; no norm, bias or pooling)."""

    params: int
    macs: int

    def __add__(self, other: object) -> Count:
        assert isinstance(other, Count)
        return Count(self.params + other.params, self.macs + other.macs)


@dataclass(frozen=True)
class BlockArgs:
    """Everything one block is made from.

    Args:
        in_channels, out_channels: Channels in and out.
        stride: 1 or more.
        activation: Name of the activation function.
        norm_eps, norm_momentum: Of the batch norms.
        drop_path: Probability that a sample skips the block in training; only blocks with a residual use it.
        options: The keys that the block reads.
    """

    in_channels: int
    out_channels: int
    stride: int
    activation: str
    norm_eps: float
    norm_momentum: float
    drop_path: float
    options: Mapping[str, Value]

    @property
    def residual(self) -> bool:
        """Whether input and output have one shape, so that they can be added."""
        return self.stride == 1 and self.in_channels == self.out_channels

    def __getitem__(self, key: str) -> Any:
        return self.options[key]


@dataclass(frozen=True)
class BlockType:
    """One block type.

    Args:
        rule: The keys it reads, for the space language.
        build: Makes the module; it maps (N, in_channels, H, W) to (N, out_channels, ceil(H/stride), ceil(W/stride)).
        count: Parameters and multiply-adds of the block at an input of H = W = the second argument, in pixels.
        timm: timm's notation of a run of such blocks (`ir_r2_k3_s2_e6_c24_se0.25`), or None where timm has no
            exact equivalent.
    """

    rule: BlockRule
    build: Callable[[BlockArgs], nn.Module]
    count: Callable[[BlockArgs, int], Count]
    timm: Callable[[LayerSpec], str | None]


BLOCKS: Registry[BlockType] = Registry("block")
