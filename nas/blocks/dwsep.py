"""Depthwise-separable convolution of MobileNetV1: depthwise, then pointwise, both activated; never a residual.

Source: Howard et al. 2017, arXiv:1704.04861, figure 3. (An MBConv with `expand_ratio: 1` is its linear relative.)
"""

from __future__ import annotations

from torch import Tensor, nn

from nas.blocks._base import BLOCKS, BlockArgs, BlockType, Count
from nas.blocks._layers import (
    KERNEL_SIZE,
    SE_RATIO,
    activation,
    conv,
    conv_norm_count,
    norm,
    out_size,
    squeeze_excite,
    squeeze_excite_count,
    timm_activation,
)
from nas.spec import BlockRule, LayerSpec


class DepthwiseSeparable(nn.Module):
    """k x k depthwise, norm, activation, squeeze-excitation, 1 x 1 convolution, norm, activation."""

    def __init__(self, args: BlockArgs) -> None:
        super().__init__()
        width = args.in_channels
        self.conv_dw = conv(width, width, args["kernel_size"], args.stride, groups=width)
        self.bn1 = norm(width, args)
        self.act1 = activation(args.activation)
        self.se = squeeze_excite(width, args)
        self.conv_pw = conv(width, args.out_channels, 1)
        self.bn2 = norm(args.out_channels, args)
        self.act2 = activation(args.activation)

    def forward(self, x: Tensor) -> Tensor:
        x = self.se(self.act1(self.bn1(self.conv_dw(x))))
        y: Tensor = self.act2(self.bn2(self.conv_pw(x)))
        return y


def count(args: BlockArgs, size: int) -> Count:
    """Count the block."""
    width, small = args.in_channels, out_size(size, args.stride)
    return (
        conv_norm_count(width, width, args["kernel_size"], size, args.stride, groups=width)
        + squeeze_excite_count(width, args)
        + conv_norm_count(width, args.out_channels, 1, small)
    )


def timm(layer: LayerSpec) -> str:
    """Write a run in timm's notation."""
    se = f"_se{layer['se_ratio']:g}" if layer["se_ratio"] else ""
    act = timm_activation(layer.activation)
    return f"dsa_r{layer.num_layers}_k{layer['kernel_size']}_s{layer.stride}_e1_c{layer.out_channels}{se}{act}"


BLOCKS.register(
    "dwsep",
    BlockType(BlockRule({"kernel_size": KERNEL_SIZE, "se_ratio": SE_RATIO}), DepthwiseSeparable, count, timm),
)
