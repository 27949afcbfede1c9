"""MBConv, the inverted bottleneck: expand, depthwise, squeeze-excitation, linear projection, residual.

Sources: Sandler et al. 2018 (MobileNetV2), arXiv:1801.04381, table 1; Tan et al. 2019 (MnasNet), arXiv:1807.11626,
figure 7, for squeeze-excitation. With `expand_ratio: 1` there is no expansion convolution.
"""

from __future__ import annotations

from torch import Tensor, nn

from nas.blocks._base import BLOCKS, BlockArgs, BlockType, Count
from nas.blocks._layers import (
    EXPAND_RATIO,
    KERNEL_SIZE,
    SE_RATIO,
    DropPath,
    activation,
    conv,
    conv_norm_count,
    expanded,
    norm,
    out_size,
    squeeze_excite,
    squeeze_excite_count,
    timm_activation,
)
from nas.spec import BlockRule, LayerSpec


class MBConv(nn.Module):
    """1 x 1 expansion, k x k depthwise, squeeze-excitation, 1 x 1 linear projection, residual."""

    def __init__(self, args: BlockArgs) -> None:
        super().__init__()
        middle = expanded(args)
        self.conv_pw = conv(args.in_channels, middle, 1)
        self.bn1 = norm(middle, args)
        self.act1 = activation(args.activation)
        self.conv_dw = conv(middle, middle, args["kernel_size"], args.stride, groups=middle)
        self.bn2 = norm(middle, args)
        self.act2 = activation(args.activation)
        self.se = squeeze_excite(middle, args)
        self.conv_pwl = conv(middle, args.out_channels, 1)
        self.bn3 = norm(args.out_channels, args)
        self.residual = args.residual
        self.drop_path = DropPath(args.drop_path if args.residual else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        x_wide = self.act1(self.bn1(self.conv_pw(x)))
        x_wide = self.se(self.act2(self.bn2(self.conv_dw(x_wide))))
        y: Tensor = self.drop_path(self.bn3(self.conv_pwl(x_wide)))
        return x + y if self.residual else y


class MBConvE1(nn.Module):
    """MBConv without expansion: k x k depthwise, squeeze-excitation, 1 x 1 linear projection, residual."""

    def __init__(self, args: BlockArgs) -> None:
        super().__init__()
        width = args.in_channels
        self.conv_dw = conv(width, width, args["kernel_size"], args.stride, groups=width)
        self.bn1 = norm(width, args)
        self.act1 = activation(args.activation)
        self.se = squeeze_excite(width, args)
        self.conv_pw = conv(width, args.out_channels, 1)
        self.bn2 = norm(args.out_channels, args)
        self.residual = args.residual
        self.drop_path = DropPath(args.drop_path if args.residual else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        x_deep = self.se(self.act1(self.bn1(self.conv_dw(x))))
        y: Tensor = self.drop_path(self.bn2(self.conv_pw(x_deep)))
        return x + y if self.residual else y


def build(args: BlockArgs) -> nn.Module:
    """Return the block, without an expansion where the ratio is 1."""
    return MBConvE1(args) if args["expand_ratio"] == 1 else MBConv(args)


def count(args: BlockArgs, size: int) -> Count:
    """Count the block."""
    middle = args.in_channels if args["expand_ratio"] == 1 else expanded(args)
    expansion = Count(0, 0)
    if args["expand_ratio"] != 1:
        expansion = conv_norm_count(args.in_channels, middle, 1, size)
    return (
        expansion
        + conv_norm_count(middle, middle, args["kernel_size"], size, args.stride, groups=middle)
        + squeeze_excite_count(middle, args)
        + conv_norm_count(middle, args.out_channels, 1, out_size(size, args.stride))
    )


def timm(layer: LayerSpec) -> str:
    """Write a run in timm's notation; without expansion timm calls it `ds`."""
    ratio = layer["expand_ratio"]
    kind = "ds" if ratio == 1 else "ir"
    se = f"_se{layer['se_ratio']:g}" if layer["se_ratio"] else ""
    act = timm_activation(layer.activation)
    run = f"{kind}_r{layer.num_layers}_k{layer['kernel_size']}_s{layer.stride}_e{ratio:g}"
    return f"{run}_c{layer.out_channels}{se}{act}"


BLOCKS.register(
    "mbconv",
    BlockType(
        BlockRule({"kernel_size": KERNEL_SIZE, "expand_ratio": EXPAND_RATIO, "se_ratio": SE_RATIO}),
        build,
        count,
        timm,
    ),
)
