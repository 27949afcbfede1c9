"""The bottleneck of ResNet-50 and deeper: 1 x 1 reduction, k x k convolution, 1 x 1 expansion, shortcut.

Sources: He et al. 2016, arXiv:1512.03385, figure 5 (right), with the stride on the k x k convolution as everyone builds it
since; Zagoruyko & Komodakis 2016, arXiv:1605.07146, for wider ones (`bottleneck_ratio: 0.5`).
"""

from __future__ import annotations

from torch import Tensor, nn

from nas.blocks._base import BLOCKS, BlockArgs, BlockType, Call, Count, call
from nas.blocks._layers import KERNEL_SIZE, DropPath, activation, conv, conv_norm_count, out_size
from nas.blocks.basic import projection_shortcut, shortcut_count, timm
from nas.spec import BlockRule, Key, round_channels


class Bottleneck(nn.Module):
    """1 x 1 to `width` channels, k x k, 1 x 1 to `out_channels`, each with its norm; shortcut; activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int,
        kernel_size: int = 3,
        stride: int = 1,
        act: str = "silu",
    ) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = activation(act)
        self.conv2 = conv(width, width, kernel_size, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.act2 = activation(act)
        self.conv3 = conv(width, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.act3 = activation(act)
        self.downsample = projection_shortcut(in_channels, out_channels, stride)
        self.drop_path = DropPath()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv1(x)))
        y = self.act2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        out: Tensor = self.act3(self.downsample(x) + self.drop_path(y))
        return out


def inner(args: BlockArgs) -> int:
    """Return the channels of the k x k convolution, rounded to 8."""
    return round_channels(args.out_channels * float(args["bottleneck_ratio"]))


def written(args: BlockArgs) -> Call:
    """Return the call of the block."""
    return call(
        Bottleneck,
        in_channels=args.in_channels,
        out_channels=args.out_channels,
        width=inner(args),
        kernel_size=args["kernel_size"],
        stride=args.stride,
        act=args.activation,
    )


def count(args: BlockArgs, size: int) -> Count:
    """Count the block."""
    width, small = inner(args), out_size(size, args.stride)
    return (
        conv_norm_count(args.in_channels, width, 1, size)
        + conv_norm_count(width, width, args["kernel_size"], size, args.stride)
        + conv_norm_count(width, args.out_channels, 1, small)
        + shortcut_count(args, size)
    )


KEYS = {
    "kernel_size": KERNEL_SIZE,
    "bottleneck_ratio": Key(
        float, 0.25, minimum=0.01, maximum=4, doc="channels of the k x k convolution over `out_channels`"
    ),
}

BLOCKS.register("bottleneck", BlockType(BlockRule(KEYS), written, count, timm, naming="resnet"))
