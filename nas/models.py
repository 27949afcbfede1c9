"""From an `ArchSpec` to a network, and to the blocks that it is made of.

Module names follow timm's EfficientNet (`conv_stem`, `bn1`, `blocks.2.0.conv_dw`, `conv_head`, `classifier`), so that
a checkpoint of either fits the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas.blocks import BLOCKS, BlockArgs
from nas.blocks._layers import out_size
from nas.spec import ArchSpec, LayerSpec, strides


@dataclass(frozen=True)
class Place:
    """One block of a network: where it stands, what it is, and the size of the image that reaches it (pixels)."""

    part: str
    layer: LayerSpec
    args: BlockArgs
    size: int

    @property
    def out_size(self) -> int:
        """Height and width of the output, in pixels."""
        return out_size(self.size, self.args.stride)


def places(spec: ArchSpec) -> Iterator[Place]:
    """Yield every block of a network in order: `stem`, `s1` ... , `head`.

    Drop-path rates rise linearly over all blocks: rate * i / N, i from 0.
    Source: Huang et al. 2016, arXiv:1603.09382, equation 4, as in the released EfficientNet code.
    """
    spec = spec.resolved()
    blocks = [("stem", spec.stem, spec.stem.stride, 0.0)]
    total = sum(stage.num_layers for stage in spec.stages)
    index = 0
    for number, stage in enumerate(spec.stages, 1):
        for layer, stride in strides(stage.layers):
            blocks.append((f"s{number}", layer, stride, spec.drop_path * index / total))
            index += 1
    if spec.head is not None:
        blocks.append(("head", spec.head, spec.head.stride, 0.0))
    channels, size = spec.in_channels, spec.resolution
    for part, layer, stride, drop_path in blocks:
        args = BlockArgs(
            in_channels=channels,
            out_channels=layer.out_channels,
            stride=stride,
            activation=layer.activation,
            norm_eps=spec.norm_eps,
            norm_momentum=spec.norm_momentum,
            drop_path=drop_path,
            options=dict(layer.options),
        )
        place = Place(part, layer, args, size)
        yield place
        channels, size = layer.out_channels, place.out_size


class Network(nn.Module):
    """A built architecture: maps images (N, in_channels, H, W) to class scores (N, num_classes).

    Any H = W works; `spec.resolution` is the one it is meant for.
    """

    def __init__(self, spec: ArchSpec) -> None:
        super().__init__()
        self.spec = spec
        stages: dict[str, list[nn.Module]] = {}
        width = spec.in_channels
        for place in places(spec):
            module = BLOCKS[place.layer.block].build(place.args)
            stages.setdefault(place.part, []).append(module)
            width = place.args.out_channels
        stem = stages.pop("stem")[0]
        self.conv_stem, self.bn1, self.act1 = _parts(stem)
        head = stages.pop("head", None)
        self.blocks = nn.Sequential(*(nn.Sequential(*blocks) for blocks in stages.values()))
        self.conv_head, self.bn2, self.act2 = (
            (nn.Identity(), nn.Identity(), nn.Identity()) if head is None else _parts(head[0])
        )
        self.dropout = nn.Dropout(spec.dropout)
        self.classifier = nn.Linear(width, spec.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores of a batch of images."""
        x = self.act1(self.bn1(self.conv_stem(x)))
        x = self.act2(self.bn2(self.conv_head(self.blocks(x))))
        scores: Tensor = self.classifier(self.dropout(x.mean((2, 3))))
        return scores


def _parts(block: nn.Module) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Return convolution, norm and activation of a `conv` block: timm keeps those of stem and head at top level."""
    return block.get_submodule("conv"), block.get_submodule("bn1"), block.get_submodule("act1")


def build(spec: ArchSpec, *, seed: int | None = None) -> Network:
    """Build the network of a spec, with fresh weights.

    Convolutions ~ N(0, sqrt(2 / (k * k * out_channels / groups))), as in the released EfficientNet code. Its classifier
    ~ U(+-1 / sqrt(num_classes)) suits a thousand classes; with ten, first scores would be an order too large (measured:
    a first loss of 3.1 where ln 10 = 2.3), so the bound is also at most 1 / sqrt(in_features).

    Args:
        seed: Seed of the weights; None draws from torch's global generator.
    """
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


def timm_definition(spec: ArchSpec) -> list[list[str]] | None:
    """Return timm's `arch_def` of the resolved stages, or None where timm has no exact equivalent."""
    stages = []
    for stage in spec.resolved().stages:
        runs = [BLOCKS[layer.block].timm(layer) for layer in stage.layers]
        if any(run is None for run in runs):
            return None
        stages.append([run for run in runs if run is not None])
    return stages
