"""MBConv, the inverted bottleneck: expand, depthwise, squeeze-excitation, linear projection, residual.

Sources: Sandler et al. 2018 (MobileNetV2), arXiv:1801.04381, table 1; Tan et al. 2019 (MnasNet), arXiv:1807.11626,
figure 7, for squeeze-excitation. With `expand_ratio: 1` there is no expansion convolution, unless `keep_expansion` says so
(FBNet).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from nas.blocks import dwsep
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


class MBConv(nn.Module):
    """1 x 1 expansion, k x k depthwise, attention, 1 x 1 linear projection, residual."""

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
        self.conv_pw = conv(in_channels, expanded, 1)
        self.bn1 = nn.BatchNorm2d(expanded)
        self.act1 = activation(act)
        self.conv_dw = conv(expanded, expanded, kernel_size, stride, groups=expanded)
        self.bn2 = nn.BatchNorm2d(expanded)
        self.act2 = activation(act)
        self.se = attention or nn.Identity()
        self.conv_pwl = conv(expanded, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.skip = skip_connection(skip, in_channels, out_channels, stride)
        self.drop_path = DropPath()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act1(self.bn1(self.conv_pw(x)))
        y = self.se(self.act2(self.bn2(self.conv_dw(y))))
        y = self.bn3(self.conv_pwl(y))
        return y if self.skip is None else self.skip(x) + self.drop_path(y)


def _expands(options: Mapping[str, Value]) -> bool:
    return options["expand_ratio"] != 1 or bool(options["keep_expansion"])


def masked(options: Mapping[str, Value]) -> Mapping[str, Value]:
    """Without expansion both bases of the squeeze are the input; with a ratio above 1 there is nothing to keep."""
    out = masked_attention(options)
    if not _expands(options):
        return out | {"se_base": "input"}
    return out | ({} if options["expand_ratio"] == 1 else {"keep_expansion": False})


def written(args: BlockArgs) -> Call:
    """Return the call of the block, without an expansion where the ratio is 1."""
    if not _expands(args.options):
        return dwsep.written(args, linear=True)
    middle = expanded(args)
    return call(
        MBConv,
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
    if not _expands(args.options):
        return dwsep.count(args, size)
    middle, small = expanded(args), out_size(size, args.stride)
    return (
        conv_norm_count(args.in_channels, middle, 1, size)
        + conv_norm_count(middle, middle, args["kernel_size"], size, args.stride, groups=middle)
        + attention_count(middle, args, small)
        + conv_norm_count(middle, args.out_channels, 1, small)
    )


def timm(layer: LayerSpec) -> str | None:
    """Write a run in timm's notation; without expansion timm calls it `ds`."""
    skip = timm_skip(layer, "identity")
    if skip is None:
        return None
    options = BLOCKS["mbconv"].rule.all_options(dict(layer.options))
    kind, ratio = "ir" if _expands(options) else "ds", layer["expand_ratio"]
    run = f"{kind}_r{layer.num_layers}_k{layer['kernel_size']}_s{layer.stride}_e{ratio:g}_c{layer.out_channels}"
    return run + timm_attention(layer) + timm_activation(layer.activation) + skip


KEYS = {
    "kernel_size": KERNEL_SIZE,
    "expand_ratio": EXPAND_RATIO,
    "keep_expansion": Key(bool, False, quiet=True, doc="keep the expansion convolution where `expand_ratio` is 1"),
}

BLOCKS.register(
    "mbconv",
    BlockType(BlockRule(KEYS | ATTENTION, masked=masked, skip="identity"), written, count, timm),
)
