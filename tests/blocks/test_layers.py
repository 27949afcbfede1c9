"""The parts of blocks, against values worked out by hand."""

from __future__ import annotations

import pytest
import torch

from nas.blocks import BLOCKS, BlockArgs, Count
from nas.blocks._layers import (
    DropPath,
    SqueezeExcite,
    activation,
    conv,
    conv_norm_count,
    expanded,
    out_size,
    squeezed,
    timm_activation,
)
from nas.space.schema import ACTIVATIONS
from nas.spec import LayerSpec


def args(in_channels: int, out_channels: int = 8, stride: int = 1, **options: float) -> BlockArgs:
    return BlockArgs(in_channels, out_channels, stride, "silu", 1e-3, 0.1, 0.2, options)


@pytest.mark.parametrize(("width", "ratio", "found"), [(80, 2.5, 200), (80, 2.3, 184), (16, 4.5, 72), (24, 3.67, 88)])
def test_trap_mobilenet_v3_expands_by_fractions_and_rounds_to_eight(width: int, ratio: float, found: int) -> None:
    assert expanded(args(width, expand_ratio=ratio)) == found


@pytest.mark.parametrize(("width", "found"), [(16, 4), (24, 6), (18, 4), (2, 1)])
def test_trap_squeeze_is_a_share_of_the_input_rounded_down(width: int, found: int) -> None:
    assert squeezed(args(width, se_ratio=0.25, expand_ratio=6)) == found


def test_the_language_and_the_blocks_know_the_same_activations() -> None:
    for name in ACTIVATIONS:
        assert activation(name)(torch.ones(1)).shape == (1,)
        assert timm_activation(name).startswith("_n")
    with pytest.raises(KeyError):
        activation("swish")


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [1, 4, 7, 9, 12])
def test_a_stride_maps_n_to_the_ceiling_of_n_over_stride(kernel: int, stride: int, size: int) -> None:
    out = conv(3, 4, kernel, stride)(torch.zeros(1, 3, size, size))
    assert out.shape[2] == out.shape[3] == out_size(size, stride)


def test_a_convolution_counts_its_weights_and_the_norms_two_vectors() -> None:
    assert conv_norm_count(8, 16, 3, size=10, stride=2) == Count(params=3 * 3 * 8 * 16 + 32, macs=3 * 3 * 8 * 16 * 25)
    assert conv_norm_count(8, 8, 5, size=4, groups=8) == Count(params=25 * 8 + 16, macs=25 * 8 * 16)
    assert Count(1, 2) + Count(3, 4) == Count(4, 6)


def test_squeeze_excitation_is_a_gate_from_the_channel_means() -> None:
    se = SqueezeExcite(4, 2, "relu").eval()
    x = torch.randn(2, 4, 3, 3)
    means = x.mean((2, 3))
    hidden = (means @ se.conv_reduce.weight.flatten(1).T + se.conv_reduce.bias).relu()  # type: ignore[operator]
    gate = (hidden @ se.conv_expand.weight.flatten(1).T + se.conv_expand.bias).sigmoid()  # type: ignore[operator]
    torch.testing.assert_close(se(x), x * gate[:, :, None, None])


def test_drop_path_drops_whole_samples_and_scales_the_others() -> None:
    torch.manual_seed(0)
    layer = DropPath(0.25).train()
    out = layer(torch.ones(2000, 3, 2, 2))
    values = out.flatten(1)
    assert (values == values[:, :1]).all()
    assert values.unique().tolist() == pytest.approx([0, 4 / 3])
    assert float(out.mean()) == pytest.approx(1, abs=0.05)
    x = torch.randn(2, 3, 2, 2)
    assert layer.eval()(x) is x
    assert DropPath(0.0).train()(x) is x


@pytest.mark.parametrize("name", ["mbconv", "fused_mbconv"])
@pytest.mark.parametrize("ratio", [1.0, 4.0])
def test_a_residual_needs_stride_one_and_equal_channels(name: str, ratio: float) -> None:
    options = {"kernel_size": 3, "expand_ratio": ratio, "se_ratio": 0.0}
    for width, stride, residual in ((8, 1, True), (8, 2, False), (16, 1, False)):
        module = BLOCKS[name].build(args(8, width, stride, **options))
        assert module.residual is residual
        assert module.drop_path.rate == (0.2 if residual else 0)  # type: ignore[union-attr]
        if residual:  # with the last norm at zero the block is its skip
            norms = [layer for layer in module.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
            norms[-1].weight.data.zero_()
            x = torch.randn(2, 8, 4, 4)
            torch.testing.assert_close(module.eval()(x), x)


@pytest.mark.parametrize("name", ["conv", "dwsep"])
def test_these_blocks_never_have_a_residual(name: str) -> None:
    options = {"kernel_size": 3, "se_ratio": 0.0}
    module = BLOCKS[name].build(args(8, 8, 1, **{key: options[key] for key in BLOCKS[name].rule.keys}))
    norms = [layer for layer in module.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    norms[-1].weight.data.zero_()
    assert module.eval()(torch.randn(2, 8, 4, 4)).abs().max() == 0


@pytest.mark.parametrize(
    ("block", "options", "text"),
    [
        ("conv", {"kernel_size": 3}, "cn_r2_k3_s2_e1_c24_nsw"),
        ("dwsep", {"kernel_size": 5, "se_ratio": 0.25}, "dsa_r2_k5_s2_e1_c24_se0.25_nsw"),
        ("mbconv", {"kernel_size": 3, "expand_ratio": 6.0, "se_ratio": 0.25}, "ir_r2_k3_s2_e6_c24_se0.25_nsw"),
        ("mbconv", {"kernel_size": 3, "expand_ratio": 1.0, "se_ratio": 0.0}, "ds_r2_k3_s2_e1_c24_nsw"),
        ("fused_mbconv", {"kernel_size": 3, "expand_ratio": 4.0, "se_ratio": 0.0}, "er_r2_k3_s2_e4_c24_nsw"),
        ("fused_mbconv", {"kernel_size": 3, "expand_ratio": 1.0, "se_ratio": 0.0}, "cn_r2_k3_s2_e1_c24_nsw_skip"),
    ],
)
def test_timm_notation(block: str, options: dict[str, float], text: str) -> None:
    assert BLOCKS[block].timm(LayerSpec(block, 24, 2, 2, "silu", tuple(sorted(options.items())))) == text
