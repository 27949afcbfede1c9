"""A convolution with norm and activation; never a residual. Stem, head and MobileNetV3's last stage are made of it."""

from __future__ import annotations

from torch import Tensor, nn

from nas.blocks._base import BLOCKS, BlockArgs, BlockType, Count
from nas.blocks._layers import KERNEL_SIZE, activation, conv, conv_norm_count, norm, timm_activation
from nas.spec import BlockRule, LayerSpec


class Conv(nn.Module):
    """k x k convolution, norm, activation."""

    def __init__(self, args: BlockArgs) -> None:
        super().__init__()
        self.conv = conv(args.in_channels, args.out_channels, args["kernel_size"], args.stride)
        self.bn1 = norm(args.out_channels, args)
        self.act1 = activation(args.activation)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act1(self.bn1(self.conv(x)))
        return y


def count(args: BlockArgs, size: int) -> Count:
    """Count the block."""
    return conv_norm_count(args.in_channels, args.out_channels, args["kernel_size"], size, args.stride)


def timm(layer: LayerSpec) -> str:
    """Write a run in timm's notation."""
    kernel, act = layer["kernel_size"], timm_activation(layer.activation)
    return f"cn_r{layer.num_layers}_k{kernel}_s{layer.stride}_e1_c{layer.out_channels}{act}"


BLOCKS.register(
    "conv",
    BlockType(BlockRule({"kernel_size": KERNEL_SIZE}, roles=frozenset({"stem", "stage", "head"})), Conv, count, timm),
)
