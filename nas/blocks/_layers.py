"""The parts of blocks, each with its count: convolution, norm, activation, attention, skip connection, drop path.

The modules here and in the block files take plain values and use torch only: their source is what `nas export` writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from nas.blocks._base import BlockArgs, Call, Count, call
from nas.spec import Key, LayerSpec, Value, round_channels

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "silu": lambda: nn.SiLU(inplace=True),
    "relu": lambda: nn.ReLU(inplace=True),
    "relu6": lambda: nn.ReLU6(inplace=True),
    "hard_swish": lambda: nn.Hardswish(inplace=True),
    "sigmoid": lambda: nn.Sigmoid(),
    "hard_sigmoid": lambda: nn.Hardsigmoid(),
}
_TIMM_ACTIVATIONS = {"silu": "_nsw", "relu": "_nre", "relu6": "_nr6", "hard_swish": "_nhs"}

KERNEL_SIZE = Key(int, 3, minimum=1, maximum=31, odd=True, doc="height and width of the spatial kernel, in pixels")
EXPAND_RATIO = Key(float, 4, minimum=0.25, maximum=32, doc="expanded channels over input channels")
ATTENTION = {
    "se_ratio": Key(float, 0, minimum=0, maximum=1, doc="squeezed channels over those of `se_base`; 0 = none"),
    "attention": Key(
        str, "se", names=("se", "gc"), quiet=True, doc="squeeze-excitation, or global context in its place"
    ),
    "se_base": Key(str, "input", names=("input", "expanded"), quiet=True, doc="channels that `se_ratio` is a share of"),
    "se_divisor": Key(int, 1, minimum=1, quiet=True, doc="squeezed channels are rounded to a multiple of this"),
    "se_activation": Key(
        str,
        "block",
        names=("block", *_TIMM_ACTIVATIONS),
        quiet=True,
        doc="activation between its two convolutions; `block`: that of the layer",
    ),
    "se_gate": Key(
        str, "sigmoid", names=("sigmoid", "hard_sigmoid"), quiet=True, doc="function that makes the gate from 0 to 1"
    ),
}
"""The keys of every block that has squeeze-excitation, or what stands in its place."""


def masked_attention(options: Mapping[str, Value]) -> dict[str, Value]:
    """Return options without small print of an attention that is not there, or that says what holds anyway."""
    if options["se_ratio"] == 0:
        return dict(options) | {name: key.default for name, key in ATTENTION.items() if key.quiet}
    own = {"se_activation": "block"} if options["se_activation"] == options["activation"] else {}
    return dict(options) | own


def activation(name: str) -> nn.Module:
    """Return a new activation module."""
    return ACTIVATIONS[name]()


def timm_activation(name: str) -> str:
    """Return timm's suffix for an activation; timm's default is the one given to its builder, so it is always named."""
    return _TIMM_ACTIVATIONS[name]


def timm_attention(layer: LayerSpec) -> str:
    """Return timm's suffix for the attention of a layer. Its small print is an argument of timm's builder."""
    return f"_se{layer['se_ratio']:g}" if layer["se_ratio"] else ""


def timm_skip(layer: LayerSpec, own: str) -> str | None:
    """Return timm's suffix for a skip connection other than the block's own, or None where timm has no word for it."""
    if layer.skip in ("", own):
        return ""
    return {"none": "_noskip", "identity": "_skip"}.get(layer.skip)


def conv(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1, bias: bool = False
) -> nn.Conv2d:
    """Return a convolution, padded so that n pixels become ceil(n / stride)."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=bias)


def conv_norm_count(
    in_channels: int, out_channels: int, kernel_size: int, size: int, stride: int = 1, groups: int = 1
) -> Count:
    """Count a convolution without bias and its norm, on an input of `size` x `size` pixels."""
    weights = kernel_size * kernel_size * (in_channels // groups) * out_channels
    return Count(params=weights + 2 * out_channels, macs=weights * out_size(size, stride) ** 2)


def out_size(size: int, stride: int) -> int:
    """Return ceil(size / stride): what every padded convolution here makes of `size` pixels."""
    return -(-size // stride)


def expanded(args: BlockArgs) -> int:
    """Return the expanded channels of an inverted bottleneck, rounded to 8 as timm and torchvision do.

    With whole ratios on multiples of 8 this is the product itself; MobileNetV3's 2.3 x 80 is 184 only by it.
    Source: Sandler et al. 2018, arXiv:1801.04381, section 3.4.
    """
    return round_channels(args.in_channels * float(args["expand_ratio"]))


class SqueezeExcite(nn.Module):
    """Squeeze-excitation: scale each channel by a gate computed from the channel means.

    Maps (N, C, H, W) to the same shape. Source: Hu et al. 2018, arXiv:1709.01507, equations 2-4.
    """

    def __init__(self, channels: int, squeezed: int, act: str = "silu", gate: str = "sigmoid") -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, squeezed, 1)
        self.act1 = activation(act)
        self.conv_expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = activation(gate)

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.gate(self.conv_expand(self.act1(self.conv_reduce(x.mean((2, 3), keepdim=True)))))
        return x * gate


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel: maps (N, C, H, W) to the same shape."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return y


class GlobalContext(nn.Module):
    """Global context: as squeeze-excitation, but each pixel's share of the mean is learnt, and the squeeze is normalised.

    Maps (N, C, H, W) to the same shape. Source: Cao et al. 2019 (GCNet), arXiv:1904.11492, figure 4 (d), with a gate in
    place of its addition, as in timm.
    """

    def __init__(self, channels: int, squeezed: int, act: str = "silu", gate: str = "sigmoid") -> None:
        super().__init__()
        self.conv_attn = nn.Conv2d(channels, 1, 1)
        self.mlp_scale = nn.Sequential()
        self.mlp_scale.add_module("fc1", nn.Conv2d(channels, squeezed, 1))
        self.mlp_scale.add_module("norm", ChannelNorm(squeezed, eps=1e-6))
        self.mlp_scale.add_module("act", activation(act))
        self.mlp_scale.add_module("fc2", nn.Conv2d(squeezed, channels, 1))
        self.gate = activation(gate)

    def forward(self, x: Tensor) -> Tensor:
        shares = self.conv_attn(x).flatten(2).softmax(2)
        context = (x.flatten(2) @ shares.transpose(1, 2)).unsqueeze(3)
        gate: Tensor = self.gate(self.mlp_scale(context))
        return x * gate


def squeezed(args: BlockArgs, expanded_channels: int) -> int:
    """Return the hidden channels of the attention: a share of the block's *input* unless `se_base` says otherwise.

    Source: Tan et al. 2019 (MnasNet), arXiv:1807.11626, released code; with the expanded channels EfficientNet-B0
    would have 8,423,848 parameters, not 5,288,548. MobileNetV3 takes the expanded ones and rounds to 8.
    """
    base = expanded_channels if args["se_base"] == "expanded" else args.in_channels
    wish = base * float(args["se_ratio"])
    return max(1, int(wish)) if args["se_divisor"] == 1 else round_channels(wish, args["se_divisor"])


def attention(channels: int, args: BlockArgs) -> Call | None:
    """Return the attention of a block on its expanded channels, or None where the ratio is 0."""
    if not args["se_ratio"]:
        return None
    act = args.activation if args["se_activation"] == "block" else args["se_activation"]
    kind = GlobalContext if args["attention"] == "gc" else SqueezeExcite
    return call(kind, channels=channels, squeezed=squeezed(args, channels), act=act, gate=args["se_gate"])


def attention_count(channels: int, args: BlockArgs, size: int) -> Count:
    """Count the attention on a map of `size` x `size` pixels: two 1 x 1 convolutions with bias on one pixel.

    Global context adds a 1 x 1 convolution to one channel, on every pixel, and a norm. (Its weighted mean, one
    multiply-add per value, is neither a convolution nor a linear layer and is not counted, as norms are not.)
    """
    if not args["se_ratio"]:
        return Count(0, 0)
    hidden = squeezed(args, channels)
    weights = 2 * channels * hidden
    count = Count(params=weights + channels + hidden, macs=weights)
    if args["attention"] == "gc":
        count += Count(params=channels + 1 + 2 * hidden, macs=channels * size * size)
    return count


# MnasNet searches the skip connection (Tan et al. 2019, arXiv:1807.11626, section 4.1); how its pooling went is not published.
def skip_connection(skip: str, in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """Return what carries a block's input to its output, or None where the shapes do not allow it."""
    if in_channels != out_channels or skip == "none" or (skip == "identity" and stride != 1):
        return None
    # `pool`: 3 x 3 averages with the block's stride.
    return nn.AvgPool2d(3, stride, 1) if skip == "pool" else nn.Identity()


class DropPath(nn.Module):
    """Stochastic depth: drop the residual branch of a sample with probability `rate`, and scale the others up.

    Maps (N, C, H, W) to the same shape; the identity in evaluation. Source: Huang et al. 2016, arXiv:1603.09382.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        shape = (x.shape[0], 1, 1, 1)
        mask = torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(keep)
        return x * (mask / keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"
