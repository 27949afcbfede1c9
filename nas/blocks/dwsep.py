"""Depthwise-separable convolution of MobileNetV1: depthwise, then pointwise, both activated.

Source: Howard et al. 2017, arXiv:1704.04861, figure 3. (An MBConv with `expand_ratio: 1` is its linear relative.)
"""

from __future__ import annotations

from torch import Tensor, nn

from nas.blocks._base import BLOCKS, BlockArgs, BlockType, Call, Count, call
from nas.blocks._layers import (
    ATTENTION,
    KERNEL_SIZE,
    DropPath,
    activation,
    attention,
    attention_count,
    conv,
    conv_norm_count,
    masked_attention,
    out_size,
    skip_connection,
    timm_activation,
    timm_attention,
)
from nas.spec import BlockRule, LayerSpec


class DepthwiseSeparable(nn.Module):
    """k x k depthwise, norm, activation, attention, 1 x 1 convolution, norm, and an activation unless `linear`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        act: str = "silu",
        attention: nn.Module | None = None,
        linear: bool = False,
        skip: str = "none",
    ) -> None:
        super().__init__()
        self.conv_dw = conv(in_channels, in_channels, kernel_size, stride, groups=in_channels)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.act1 = activation(act)
        self.se = attention or nn.Identity()
        self.conv_pw = conv(in_channels, out_channels, 1)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.act2 = nn.Identity() if linear else activation(act)
        self.skip = skip_connection(skip, in_channels, out_channels, stride)
        self.drop_path = DropPath()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.se(self.act1(self.bn1(self.conv_dw(x))))
        y = self.act2(self.bn2(self.conv_pw(y)))
        return y if self.skip is None else self.skip(x) + self.drop_path(y)


def written(args: BlockArgs, linear: bool = False) -> Call:
    """Return the call of the block; `linear` for an inverted bottleneck without expansion."""
    return call(
        DepthwiseSeparable,
        in_channels=args.in_channels,
        out_channels=args.out_channels,
        kernel_size=args["kernel_size"],
        stride=args.stride,
        act=args.activation,
        attention=attention(args.in_channels, args),
        linear=linear,
        skip=args.skip,
    )


def count(args: BlockArgs, size: int) -> Count:
    """Count the block."""
    width, small = args.in_channels, out_size(size, args.stride)
    return (
        conv_norm_count(width, width, args["kernel_size"], size, args.stride, groups=width)
        + attention_count(width, args, small)
        + conv_norm_count(width, args.out_channels, 1, small)
    )


def timm(layer: LayerSpec) -> str | None:
    """Write a run in timm's notation, whose activated kind never has a skip connection."""
    if layer.skip not in ("", "none"):
        return None
    run = f"dsa_r{layer.num_layers}_k{layer['kernel_size']}_s{layer.stride}_e1_c{layer.out_channels}"
    return run + timm_attention(layer) + timm_activation(layer.activation)


BLOCKS.register(
    "dwsep",
    BlockType(
        # Nothing is expanded here: both bases of the squeeze are the input.
        BlockRule(
            {"kernel_size": KERNEL_SIZE} | ATTENTION,
            masked=lambda options: masked_attention(options) | {"se_base": "input"},
            skip="none",
        ),
        written,
        count,
        timm,
    ),
)
