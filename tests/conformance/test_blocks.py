"""What every block type must do."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from nas.blocks import BLOCKS, BlockArgs, BlockType
from nas.blocks._layers import DropPath
from nas.spec import LayerSpec, Value

OPTION_VALUES: dict[str, list[Value]] = {
    "kernel_size": [1, 3, 5],
    "expand_ratio": [1.0, 2.5, 4.0],
    "se_ratio": [0.0, 0.25],
    "attention": ["se", "gc"],
    "se_base": ["input", "expanded"],
    "se_divisor": [1, 8],
    "se_activation": ["block", "relu"],
    "se_gate": ["sigmoid", "hard_sigmoid"],
    "norm": [True, False],
    "bias": [False, True],
    "keep_expansion": [True],
    "keep_projection": [True],
    "bottleneck_ratio": [0.25, 0.5],
}
"""Values to try for each key. A new key of a new block adds a line here."""


def options(block: BlockType) -> list[dict[str, Value]]:
    """Return the options to try: every key at its default, and each key at each of its values."""
    rule = block.rule
    assert set(rule.keys) <= set(OPTION_VALUES), "add values to try for the new keys"
    base: dict[str, Value] = {name: key.default for name, key in rule.keys.items()}
    if "se_ratio" in base:
        base["se_ratio"] = 0.25
    found = [base | {name: value} for name in rule.keys for value in OPTION_VALUES[name]]
    if "expand_ratio" in base:
        kept = {name: True for name in base if name.startswith("keep_")}
        found += [base | {"expand_ratio": 1.0, "se_ratio": ratio} | kept for ratio in (0.0, 0.25)]
        found.append(base | {"expand_ratio": 1.0, "se_ratio": 0.0})
    if "bias" in base:
        found.append(base | {"norm": False, "bias": True})
    read = [rule.read(item, "silu") for item in found]
    read += [read[0] | {"skip": skip} for skip in ("identity", "pool", "none") if rule.skip not in ("", skip)]
    return [item for index, item in enumerate(read) if item not in read[:index]]


def args(name: str, item: dict[str, Value], channels: tuple[int, int] = (8, 16), stride: int = 1) -> BlockArgs:
    rule = BLOCKS[name].rule
    own = {key: value for key, value in item.items() if key != "skip"}
    return BlockArgs(*channels, stride, "silu", rule.all_options(own), rule.skip_of(str(item.get("skip", ""))))


CASES = [
    pytest.param(name, item, id=name + "".join(f"-{key[0]}{value}" for key, value in item.items()))
    for name in BLOCKS
    for item in options(BLOCKS[name])
]
SHAPES = [((8, 16), 1), ((16, 16), 1), ((8, 16), 2), ((8, 8), 2)]


def built(name: str, block_args: BlockArgs) -> nn.Module:
    torch.manual_seed(0)
    return BLOCKS[name].build(block_args)


@pytest.mark.parametrize(("name", "item"), CASES)
def test_shapes_and_stride_on_even_and_odd_sizes(name: str, item: dict[str, Value]) -> None:
    for channels, stride in SHAPES:
        module = built(name, args(name, item, channels, stride)).eval()
        for size in (1, 6, 7):
            out = module(torch.randn(2, channels[0], size, size))
            assert out.shape == (2, channels[1], -(-size // stride), -(-size // stride))


@pytest.mark.parametrize(("name", "item"), CASES)
def test_every_parameter_gets_a_gradient(name: str, item: dict[str, Value]) -> None:
    for channels, stride in SHAPES[1:3]:
        module = built(name, args(name, item, channels, stride)).train()
        out = module(torch.randn(4, channels[0], 7, 7, requires_grad=True))
        (out * torch.randn_like(out)).sum().backward()
        for key, parameter in module.named_parameters():
            if key.endswith("conv_attn.bias"):
                continue  # a constant before a softmax cancels; timm's checkpoints have it
            assert parameter.grad is not None, key
            assert parameter.grad.abs().sum() > 0, key
            assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize(("name", "item"), CASES)
def test_analytic_parameters_and_macs_are_those_that_fvcore_counts(name: str, item: dict[str, Value]) -> None:
    from fvcore.nn import FlopCountAnalysis

    for channels, stride in SHAPES:
        block_args = args(name, item, channels, stride)
        module = built(name, block_args).eval()
        for size in (6, 7):
            found = BLOCKS[name].count(block_args, size)
            assert found.params == sum(parameter.numel() for parameter in module.parameters())
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                analysis = FlopCountAnalysis(module, torch.zeros(1, channels[0], size, size))
                analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
                by_operator = analysis.by_operator()
            assert found.macs == by_operator["conv"] + by_operator["linear"]


@pytest.mark.parametrize(("name", "item"), CASES)
def test_bfloat16_autocast_forward_and_backward_are_finite(name: str, item: dict[str, Value]) -> None:
    module = built(name, args(name, item, (16, 16))).train()
    with torch.autocast("cpu", torch.bfloat16):
        out = module(torch.randn(4, 16, 8, 8))
        loss = out.float().square().mean()
    loss.backward()
    assert out.isfinite().all()
    assert loss > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    assert all(p.dtype == torch.float32 for p in module.parameters())


@pytest.mark.parametrize(("name", "item"), CASES)
def test_channels_last_is_kept(name: str, item: dict[str, Value]) -> None:
    for channels, stride in SHAPES[1:3]:
        module = built(name, args(name, item, channels, stride)).eval()
        x = torch.randn(2, channels[0], 8, 8)
        plain = module(x)
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        out = module(x.to(memory_format=torch.channels_last))
        assert out.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(out, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(BLOCKS))
def test_drop_path_is_the_identity_in_evaluation_and_right_on_average_in_training(name: str) -> None:
    """A block without a residual has nothing to drop; one with a residual keeps its expectation."""
    item = options(BLOCKS[name])[0]
    module, dropping = (built(name, args(name, item, (8, 8))) for _ in range(2))
    for layer in dropping.modules():
        if isinstance(layer, DropPath):
            layer.rate = 0.5
    x = torch.randn(1, 8, 4, 4)
    torch.testing.assert_close(dropping.eval()(x), module.eval()(x))
    dropping.train()
    for layer in dropping.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()  # all samples are the same: what differs between them is then what was dropped
    out: Tensor = dropping(x.expand(4000, -1, -1, -1).clone())
    kinds = {tuple(sample) for sample in out.flatten(1)[:50].round(decimals=4).tolist()}
    assert len(kinds) <= 2
    branch = module(x) - x
    torch.testing.assert_close(
        out.mean(0, keepdim=True), module(x), rtol=0, atol=0.1 * float(branch.detach().abs().max())
    )


@pytest.mark.parametrize(("name", "item"), CASES)
def test_timm_notation_is_text_or_absent(name: str, item: dict[str, Value]) -> None:
    own = tuple(sorted((key, value) for key, value in item.items() if key != "skip"))
    text = BLOCKS[name].timm(LayerSpec(name, 24, 2, 2, "silu", own, skip=str(item.get("skip", ""))))
    without = BLOCKS[name].naming == "resnet" or item.get("skip") == "pool" or ("norm", False) in own
    if without or (name, item.get("skip")) == ("dwsep", "identity"):
        assert text is None  # timm has no word for it
    else:
        assert isinstance(text, str) and "_r2_" in text and "_s2_" in text and "_c24" in text


@pytest.mark.parametrize("name", list(BLOCKS))
def test_the_rule_describes_its_keys(name: str) -> None:
    rule = BLOCKS[name].rule
    assert rule.roles <= {"stem", "stage", "head"}
    assert "stage" in rule.roles
    for key in rule.keys.values():
        assert key.doc
        assert key.problem(key.default) is None
    for item in options(BLOCKS[name]):
        if "skip" not in item:
            assert rule.read(rule.all_options(item), "silu") == item
