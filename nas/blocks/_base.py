"""What a block type is, and the registry that the files of this folder fill."""

from __future__ import annotations

import inspect
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
        options: The keys that the block reads.
        skip: `identity`, `pool` or `none`: what is added to the output where the shapes allow it.
    """

    in_channels: int
    out_channels: int
    stride: int
    activation: str
    options: Mapping[str, Value]
    skip: str = "none"

    def __getitem__(self, key: str) -> Any:
        return self.options[key]


Parameters = Mapping[type[nn.Module], Mapping[str, Any]]
"""Of each class its parameters by name, with their defaults; `inspect.Parameter.empty` where there is none."""


@dataclass(frozen=True)
class Call:
    """A module written down before it is made: the class, and what it is given.

    The network is built from calls, and its readable source is printed from the same calls, so that what is exported
    is what was trained.
    """

    kind: type[nn.Module]
    given: Mapping[str, Any]

    def build(self) -> nn.Module:
        """Make the module."""
        return self.kind(**{name: _built(value) for name, value in self.given.items()})

    def source(self, parameters: Parameters | None = None) -> str:
        """Return the call as Python, without arguments that have their default: `MBConv(24, 40, 144, stride=2)`.

        Args:
            parameters: Of each class those to write, with their defaults; all of them, with the class's own, unless given.
        """
        own = {name: item.default for name, item in inspect.signature(self.kind).parameters.items()}
        words = []
        for name, default in (own if parameters is None else parameters[self.kind]).items():
            value = self.given.get(name, own[name])
            text = value.source(parameters) if isinstance(value, Call) else repr(value).replace("'", '"')
            if default is inspect.Parameter.empty:
                words.append(text)
            elif value != default:
                words.append(f"{name}={text}")
        return f"{self.kind.__name__}({', '.join(words)})"


def call(kind: type[nn.Module], **given: Any) -> Call:
    """Return the call of a module's class with some arguments."""
    return Call(kind, given)


def _built(value: Any) -> Any:
    return value.build() if isinstance(value, Call) else value


@dataclass(frozen=True)
class BlockType:
    """One block type.

    Args:
        rule: The keys it reads, for the space language.
        call: Says which module the block is; it maps (N, in_channels, H, W) to (N, out_channels, ceil(H/stride),
            ceil(W/stride)).
        count: Parameters and multiply-adds of the block at an input of H = W = the second argument, in pixels.
        timm: timm's notation of a run of such blocks (`ir_r2_k3_s2_e6_c24_se0.25`), or None where timm has no
            exact equivalent.
        naming: Whose names the tensors of a network of such blocks have: timm's `efficientnet` or `resnet`.
    """

    rule: BlockRule
    call: Callable[[BlockArgs], Call]
    count: Callable[[BlockArgs, int], Count]
    timm: Callable[[LayerSpec], str | None]
    naming: str = "efficientnet"

    def build(self, args: BlockArgs) -> nn.Module:
        """Make the block, with fresh weights."""
        return self.call(args).build()


BLOCKS: Registry[BlockType] = Registry("block")
