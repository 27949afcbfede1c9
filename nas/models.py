"""From an `ArchSpec` to a network, and to the blocks that it is made of.

Tensors are named as timm names them: `conv_stem`, `blocks.2.0.conv_dw`, `classifier` as in its EfficientNet, or, for a
network of ResNet blocks, `conv1`, `layer3.0.conv2`, `fc` as in its ResNet; so that a checkpoint of either fits the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas.blocks import BLOCKS, BlockArgs, Call
from nas.blocks._layers import DropPath, out_size
from nas.errors import UsageError
from nas.spec import ArchSpec, LayerSpec, single_layers


@dataclass(frozen=True)
class Place:
    """One block of a network: where it stands, what it is, and the size of the image that reaches it (pixels).

    `pooled`: a max pooling of stride 2 follows.
    """

    part: str
    layer: LayerSpec
    args: BlockArgs
    size: int
    pooled: bool = False

    @property
    def out_size(self) -> int:
        """Height and width of the output, in pixels."""
        size = out_size(self.size, self.args.stride)
        return out_size(size, 2) if self.pooled else size

    @property
    def call(self) -> Call:
        """The module, written down."""
        return BLOCKS[self.layer.block].call(self.args)


def places(spec: ArchSpec) -> Iterator[Place]:
    """Yield every block of a network in order: `stem`, `s1` ... , `head`."""
    spec = spec.resolved()
    blocks = [("stem", spec.stem)]
    for number, stage in enumerate(spec.stages, 1):
        blocks += [(f"s{number}", layer) for layer in single_layers(stage)]
    if spec.head is not None:
        blocks.append(("head", spec.head))
    channels, size = spec.in_channels, spec.resolution
    for part, layer in blocks:
        if part == "head" and spec.pool_first:
            size = 1
        place = placed(part, layer, channels, size, pooled=part == "stem" and spec.stem_pool)
        yield place
        channels, size = layer.out_channels, place.out_size


def placed(part: str, layer: LayerSpec, channels: int, size: int, pooled: bool = False) -> Place:
    """Return a block of a resolved network where it meets an input of so many channels and pixels."""
    rule = BLOCKS[layer.block].rule
    args = BlockArgs(
        in_channels=channels,
        out_channels=layer.out_channels,
        stride=layer.stride,
        activation=layer.activation,
        options=rule.all_options(dict(layer.options)),
        skip=rule.skip_of(layer.skip),
    )
    return Place(part, layer, args, size, pooled)


class Network(nn.Sequential):
    """A built architecture: maps images (N, in_channels, H, W) to class scores (N, num_classes).

    A list of named parts, run in order. Any H = W works; `spec.resolution` is the one it is meant for.

    Drop-path rates rise linearly over all blocks: rate * i / N, i from 0.
    Source: Huang et al. 2016, arXiv:1603.09382, equation 4, as in the released EfficientNet code.
    """

    dropout: nn.Dropout

    def __init__(self, spec: ArchSpec) -> None:
        super().__init__()
        self.spec = spec
        resnet = naming(spec) == "resnet"
        stages: dict[str, list[nn.Module]] = {}
        width = spec.in_channels
        for place in places(spec):
            stages.setdefault(place.part, []).append(BLOCKS[place.layer.block].build(place.args))
            width = place.args.out_channels
        stem, head = stages.pop("stem")[0], stages.pop("head", [None])[0]
        self._add_parts(stem, "conv1" if resnet else "conv_stem", "bn1", "act1")
        if spec.stem_pool:
            self.add_module("maxpool", nn.MaxPool2d(3, 2, 1))
        if resnet:
            for number, blocks in enumerate(stages.values(), 1):
                self.add_module(f"layer{number}", nn.Sequential(*blocks))
        else:
            self.add_module("blocks", nn.Sequential(*(nn.Sequential(*blocks) for blocks in stages.values())))
        if spec.pool_first:
            self.add_module("global_pool", GlobalPool())
        if head is not None:
            self._add_parts(head, "conv_head", "bn2", "act2")
        if not spec.pool_first:
            self.add_module("global_pool", GlobalPool())
        self.add_module("flatten", nn.Flatten())
        self.add_module("dropout", nn.Dropout(spec.dropout))
        self.add_module("fc" if resnet else "classifier", nn.Linear(width, spec.num_classes))
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = spec.norm_eps, spec.norm_momentum
        self._in_stages = tuple(block for blocks in stages.values() for block in blocks)
        self.set_drop_path(spec.drop_path)

    def set_drop_path(self, rate: float) -> None:
        """Set the drop-path rates of all blocks, in place of those of the spec."""
        for index, block in enumerate(self._in_stages):
            for module in block.modules():
                if isinstance(module, DropPath):
                    module.rate = rate * index / len(self._in_stages)

    def _add_parts(self, block: nn.Module, *names: str) -> None:
        """Add convolution, norm and activation of a `conv` block: timm keeps those of stem and head at top level."""
        for name, part in zip(names, ("conv", "bn1", "act1"), strict=True):
            self.add_module(name, block.get_submodule(part))


class GlobalPool(nn.Module):
    """The mean of each channel: maps (N, C, H, W) to (N, C, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the channel means."""
        return x.mean((2, 3), keepdim=True)


def naming(spec: ArchSpec) -> str:
    """Return whose names the tensors of a network have: `resnet` where it is one, else `efficientnet`."""
    kinds = {BLOCKS[layer.block].naming for stage in spec.stages for layer in stage.layers}
    return "resnet" if kinds == {"resnet"} and spec.head is None else "efficientnet"


def build(spec: ArchSpec, *, seed: int | None = None) -> Network:
    """Build the network of a spec, with fresh weights.

    Convolutions ~ N(0, sqrt(2 / (k * k * out_channels / groups))), as in the released EfficientNet code. Its classifier
    ~ U(+-1 / sqrt(num_classes)) suits a thousand classes; with ten, first scores would be an order too large (measured:
    a first loss of 3.1 where ln 10 = 2.3), so the bound is also at most 1 / sqrt(in_features).

    Args:
        seed: Seed of the weights; None draws from torch's global generator.

    Raises:
        UsageError: something else than an architecture.
    """
    if not isinstance(spec, ArchSpec):
        raise UsageError(f"build: found {spec!r}; allowed: an architecture. Load one: nas.build(nas.load_arch(name)).")
    with torch.random.fork_rng(devices=[]):  # torch fills new layers from its global generator; ours overwrite them
        network = Network(spec)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
                module.weight.normal_(0, math.sqrt(2 / fan_out), generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.Linear):
                bound = 1 / math.sqrt(max(module.in_features, module.out_features))
                module.weight.uniform_(-bound, bound, generator=generator)
                module.bias.zero_()
    return network


def state_bytes(spec: ArchSpec) -> int:
    """Return the size of a network's weights and running statistics, in bytes: what a checkpoint of it weighs."""
    with torch.device("meta"):
        state = Network(spec).state_dict()
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def timm_definition(spec: ArchSpec) -> list[list[str]] | None:
    """Return timm's `arch_def` of the resolved stages, or None where timm has no exact equivalent.

    The small print of an attention is an argument of timm's builder, one for the whole network, and not in these strings:
    `nas.export` gives it, and refuses a network where it differs from block to block.
    """
    stages = []
    for stage in spec.resolved().stages:
        runs = [BLOCKS[layer.block].timm(layer) for layer in stage.layers]
        if any(run is None for run in runs):
            return None
        stages.append([run for run in runs if run is not None])
    return stages
