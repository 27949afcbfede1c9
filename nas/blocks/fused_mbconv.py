"""Fused-MBConv: one k x k convolution in place of MBConv's expansion and depthwise, then a linear projection.

Source: Tan & Le 2021 (EfficientNetV2), arXiv:2104.00298, figure 2. With `expand_ratio: 1` it is a single k x k
convolution with norm, activation and residual, as the released networks have it: no projection (with one,
EfficientNetV2-S would have 21,459,736 parameters, not 21,458,488) and nothing expanded to squeeze. `keep_projection`
keeps both, as timm's first EfficientNetV2 did.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from nas.blocks import conv as plain
from nas.blocks._base import BLOCKS, BlockArgs, BlockType, Call, Count, call
from nas.blocks._layers import (
    ATTENTION,
    EXPAND_RATIO,
    KERNEL_SIZE,
    DropPath,
    activation,
    attention,
    attention_count,
    conv,
    conv_norm_count,
    expanded,
    masked_attention,
    out_size,
    skip_connection,
    timm_activation,
    timm_attention,
    timm_skip,
)
from nas.spec import BlockRule, Key, LayerSpec, Value


class FusedMBConv(nn.Module):
    """k x k expansion, attention, 1 x 1 linear projection, residual."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expanded: int,
        kernel_size: int = 3,
        stride: int = 1,
        act: str = "silu",
        attention: nn.Module | None = None,
        skip: str = "identity",
    ) -> None:
        super().__init__()
        self.conv_exp = conv(in_channels, expanded, kernel_size, stride)
        self.bn1 = nn.BatchNorm2d(expanded)
        self.act1 = activation(act)
        self.se = attention or nn.Identity()
        self.conv_pwl = conv(expanded, out_channels, 1)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.skip = skip_connection(skip, in_channels, out_channels, stride)
        self.drop_path = DropPath()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.se(self.act1(self.bn1(self.conv_exp(x))))
        y = self.bn2(self.conv_pwl(y))
        return y if self.skip is None else self.skip(x) + self.drop_path(y)


def _projects(options: Mapping[str, Value]) -> bool:
    return options["expand_ratio"] != 1 or bool(options["keep_projection"])


def masked(options: Mapping[str, Value]) -> Mapping[str, Value]:
    """Without expansion there is nothing to squeeze, unless the projection is kept; with one there is nothing to keep."""
    if not _projects(options):
        return masked_attention({**options, "se_ratio": 0.0})
    out = masked_attention(options)
    return out | ({} if options["expand_ratio"] == 1 else {"keep_projection": False})


def written(args: BlockArgs) -> Call:
    """Return the call of the block, as a single convolution where the expansion is 1."""
    if not _projects(args.options):
        return plain.written(args)
    middle = expanded(args)
    return call(
        FusedMBConv,
        in_channels=args.in_channels,
        out_channels=args.out_channels,
        expanded=middle,
        kernel_size=args["kernel_size"],
        stride=args.stride,
        act=args.activation,
        attention=attention(middle, args),
        skip=args.skip,
    )


def count(args: BlockArgs, size: int) -> Count:
    """Count the block."""
    if not _projects(args.options):
        return conv_norm_count(args.in_channels, args.out_channels, args["kernel_size"], size, args.stride)
    middle, small = expanded(args), out_size(size, args.stride)
    return (
        conv_norm_count(args.in_channels, middle, args["kernel_size"], size, args.stride)
        + attention_count(middle, args, small)
        + conv_norm_count(middle, args.out_channels, 1, small)
    )


def timm(layer: LayerSpec) -> str | None:
    """Write a run in timm's notation; without projection timm calls it `cn`, which has a skip connection if asked to."""
    ratio, kernel, act = layer["expand_ratio"], layer["kernel_size"], timm_activation(layer.activation)
    if not _projects(BLOCKS["fused_mbconv"].rule.all_options(dict(layer.options))):
        skip = {"": "_skip", "none": ""}.get(layer.skip)
        run = f"cn_r{layer.num_layers}_k{kernel}_s{layer.stride}_e1_c{layer.out_channels}{act}"
    else:
        skip = timm_skip(layer, "identity")
        run = f"er_r{layer.num_layers}_k{kernel}_s{layer.stride}_e{ratio:g}_c{layer.out_channels}"
        run += timm_attention(layer) + act
    return None if skip is None else run + skip


KEYS = {
    "kernel_size": KERNEL_SIZE,
    "expand_ratio": EXPAND_RATIO,
    "keep_projection": Key(bool, False, quiet=True, doc="keep the 1 x 1 projection where `expand_ratio` is 1"),
}

BLOCKS.register(
    "fused_mbconv",
    BlockType(BlockRule(KEYS | ATTENTION, masked=masked, skip="identity"), written, count, timm),
)
