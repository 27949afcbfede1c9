"""Fused-MBConv: one k x k convolution in place of MBConv's expansion and depthwise, then a linear projection.

Source: Tan & Le 2021 (EfficientNetV2), arXiv:2104.00298, figure 2. With `expand_ratio: 1` it is a single k x k
convolution with norm, activation and residual, as the released networks have it: no projection (with one,
EfficientNetV2-S would have 21,459,736 parameters, not 21,458,488) and nothing expanded to squeeze.
"""

from __future__ import annotations

from collections.abc import Mapping

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
from nas.spec import BlockRule, LayerSpec, Value


class FusedMBConv(nn.Module):
    """k x k expansion, squeeze-excitation, 1 x 1 linear projection, residual."""

    def __init__(self, args: BlockArgs) -> None:
        super().__init__()
        middle = expanded(args)
        self.conv_exp = conv(args.in_channels, middle, args["kernel_size"], args.stride)
        self.bn1 = norm(middle, args)
        self.act1 = activation(args.activation)
        self.se = squeeze_excite(middle, args)
        self.conv_pwl = conv(middle, args.out_channels, 1)
        self.bn2 = norm(args.out_channels, args)
        self.residual = args.residual
        self.drop_path = DropPath(args.drop_path if args.residual else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        x_wide = self.se(self.act1(self.bn1(self.conv_exp(x))))
        y: Tensor = self.drop_path(self.bn2(self.conv_pwl(x_wide)))
        return x + y if self.residual else y


class FusedMBConvE1(nn.Module):
    """Fused-MBConv without expansion: k x k convolution, norm, activation, residual."""

    def __init__(self, args: BlockArgs) -> None:
        super().__init__()
        self.conv = conv(args.in_channels, args.out_channels, args["kernel_size"], args.stride)
        self.bn1 = norm(args.out_channels, args)
        self.act1 = activation(args.activation)
        self.residual = args.residual
        self.drop_path = DropPath(args.drop_path if args.residual else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.drop_path(self.act1(self.bn1(self.conv(x))))
        return x + y if self.residual else y


def masked(options: Mapping[str, Value]) -> Mapping[str, Value]:
    """Without expansion there is nothing to squeeze: the block does not read `se_ratio`."""
    return {**options, "se_ratio": 0.0} if options["expand_ratio"] == 1 else options


def build(args: BlockArgs) -> nn.Module:
    """Return the block, as a single convolution where the expansion is 1."""
    return FusedMBConvE1(args) if args["expand_ratio"] == 1 else FusedMBConv(args)


def count(args: BlockArgs, size: int) -> Count:
    """Count the block."""
    if args["expand_ratio"] == 1:
        return conv_norm_count(args.in_channels, args.out_channels, args["kernel_size"], size, args.stride)
    middle = expanded(args)
    return (
        conv_norm_count(args.in_channels, middle, args["kernel_size"], size, args.stride)
        + squeeze_excite_count(middle, args)
        + conv_norm_count(middle, args.out_channels, 1, out_size(size, args.stride))
    )


def timm(layer: LayerSpec) -> str:
    """Write a run in timm's notation; without expansion timm calls it `cn` with `skip`."""
    ratio, kernel, act = layer["expand_ratio"], layer["kernel_size"], timm_activation(layer.activation)
    if ratio == 1:
        return f"cn_r{layer.num_layers}_k{kernel}_s{layer.stride}_e1_c{layer.out_channels}{act}_skip"
    se = f"_se{layer['se_ratio']:g}" if layer["se_ratio"] else ""
    return f"er_r{layer.num_layers}_k{kernel}_s{layer.stride}_e{ratio:g}_c{layer.out_channels}{se}{act}"


BLOCKS.register(
    "fused_mbconv",
    BlockType(
        BlockRule({"kernel_size": KERNEL_SIZE, "expand_ratio": EXPAND_RATIO, "se_ratio": SE_RATIO}, masked=masked),
        build,
        count,
        timm,
    ),
)
