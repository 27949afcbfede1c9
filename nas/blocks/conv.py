"""A convolution with norm and activation. Stem, head and MobileNetV3's last stage are made of it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from nas.blocks._base import BLOCKS, BlockArgs, BlockType, Call, Count, call
from nas.blocks._layers import (
    KERNEL_SIZE,
    DropPath,
    activation,
    conv,
    out_size,
    skip_connection,
    timm_activation,
    timm_skip,
)
from nas.spec import BlockRule, Key, LayerSpec, Value


class Conv(nn.Module):
    """k x k convolution, norm, activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        act: str = "silu",
        norm: bool = True,
        bias: bool = False,
        skip: str = "none",
    ) -> None:
        super().__init__()
        self.conv = conv(in_channels, out_channels, kernel_size, stride, bias=bias)
        self.bn1 = nn.BatchNorm2d(out_channels) if norm else nn.Identity()
        self.act1 = activation(act)
        self.skip = skip_connection(skip, in_channels, out_channels, stride)
        self.drop_path = DropPath()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act1(self.bn1(self.conv(x)))
        return y if self.skip is None else self.skip(x) + self.drop_path(y)


def written(args: BlockArgs, norm: bool = True, bias: bool = False) -> Call:
    """Return the call of the block. (An argument, not an option, for `fused_mbconv`, which has none of the two.)"""
    return call(
        Conv,
        in_channels=args.in_channels,
        out_channels=args.out_channels,
        kernel_size=args["kernel_size"],
        stride=args.stride,
        act=args.activation,
        norm=norm,
        bias=bias,
        skip=args.skip,
    )


def masked(options: Mapping[str, Value]) -> Mapping[str, Value]:
    """A norm takes any bias away again: the block does not read `bias` before one."""
    return {**options, "bias": False} if options["norm"] else options


def count(args: BlockArgs, size: int) -> Count:
    """Count the block."""
    weights = args["kernel_size"] ** 2 * args.in_channels * args.out_channels
    more = (2 if args["norm"] else 0) + (1 if args["bias"] else 0)
    return Count(weights + more * args.out_channels, weights * out_size(size, args.stride) ** 2)


def timm(layer: LayerSpec) -> str | None:
    """Write a run in timm's notation, which has none for a convolution without norm."""
    skip = timm_skip(layer, "none")
    if skip is None or ("norm", False) in layer.options:
        return None
    run = f"cn_r{layer.num_layers}_k{layer['kernel_size']}_s{layer.stride}_e1_c{layer.out_channels}"
    return run + timm_activation(layer.activation) + skip


KEYS = {
    "kernel_size": KERNEL_SIZE,
    "norm": Key(bool, True, quiet=True, doc="whether a batch norm follows the convolution"),
    "bias": Key(bool, False, quiet=True, doc="whether the convolution has a bias; read where no norm follows"),
}

BLOCKS.register(
    "conv",
    BlockType(
        BlockRule(KEYS, masked=masked, roles=frozenset({"stem", "stage", "head"}), skip="none"),
        lambda args: written(args, args["norm"], args["bias"]),
        count,
        timm,
    ),
)
