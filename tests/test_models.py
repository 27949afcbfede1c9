"""Built networks: counts to the unit, the classic mistakes, timm as an oracle."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import libraries
from benchmarks.parity import forward_error
from nas.blocks import BLOCKS, _layers
from nas.catalog import load_arch, load_space
from nas.cost import count, table
from nas.cost.verify import fvcore_count
from nas.errors import UsageError
from nas.models import build, places, timm_definition
from nas.space import decode, library, random_choose
from nas.spec import ArchSpec, LayerSpec, StageSpec, Value, scaled

GOLDEN: dict[str, dict[str, Any]] = json.loads(libraries.GOLDEN.read_text(encoding="utf-8"))["networks"]
"""Counts of the libraries' own networks, made by `python -m benchmarks.libraries` without any code of this project."""

AT_TRAINING_SIZE = [
    ("efficientnetv2_b0", 192, 528_186_752),
    ("efficientnetv2_b1", 192, 747_003_008),
    ("efficientnetv2_b2", 208, 1_043_476_528),
    ("efficientnetv2_b3", 240, 1_908_036_640),
    ("efficientnetv2_s", 300, 5_307_561_248),
    ("efficientnetv2_m", 384, 15_736_775_680),
    ("efficientnetv2_l", 384, 35_899_418_624),
    ("efficientnetv2_xl", 384, 52_529_254_400),
]


def test_every_reference_file_has_its_library_and_its_golden_counts() -> None:
    files = {name.removeprefix("reference/") for name in library.names() if name.startswith("reference/")}
    assert files == set(libraries.NETWORKS) == set(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_reference_networks_have_the_librarys_counts_to_the_unit(name: str) -> None:
    golden = GOLDEN[name]
    assert count(load_arch(name, resolution=golden["pixels"])) == (golden["params"], golden["macs"])


@pytest.mark.parametrize(("name", "pixels", "macs"), AT_TRAINING_SIZE)
def test_reference_networks_are_meant_for_the_papers_training_size(name: str, pixels: int, macs: int) -> None:
    spec = load_arch(name)
    assert spec.resolution == pixels
    assert count(spec).macs == macs


@pytest.mark.slow
@pytest.mark.parametrize("name", GOLDEN)
def test_fvcore_counts_the_same_on_the_built_network(name: str) -> None:
    golden = GOLDEN[name]
    assert fvcore_count(load_arch(name, resolution=golden["pixels"])) == (golden["params"], golden["macs"])


# Tan & Le 2019, arXiv:1905.11946, table 3: one dimension scaled at a time (billions, counted from the library's networks
# in the same way; the paper prints the two of ResNet-50 the other way round).
@pytest.mark.parametrize(
    ("name", "scale", "giga_macs"),
    [
        ("mobilenet_v1", {"width": 2.0}, 2.216),
        ("mobilenet_v2", {"depth": 4.0}, 1.220),
        ("resnet50", {"depth": 4.0}, 14.571),
        ("resnet50", {"width": 2.0}, 16.117),
        ("resnet50", {"resolution": 2.0}, 16.351),
        ("efficientnet_b0", {"depth": 4.0}, 1.575),
        ("efficientnet_b0", {"width": 2.0}, 1.450),
        ("efficientnet_b0", {"resolution": 2.0}, 1.538),
    ],
)
def test_one_dimension_at_a_time_costs_what_it_is_known_to_cost(
    name: str, scale: dict[str, float], giga_macs: float
) -> None:
    assert count(scaled(load_arch(name), **scale)).macs / 1e9 == pytest.approx(giga_macs, abs=0.0006)


def test_parameters_and_batch_norm_statistics_are_those_of_the_released_unit_tests() -> None:
    for name, total in (("efficientnet_b0", 5_330_564), ("efficientnetv2_b0", 7_200_312)):
        state = build(load_arch(name), seed=0).state_dict()
        assert sum(v.numel() for k, v in state.items() if not k.endswith("num_batches_tracked")) == total


def test_the_rows_of_the_table_add_up() -> None:
    spec = load_arch("efficientnetv2_b0")
    rows = table(spec)
    assert [row.part for row in rows] == ["stem", "s1", "s2", "s3", "s4", "s5", "s6", "head", "classifier"]
    assert [row.out_size for row in rows] == [96, 96, 48, 24, 12, 12, 6, 6, 1]
    assert sum(row.count.params for row in rows) == count(spec).params
    assert rows[-1].count == (1280 * 1000 + 1000, 1280 * 1000)


# --- the classic mistakes ---------------------------------------------------------------------------------


def built_params(spec: ArchSpec) -> int:
    return sum(parameter.numel() for parameter in build(spec, seed=0).parameters())


def edited(spec: ArchSpec, **options: Value) -> ArchSpec:
    """Return a spec with some options of every stage replaced, where its block reads them."""

    def layer(old: LayerSpec) -> LayerSpec:
        rule = BLOCKS[old.block].rule
        wishes = {key: value for key, value in options.items() if key in rule.keys}
        read = rule.read(rule.all_options(dict(old.options)) | wishes, old.activation)
        return replace(old, options=tuple(sorted(read.items())))

    return replace(spec, stages=tuple(StageSpec(tuple(map(layer, stage.layers))) for stage in spec.stages))


def test_mutation_b0_with_squeeze_from_the_expanded_width() -> None:
    spec = edited(load_arch("efficientnet_b0"), se_base="expanded")
    assert count(spec).params == built_params(spec) == 8_423_848


def test_mutation_b0_that_keeps_an_expansion_in_its_first_stage() -> None:
    spec = edited(load_arch("efficientnet_b0"), keep_expansion=True)
    assert count(spec).params == built_params(spec) == 5_289_636


def test_mutation_b0_without_squeeze_excitation() -> None:
    spec = edited(load_arch("efficientnet_b0"), se_ratio=0.0)
    assert count(spec).params == built_params(spec) == 4_652_008


def test_mutation_v2_s_with_a_projection_in_its_first_stage() -> None:
    spec = edited(load_arch("efficientnetv2_s"), keep_projection=True)
    assert count(spec).params == built_params(spec) == 21_459_736


def test_mutation_v2_s_with_the_widths_of_an_early_figure() -> None:
    spec = load_arch("efficientnetv2_s")
    assert spec.head is not None
    last = StageSpec((replace(spec.stages[-1].layers[0], out_channels=272),))
    spec = replace(spec, stages=(*spec.stages[:-1], last), head=replace(spec.head, out_channels=1792))
    assert count(spec).params == 23_940_048


# --- the network ------------------------------------------------------------------------------------------


def tiny(**fields: Any) -> ArchSpec:
    spec = scaled(load_arch("efficientnetv2_b0", num_classes=10), width=0.25, depth=0.34)
    return replace(spec, **({"resolution": 32} | fields))


def test_any_size_and_number_of_channels_goes_through() -> None:
    network = build(tiny(in_channels=1), seed=0).eval()
    for size in (32, 33, 7):
        assert network(torch.randn(2, 1, size, size)).shape == (2, 10)


def test_without_a_head_the_last_stage_is_classified() -> None:
    spec = tiny(head=None)
    network = build(spec, seed=0)
    assert network.classifier.in_features == spec.resolved().stages[-1].layers[-1].out_channels
    assert built_params(spec) == count(spec).params
    assert network.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_every_parameter_of_a_network_gets_a_gradient() -> None:
    network = build(tiny(drop_path=0.0), seed=0).train()
    network(torch.randn(4, 3, 32, 32)).logsumexp(1).sum().backward()
    missing = [name for name, p in network.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
    assert missing == []


def test_a_name_is_no_architecture_and_the_message_says_how_to_load_one() -> None:
    with pytest.raises(UsageError, match=r"build: found 'efficientnet_b0'; .*nas.build\(nas.load_arch\(name\)\)"):
        build("efficientnet_b0")  # type: ignore[arg-type]


def test_a_seed_fixes_the_weights() -> None:
    one, same, other = (build(tiny(), seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["conv_stem.weight"], other["conv_stem.weight"])


def test_weights_have_the_spread_of_their_fan_out() -> None:
    network = build(load_arch("efficientnet_b0"), seed=0)
    for module in (network.conv_head, network.get_submodule("blocks.5.1.conv_dw")):
        assert isinstance(module, nn.Conv2d)
        fan_out = module.kernel_size[0] ** 2 * module.out_channels // module.groups
        assert float(module.weight.std()) == pytest.approx(math.sqrt(2 / fan_out), rel=0.02)
    bound = 1 / math.sqrt(1280)
    assert float(network.classifier.weight.abs().max()) == pytest.approx(bound, rel=0.01)
    assert float(network.classifier.bias.abs().max()) == 0


def test_numbers_of_the_spec_reach_the_modules() -> None:
    network = build(tiny(dropout=0.3, drop_path=0.4, norm_eps=1e-5, norm_momentum=0.02), seed=0)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-5, 0.02)}
    assert network.dropout.p == 0.3
    rates = [module.rate for module in network.modules() if isinstance(module, _layers.DropPath)]
    assert rates[0] == 0
    assert 0 < max(rates) < 0.4


def test_places_follow_the_image_through_the_network() -> None:
    found = list(places(load_arch("efficientnet_b0")))
    assert len(found) == 18
    assert [place.size for place in found[:4]] == [224, 112, 112, 56]
    assert found[-1].part == "head"
    assert found[-1].out_size == 7
    for before, after in pairwise(found):
        assert after.size == before.out_size
        assert after.args.in_channels == before.args.out_channels


# --- timm -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def timm() -> Any:
    """timm, where it is installed (`pip install -e ".[parity]"`)."""
    try:
        return libraries.load()[0]
    except ImportError as error:
        pytest.skip(f"{error}: install the extra `parity`")


@pytest.mark.parametrize("name", GOLDEN)
def test_state_dicts_have_timms_names_and_shapes(timm: Any, name: str) -> None:
    with torch.device("meta"):
        other = timm.create_model(libraries.NETWORKS[name].timm).state_dict()
        mine = build(load_arch(name)).state_dict()
    assert {key: value.shape for key, value in mine.items()} == {key: value.shape for key, value in other.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", GOLDEN)
def test_outputs_equal_timms_with_its_checkpoint_and_ours_fits_it(timm: Any, name: str) -> None:
    assert forward_error(name, timm) < 1e-5


@pytest.mark.parametrize("space", ["v1", "v2"])
def test_timm_builds_the_same_network_from_the_notation(timm: Any, space: str) -> None:
    from timm.models._efficientnet_blocks import SqueezeExcite
    from timm.models._efficientnet_builder import EfficientNetBuilder, decode_arch_def

    found, rng = load_space(space), random.Random(3)
    for _ in range(4):
        spec = decode(found, random_choose(rng))
        definition = timm_definition(spec)
        assert definition is not None
        with torch.device("meta"):
            stages = EfficientNetBuilder(32, act_layer=nn.SiLU, norm_layer=nn.BatchNorm2d, se_layer=SqueezeExcite)(
                spec.resolved().stem.out_channels, decode_arch_def(definition)
            )
            mine = build(spec).blocks
        theirs = nn.Sequential(*stages)
        shapes = {key: value.shape for key, value in theirs.state_dict().items()}
        assert shapes == {key: value.shape for key, value in mine.state_dict().items()}
        for our_stage, their_stage in zip(mine, theirs, strict=True):
            ours = [block.skip is not None for block in our_stage]
            assert ours == [block.has_skip for block in their_stage]


def test_timm_spreads_the_layers_of_a_stage_in_the_same_way(timm: Any) -> None:
    from timm.models._efficientnet_builder import decode_arch_def

    block = dict(kernel_size=3, expand_ratio=4.0, se_ratio=0.0)
    runs = tuple(LayerSpec("mbconv", 8 * n, n, 1, "silu", tuple(block.items())) for n in (1, 4, 2))
    stem = LayerSpec("conv", 8, options=(("kernel_size", 3),))
    for mult in (0.3, 0.5, 1.0, 1.1, 1.4, 2.2, 3.1):
        spec = ArchSpec(stem, (StageSpec(runs),), None, resolution=32, depth_mult=mult)
        texts = [BLOCKS["mbconv"].timm(run) for run in runs]
        theirs = [item["out_chs"] for item in decode_arch_def([texts], depth_multiplier=mult)[0]]
        mine = [layer.out_channels for layer in spec.resolved().stages[0].layers for _ in range(layer.num_layers)]
        assert mine == theirs
