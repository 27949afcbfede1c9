"""The basic block of ResNet-18 and -34: two k x k convolutions and a shortcut.

Source: He et al. 2016, arXiv:1512.03385, figure 5 (left). Where the shape changes, the shortcut is a 1 x 1 convolution
with a norm (its option B).
"""

from __future__ import annotations

from torch import Tensor, nn

from nas.blocks._base import BLOCKS, BlockArgs, BlockType, Call, Count, call
from nas.blocks._layers import KERNEL_SIZE, DropPath, activation, conv, conv_norm_count, out_size
from nas.spec import BlockRule, LayerSpec


class BasicBlock(nn.Module):
    """k x k convolution, norm, activation, k x k convolution, norm; shortcut; activation."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, act: str = "silu"
    ) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, out_channels, kernel_size, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.act1 = activation(act)
        self.conv2 = conv(out_channels, out_channels, kernel_size)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.act2 = activation(act)
        self.downsample = projection_shortcut(in_channels, out_channels, stride)
        self.drop_path = DropPath()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        out: Tensor = self.act2(self.downsample(x) + self.drop_path(y))
        return out


def projection_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Return the shortcut of a residual block: the identity, or a 1 x 1 convolution with norm where the shape changes."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))


def shortcut_count(args: BlockArgs, size: int) -> Count:
    """Count the shortcut."""
    if args.stride == 1 and args.in_channels == args.out_channels:
        return Count(0, 0)
    return conv_norm_count(args.in_channels, args.out_channels, 1, size, args.stride)


def written(args: BlockArgs) -> Call:
    """Return the call of the block."""
    return call(
        BasicBlock,
        in_channels=args.in_channels,
        out_channels=args.out_channels,
        kernel_size=args["kernel_size"],
        stride=args.stride,
        act=args.activation,
    )


def count(args: BlockArgs, size: int) -> Count:
    """Count the block."""
    width, small = args.out_channels, out_size(size, args.stride)
    return (
        conv_norm_count(args.in_channels, width, args["kernel_size"], size, args.stride)
        + conv_norm_count(width, width, args["kernel_size"], small)
        + shortcut_count(args, size)
    )


def timm(layer: LayerSpec) -> None:
    """timm's notation is of EfficientNet's blocks only."""


BLOCKS.register(
    "basic",
    BlockType(BlockRule({"kernel_size": KERNEL_SIZE}), written, count, timm, naming="resnet"),
)
