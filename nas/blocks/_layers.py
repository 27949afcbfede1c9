"""The parts of blocks, each with its count: convolution, norm, activation, squeeze-excitation, drop path."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nas.blocks._base import BlockArgs, Count
from nas.spec import Key, round_channels

KERNEL_SIZE = Key(int, 3, minimum=1, maximum=31, odd=True, doc="height and width of the spatial kernel, in pixels")
EXPAND_RATIO = Key(float, 4, minimum=0.25, maximum=32, doc="expanded channels over input channels")
SE_RATIO = Key(float, 0, minimum=0, maximum=1, doc="squeezed channels over the block's input channels; 0 = none")

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "silu": lambda: nn.SiLU(inplace=True),
    "relu": lambda: nn.ReLU(inplace=True),
    "relu6": lambda: nn.ReLU6(inplace=True),
    "hard_swish": lambda: nn.Hardswish(inplace=True),
}
_TIMM_ACTIVATIONS = {"silu": "_nsw", "relu": "_nre", "relu6": "_nr6", "hard_swish": "_nhs"}


def activation(name: str) -> nn.Module:
    """Return a new activation module."""
    return _ACTIVATIONS[name]()


def timm_activation(name: str) -> str:
    """Return timm's suffix for an activation; timm's default is the one given to its builder, so it is always named."""
    return _TIMM_ACTIVATIONS[name]


def conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a convolution without bias, padded so that n pixels become ceil(n / stride)."""
    return nn.Conv2d(
        in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False
    )


def norm(channels: int, args: BlockArgs) -> nn.BatchNorm2d:
    """Return a batch norm with the epsilon and momentum of the spec."""
    return nn.BatchNorm2d(channels, eps=args.norm_eps, momentum=args.norm_momentum)


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


def squeezed(args: BlockArgs) -> int:
    """Return the hidden channels of squeeze-excitation: a share of the block's *input*, not of its expansion.

    Source: Tan et al. 2019 (MnasNet), arXiv:1807.11626, released code; with the expanded channels EfficientNet-B0
    would have 8,423,848 parameters, not 5,288,548.
    """
    return max(1, int(args.in_channels * float(args["se_ratio"])))


class SqueezeExcite(nn.Module):
    """Squeeze-excitation: scale each channel by a gate computed from the channel means.

    Maps (N, C, H, W) to the same shape. Source: Hu et al. 2018, arXiv:1709.01507, equations 2-4.

    Args:
        channels: C. hidden: Channels between the two 1x1 convolutions.
        act: Name of the activation between them; the gate is a sigmoid.
    """

    def __init__(self, channels: int, hidden: int, act: str) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, hidden, 1)
        self.act1 = activation(act)
        self.conv_expand = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.conv_expand(self.act1(self.conv_reduce(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()


def squeeze_excite(channels: int, args: BlockArgs) -> nn.Module:
    """Return squeeze-excitation on `channels`, or an identity where the ratio is 0."""
    if not args["se_ratio"]:
        return nn.Identity()
    return SqueezeExcite(channels, squeezed(args), args.activation)


def squeeze_excite_count(channels: int, args: BlockArgs) -> Count:
    """Count squeeze-excitation: two 1x1 convolutions with bias on one pixel."""
    if not args["se_ratio"]:
        return Count(0, 0)
    weights = 2 * channels * squeezed(args)
    return Count(params=weights + channels + squeezed(args), macs=weights)


class DropPath(nn.Module):
    """Stochastic depth: drop the residual branch of a sample with probability `rate`, and scale the others up.

    Maps (N, C, H, W) to the same shape; the identity in evaluation. Source: Huang et al. 2016, arXiv:1603.09382.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        mask = torch.empty((x.shape[0], 1, 1, 1), dtype=x.dtype, device=x.device).bernoulli_(keep)
        return x * (mask / keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"
