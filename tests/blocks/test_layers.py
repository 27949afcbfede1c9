"""The parts of blocks, against values worked out by hand."""

from __future__ import annotations

import pytest
import torch

from nas.blocks import BLOCKS, BlockArgs, Count
from nas.blocks._layers import (
    DropPath,
    GlobalContext,
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
from nas.spec import LayerSpec, Value


def args(
    in_channels: int, out_channels: int = 8, stride: int = 1, block: str = "mbconv", skip: str = "", **options: Value
) -> BlockArgs:
    rule = BLOCKS[block].rule
    return BlockArgs(in_channels, out_channels, stride, "silu", rule.all_options(options), skip or rule.skip)


@pytest.mark.parametrize(("width", "ratio", "found"), [(80, 2.5, 200), (80, 2.3, 184), (16, 4.5, 72), (24, 3.67, 88)])
def test_trap_mobilenet_v3_expands_by_fractions_and_rounds_to_eight(width: int, ratio: float, found: int) -> None:
    assert expanded(args(width, expand_ratio=ratio)) == found


@pytest.mark.parametrize(("width", "found"), [(16, 4), (24, 6), (18, 4), (2, 1)])
def test_trap_squeeze_is_a_share_of_the_input_rounded_down(width: int, found: int) -> None:
    assert squeezed(args(width, se_ratio=0.25, expand_ratio=6), 6 * width) == found


@pytest.mark.parametrize(("width", "ratio", "found"), [(40, 3, 32), (112, 6, 168), (160, 6, 240), (16, 1, 8)])
def test_trap_mobilenet_v3_squeezes_the_expanded_channels_and_rounds_to_eight(
    width: int, ratio: float, found: int
) -> None:
    block = args(width, se_ratio=0.25, expand_ratio=ratio, se_base="expanded", se_divisor=8)
    assert squeezed(block, expanded(block)) == found


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


OPTIONS: dict[str, Value] = {"kernel_size": 3, "expand_ratio": 4.0, "se_ratio": 0.0}


def silent(module: torch.nn.Module) -> torch.nn.Module:
    """Return a block whose last norm is zero, so that it gives its skip connection only."""
    norms = [layer for layer in module.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    norms[-1].weight.data.zero_()
    return module.eval()


@pytest.mark.parametrize("name", ["mbconv", "fused_mbconv"])
@pytest.mark.parametrize("ratio", [1.0, 4.0])
def test_a_residual_needs_stride_one_and_equal_channels(name: str, ratio: float) -> None:
    x = torch.randn(2, 8, 4, 4)
    for width, stride, residual in ((8, 1, True), (8, 2, False), (16, 1, False)):
        module = BLOCKS[name].build(args(8, width, stride, name, **OPTIONS | {"expand_ratio": ratio}))
        out = silent(module)(x)
        assert (module.skip is not None) is residual
        torch.testing.assert_close(out, x if residual else torch.zeros_like(out))


@pytest.mark.parametrize("name", ["conv", "dwsep", "mbconv", "fused_mbconv"])
def test_the_skip_connection_can_be_chosen(name: str) -> None:
    x = torch.randn(2, 8, 5, 5)
    options = {key: value for key, value in OPTIONS.items() if key in BLOCKS[name].rule.keys}
    for skip, stride, expected in (
        ("identity", 1, x),
        ("none", 1, torch.zeros_like(x)),
        ("pool", 1, torch.nn.functional.avg_pool2d(x, 3, 1, 1)),
        ("pool", 2, torch.nn.functional.avg_pool2d(x, 3, 2, 1)),
        ("identity", 2, torch.zeros(2, 8, 3, 3)),
    ):
        module = BLOCKS[name].build(args(8, 8, stride, name, skip, **options))
        torch.testing.assert_close(silent(module)(x), expected)


@pytest.mark.parametrize("name", ["conv", "dwsep"])
def test_these_blocks_have_no_residual_unless_asked_for(name: str) -> None:
    options = {key: value for key, value in OPTIONS.items() if key in BLOCKS[name].rule.keys}
    module = BLOCKS[name].build(args(8, 8, 1, name, **options))
    assert silent(module)(torch.randn(2, 8, 4, 4)).abs().max() == 0


def test_global_context_weighs_the_pixels_before_the_gate() -> None:
    gc = GlobalContext(4, 2, "relu").eval()
    x = torch.randn(2, 4, 3, 3)
    scores = (x * gc.conv_attn.weight).sum(1, keepdim=True).flatten(1)  # the bias cancels in the softmax
    context = (x.flatten(2) * scores.softmax(1)[:, None]).sum(2)
    fc1, norm, _, fc2 = gc.mlp_scale
    hidden = context @ fc1.weight.flatten(1).T + fc1.bias  # type: ignore[operator]
    hidden = torch.nn.functional.layer_norm(hidden, (2,), norm.weight, norm.bias, 1e-6).relu()  # type: ignore[arg-type]
    gate = (hidden @ fc2.weight.flatten(1).T + fc2.bias).sigmoid()  # type: ignore[operator]
    torch.testing.assert_close(gc(x), x * gate[:, :, None, None])


def test_a_call_is_built_and_written_with_the_same_arguments() -> None:
    block = BLOCKS["mbconv"].call(args(24, 40, 2, kernel_size=5, expand_ratio=6.0, se_ratio=0.25))
    assert block.source() == "MBConv(24, 40, 144, kernel_size=5, stride=2, attention=SqueezeExcite(144, 6))"
    assert BLOCKS["mbconv"].call(args(24, 24, kernel_size=3, expand_ratio=1.0, se_ratio=0.0)).source() == (
        'DepthwiseSeparable(24, 24, linear=True, skip="identity")'
    )
    assert block.build().conv_dw.weight.shape == (144, 1, 5, 5)


@pytest.mark.parametrize(
    ("block", "options", "text"),
    [
        ("conv", {"kernel_size": 3}, "cn_r2_k3_s2_e1_c24_nsw"),
        ("dwsep", {"kernel_size": 5, "se_ratio": 0.25}, "dsa_r2_k5_s2_e1_c24_se0.25_nsw"),
        ("mbconv", {"kernel_size": 3, "expand_ratio": 6.0, "se_ratio": 0.25}, "ir_r2_k3_s2_e6_c24_se0.25_nsw"),
        ("mbconv", {"kernel_size": 3, "expand_ratio": 1.0, "se_ratio": 0.0}, "ds_r2_k3_s2_e1_c24_nsw"),
        ("fused_mbconv", {"kernel_size": 3, "expand_ratio": 4.0, "se_ratio": 0.0}, "er_r2_k3_s2_e4_c24_nsw"),
        ("fused_mbconv", {"kernel_size": 3, "expand_ratio": 1.0, "se_ratio": 0.0}, "cn_r2_k3_s2_e1_c24_nsw_skip"),
        (
            "fused_mbconv",
            {"kernel_size": 3, "expand_ratio": 1.0, "se_ratio": 0.0, "keep_projection": True},
            "er_r2_k3_s2_e1_c24_nsw",
        ),
        (
            "mbconv",
            {"kernel_size": 3, "expand_ratio": 1.0, "se_ratio": 0.0, "keep_expansion": True},
            "ir_r2_k3_s2_e1_c24_nsw",
        ),
    ],
)
def test_timm_notation(block: str, options: dict[str, Value], text: str) -> None:
    assert BLOCKS[block].timm(LayerSpec(block, 24, 2, 2, "silu", tuple(sorted(options.items())))) == text


def test_timm_notation_says_no_skip_and_is_absent_where_timm_has_no_word() -> None:
    options = tuple(sorted(OPTIONS.items()))
    assert BLOCKS["mbconv"].timm(LayerSpec("mbconv", 24, 2, 1, "silu", options, skip="none")) == (
        "ir_r2_k3_s1_e4_c24_nsw_noskip"
    )
    assert BLOCKS["conv"].timm(LayerSpec("conv", 24, 2, 1, "silu", (("kernel_size", 3),), skip="identity")) == (
        "cn_r2_k3_s1_e1_c24_nsw_skip"
    )
    assert BLOCKS["mbconv"].timm(LayerSpec("mbconv", 24, 2, 1, "silu", options, skip="pool")) is None
    assert BLOCKS["conv"].timm(LayerSpec("conv", 24, options=(("kernel_size", 1), ("norm", False)))) is None
    assert BLOCKS["basic"].timm(LayerSpec("basic", 24, options=(("kernel_size", 3),))) is None
