"""Rounding, scaling, canonical text and hash."""

from __future__ import annotations

import itertools
import json
import random
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.blocks import rules
from nas.blocks._layers import DropPath
from nas.catalog import load_arch, load_space
from nas.cost import count
from nas.models import build
from nas.space import decode, library, load, random_choose
from nas.spec import (
    ArchSpec,
    Key,
    LayerSpec,
    StageSpec,
    merged,
    round_channels,
    round_depth,
    round_resolution,
    scaled,
    settled,
    single_layers,
    summary,
)

GOLDEN = Path(__file__).parent / "golden"
B0 = load_arch("efficientnet_b0")
V2_B0 = load_arch("efficientnetv2_b0")

BLOCK = LayerSpec("mbconv", 16, 2, 1, "silu", (("expand_ratio", 4.0), ("kernel_size", 3), ("se_ratio", 0.0)))


def network(*stages: tuple[LayerSpec, ...], **fields_: Any) -> ArchSpec:
    stem = LayerSpec("conv", 8, 1, 2, "silu", (("kernel_size", 3),))
    return ArchSpec(stem, tuple(StageSpec(runs) for runs in stages), None, **({"resolution": 32} | fields_))


def channels(spec: ArchSpec) -> list[int]:
    return [stage.layers[0].out_channels for stage in spec.resolved().stages]


def depths(spec: ArchSpec) -> list[int]:
    return [stage.num_layers for stage in spec.resolved().stages]


# --- rounding ---------------------------------------------------------------------------------------------


def test_trap_the_ten_percent_rule_bites_at_19_2() -> None:
    assert round_channels(16 * 1.2, limit=0.9) == 24
    assert round_channels(16 * 1.2, limit=0) == 16


def test_trap_25_layers_times_2_2_are_55_not_56() -> None:
    assert 25 * 2.2 > 55  # the float trap itself
    assert round_depth(25, 2.2) == 55
    assert round_depth(10, 1.1) == 11
    assert round_depth(1, 1.1) == 2


@pytest.mark.parametrize(("wish", "found"), [(3, 8), (11.9, 16), (12, 16), (84, 88), (83.9, 80), (1280, 1280)])
def test_round_channels_to_the_nearest_eight(wish: float, found: int) -> None:
    assert round_channels(wish) == found


@pytest.mark.parametrize(("wish", "found"), [(1, 8), (11.9, 8), (12, 16), (224, 224), (257.6, 256), (300, 304)])
def test_round_resolution_to_the_nearest_eight(wish: float, found: int) -> None:
    assert round_resolution(wish) == found


@given(
    wish=st.floats(0.01, 10_000),
    divisor=st.integers(1, 64),
    limit=st.floats(0, 1),
)
def test_rounded_channels_are_divisible_and_not_far_below_the_wish(wish: float, divisor: int, limit: float) -> None:
    found = round_channels(wish, divisor, limit)
    assert found % divisor == 0
    assert found >= divisor
    assert found >= limit * wish - 1e-9 * wish
    assert found <= max(divisor, wish + 1.5 * divisor)


@given(layers=st.integers(1, 100), mult=st.floats(0.01, 10))
def test_rounded_depth_is_the_least_whole_number_above(layers: int, mult: float) -> None:
    found = round_depth(layers, mult)
    assert layers * mult - 1e-5 <= found < layers * mult + 1 + 1e-5


# --- keys -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "fine"),
    [
        (Key(int, 3, minimum=1, odd=True), 5, True),
        (Key(int, 3, minimum=1, odd=True), 4, False),
        (Key(int, 3), 3.0, False),
        (Key(int, 3), True, False),
        (Key(int, 3), "3", False),
        (Key(float, 1, minimum=0, maximum=1), 1, True),
        (Key(float, 1, minimum=0, maximum=1), 1.01, False),
        (Key(float, 1), float("nan"), False),
        (Key(float, 1), float("inf"), False),
        (Key(bool, False), True, True),
        (Key(bool, False), 1, False),
        (Key(str, ""), "x", True),
        (Key(str, ""), None, False),
    ],
)
def test_a_key_accepts_its_own_type_and_range(key: Key, value: object, fine: bool) -> None:
    problem = key.problem(value)
    assert (problem is None) == fine
    if problem is not None:
        assert problem == f"found {value!r}; allowed: {key.allowed()}"


def test_a_key_says_what_it_allows() -> None:
    assert Key(int, 3, minimum=1, maximum=31, odd=True).allowed() == "an odd whole number from 1 up to 31"
    assert Key(float, 0, minimum=0).allowed() == "a number from 0"


# --- scaling ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "depth", "pixels", "params", "macs"),
    [
        (1.0, 1.1, 240, 7_794_184, 686_802_832),
        (1.1, 1.2, 260, 9_109_994, 993_561_872),
        (1.2, 1.4, 300, 12_233_232, 1_827_141_392),
        (1.4, 1.8, 380, 19_341_616, 4_393_771_024),
        (1.6, 2.2, 456, 30_389_784, 10_266_384_752),
        (1.8, 2.6, 528, 43_040_704, 19_067_593_536),
        (2.0, 3.1, 600, 66_347_960, 37_745_884_192),
    ],
    ids=[f"b{k}" for k in range(1, 8)],
)
def test_efficientnet_scales_to_the_published_networks_to_the_unit(
    width: float, depth: float, pixels: int, params: int, macs: int
) -> None:
    spec = replace(scaled(B0, width=width, depth=depth), resolution=pixels)
    assert count(spec) == (params, macs)


def test_efficientnet_b3_and_b7_have_the_published_widths_and_depths() -> None:
    b3, b7 = scaled(B0, width=1.2, depth=1.4), scaled(B0, width=2.0, depth=3.1)
    assert channels(b3) == [24, 32, 48, 96, 136, 232, 384]
    assert depths(b3) == [2, 3, 3, 5, 5, 6, 2]
    assert channels(b7) == [32, 48, 80, 160, 224, 384, 640]
    assert depths(b7) == [4, 7, 7, 10, 10, 13, 4]
    assert b7.resolved().stem.out_channels == 64
    assert b7.resolved().head is not None
    assert b7.resolved().head.out_channels == 2560  # type: ignore[union-attr]


def test_b5_and_b7_scale_to_their_published_resolution_too() -> None:
    assert scaled(B0, resolution=456 / 224).resolved().resolution == 456
    assert scaled(B0, resolution=600 / 224).resolved().resolution == 600


@pytest.mark.parametrize(
    ("width", "depth", "pixels", "params", "macs"),
    [
        (1.0, 1.1, 240, 8_141_052, 1_196_819_360),
        (1.1, 1.2, 260, 10_096_086, 1_697_542_832),
        (1.2, 1.4, 300, 14_358_406, 3_011_458_816),
    ],
    ids=["b1", "b2", "b3"],
)
def test_efficientnetv2_scales_to_the_published_networks_to_the_unit(
    width: float, depth: float, pixels: int, params: int, macs: int
) -> None:
    spec = replace(scaled(V2_B0, width=width, depth=depth), resolution=pixels)
    assert count(spec) == (params, macs)


def test_mutation_efficientnetv2_b3_with_the_ten_percent_rule_is_another_network() -> None:
    spec = replace(scaled(V2_B0, width=1.2, depth=1.4), round_limit=0.9)
    assert count(spec).params == 14_377_062


def test_mutation_efficientnet_b3_without_the_ten_percent_rule_is_another_network() -> None:
    spec = replace(scaled(B0, width=1.2, depth=1.4), round_limit=0)
    assert count(spec).params == 12_227_212


def test_resolving_twice_changes_nothing() -> None:
    spec = scaled(B0, width=1.2, depth=1.4, resolution=1.3)
    assert spec.resolved().resolved() == spec.resolved()
    assert B0.resolved() == B0


eighths = st.integers(2, 24).map(lambda number: number / 8)  # exact in binary, so that products are too


@given(eighths, eighths, eighths, eighths, eighths, eighths)
@settings(max_examples=60, deadline=None)
def test_scaling_twice_is_scaling_once(d1: float, w1: float, r1: float, d2: float, w2: float, r2: float) -> None:
    twice = scaled(scaled(B0, depth=d1, width=w1, resolution=r1), depth=d2, width=w2, resolution=r2)
    once = scaled(B0, depth=d1 * d2, width=w1 * w2, resolution=r1 * r2)
    assert twice == once
    assert twice.arch_hash == once.arch_hash


def test_scaling_by_one_is_the_same_network() -> None:
    assert scaled(B0).arch_hash == B0.arch_hash


@pytest.mark.parametrize(
    ("runs", "mult", "found"),
    [([1, 2], 1.4, [2, 3]), ([2, 2], 1.5, [3, 3]), ([1, 1, 1], 2.0, [2, 2, 2]), ([1, 3], 0.5, [1, 2])],
)
def test_a_stage_of_several_runs_is_scaled_as_a_whole_from_its_last_run(
    runs: list[int], mult: float, found: list[int]
) -> None:
    layers = tuple(replace(BLOCK, num_layers=length, out_channels=8 * i) for i, length in enumerate(runs, 1))
    resolved = network(layers, depth_mult=mult).resolved().stages[0]
    assert [layer.num_layers for layer in resolved.layers] == found


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.floats(0.1, 4))
def test_every_run_keeps_a_layer_and_the_total_is_that_of_the_stage(runs: list[int], mult: float) -> None:
    layers = tuple(replace(BLOCK, num_layers=length, out_channels=8 * i) for i, length in enumerate(runs, 1))
    resolved = network(layers, depth_mult=mult).resolved().stages[0]
    found = [layer.num_layers for layer in resolved.layers]
    assert min(found) >= 1
    total = round_depth(sum(runs), mult)
    assert total <= sum(found) <= max(total, total + len(runs) - 1)
    assert sum(found) == total or 1 in found


def test_neighbouring_runs_merge_only_where_they_are_the_same() -> None:
    longer = replace(BLOCK, num_layers=3)
    assert merged((BLOCK, longer)) == (replace(BLOCK, num_layers=5),)
    strided = replace(BLOCK, stride=2)
    assert merged((strided, BLOCK)) == (replace(strided, num_layers=4),)
    assert merged((BLOCK, strided)) == (BLOCK, strided)  # the second run shrinks the image: another network
    other = replace(BLOCK, out_channels=24)
    assert merged((BLOCK, other, BLOCK)) == (BLOCK, other, BLOCK)
    assert merged(()) == ()


def test_only_the_first_block_of_a_run_has_its_stride() -> None:
    run = replace(BLOCK, num_layers=3, stride=2)
    assert [layer.stride for layer in single_layers(StageSpec((run,)))] == [2, 1, 1]


def test_drop_path_rises_linearly_and_never_reaches_its_rate() -> None:
    spec = network((replace(BLOCK, num_layers=4),), drop_path=0.2)
    rates = [module.rate for module in build(spec).modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15])


# --- identity ---------------------------------------------------------------------------------------------


def space_text(stage: str, top: str = "") -> str:
    return f"resolution: 32\n{top}\nstem: {{block: conv, out_channels: 16}}\nstages:\n  - {stage}\nhead: {{}}\n"


def read(folder: Path, stage: str, top: str = "") -> ArchSpec:
    file = folder / "net.yaml"
    file.write_text(space_text(stage, top), encoding="utf-8")
    return load_arch(file)


FUSED = "{block: fused_mbconv, expand_ratio: 1, out_channels: 24, num_layers: 3%s}"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((FUSED % ", se_ratio: 0.25",), (FUSED % "",)),  # nothing expanded, nothing squeezed: the key is masked
        (
            ("{layers: [{block: mbconv, num_layers: 2}, {block: mbconv, num_layers: 1}], out_channels: 24}",),
            ("{block: mbconv, out_channels: 24, num_layers: 3}",),
        ),
        (
            ("{block: mbconv, out_channels: 24, num_layers: 2}", "depth_mult: 1.5"),
            ("{block: mbconv, out_channels: 24, num_layers: 3}",),
        ),
        (
            ("{block: mbconv, out_channels: 24, kernel_size: 5, num_layers: 3, per_layer: [kernel_size]}",),
            ("{block: mbconv, out_channels: 24, kernel_size: 5, num_layers: 3}",),
        ),
        (
            ("{block: mbconv, out_channels: 24, expand_ratio: 4.0}", "name: one"),
            ("{block: mbconv, out_channels: 24, expand_ratio: 4}", "name: other"),
        ),
    ],
    ids=["masked key", "merged runs", "depth_mult", "equal per-layer choices", "text of a number"],
)
def test_one_network_written_two_ways_has_one_hash(
    tmp_path: Path, one: tuple[str, ...], other: tuple[str, ...]
) -> None:
    first, second = read(tmp_path, *one), read(tmp_path, *other)
    assert first.canonical() == second.canonical()
    assert first.arch_hash == second.arch_hash


def test_a_width_multiplier_and_the_widths_that_it_gives_have_one_hash() -> None:
    wide = replace(B0, width_mult=1.1)
    by_hand = load_arch("efficientnet_b0").resolved()
    new = [16, 24, 48, 88, 120, 208, 352]
    stages = tuple(
        StageSpec((replace(stage.layers[0], out_channels=width),))
        for stage, width in zip(by_hand.stages, new, strict=True)
    )
    assert by_hand.head is not None
    by_hand = replace(by_hand, stages=stages, head=replace(by_hand.head, out_channels=1408))
    assert by_hand.arch_hash == wide.arch_hash


OTHER_VALUES: dict[str, Any] = {
    "resolution": 40,
    "num_classes": 7,
    "in_channels": 1,
    "dropout": 0.3,
    "drop_path": 0.1,
    "width_mult": 2.0,
    "depth_mult": 2.0,
    "resolution_mult": 2.0,
    "norm_eps": 1e-5,
    "norm_momentum": 0.01,
    "stem_pool": True,
    "head": LayerSpec("conv", 64, options=(("kernel_size", 1),)),
    "stem": LayerSpec("conv", 16, 1, 2, "silu", (("kernel_size", 3),)),
    "stages": (StageSpec((replace(BLOCK, stride=2),)),),
}


@pytest.mark.parametrize("field", sorted(OTHER_VALUES))
def test_any_changed_field_gives_another_hash(field: str) -> None:
    spec = network((BLOCK,))
    assert replace(spec, **{field: OTHER_VALUES[field]}).arch_hash != spec.arch_hash


@pytest.mark.parametrize(
    "change",
    [
        {"block": "fused_mbconv"},
        {"out_channels": 24},
        {"num_layers": 3},
        {"stride": 2},
        {"activation": "relu"},
        {"skip": "none", "num_layers": 2},
        {"options": (("expand_ratio", 4.0), ("kernel_size", 5), ("se_ratio", 0.0))},
    ],
    ids=lambda change: next(iter(change)),
)
def test_any_changed_key_of_a_layer_gives_another_hash(change: dict[str, Any]) -> None:
    assert network((replace(BLOCK, **change),)).arch_hash != network((BLOCK,)).arch_hash


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("before", [8, 16], ids=["other channels", "equal channels"])
def test_a_wish_for_a_skip_connection_makes_one_text_of_one_network(stride: int, before: int) -> None:
    """Layer by layer: the first block of a stage has a skip connection, or none, whatever it wishes."""
    wishes = ["", "none", "pool"]
    found: dict[tuple[str, ...], set[str]] = {}
    for names in itertools.product(wishes, repeat=3):
        layers = [replace(BLOCK, out_channels=16, num_layers=1, skip=name) for name in names]
        spec = network((replace(layers[0], stride=stride), *layers[1:]))
        spec = replace(spec, stem=replace(spec.stem, out_channels=before))
        possible = before == 16 and (stride == 1 or names[0] == "pool")
        first = names[0] if possible else "none"
        found.setdefault((first, *names[1:]), set()).add(spec.arch_hash)
        assert settled(spec.resolved().stages[0], before) == spec.resolved().stages[0]
    assert all(len(hashes) == 1 for hashes in found.values())
    assert len(set().union(*found.values())) == len(found)


def test_every_field_of_a_spec_is_tested_for_its_part_in_the_identity() -> None:
    acts_through_rounding = {"channel_divisor", "round_limit"}
    for_people = {"name", "reference"}
    assert {item.name for item in fields(ArchSpec)} == set(OTHER_VALUES) | {
        "pool_first"
    } | acts_through_rounding | for_people
    spec = network((BLOCK,))
    assert replace(spec, name="x", reference="y").arch_hash == spec.arch_hash
    assert replace(spec, channel_divisor=4, round_limit=0).arch_hash == spec.arch_hash  # nothing is rounded here
    assert replace(spec, pool_first=True).arch_hash == spec.arch_hash  # before no head
    headed = replace(spec, head=LayerSpec("conv", 64, options=(("kernel_size", 1),)))
    assert replace(headed, pool_first=True).arch_hash != headed.arch_hash
    wide = replace(spec, width_mult=1.2)
    assert replace(wide, channel_divisor=4).arch_hash != wide.arch_hash


def test_the_hash_is_sixteen_hexadecimal_digits_of_the_text() -> None:
    assert re.fullmatch("[0-9a-f]{16}", B0.arch_hash)
    content = json.loads(B0.canonical())
    assert content["schema"] == 1
    assert "name" not in content
    assert "width_mult" not in content


GOLDEN_HASHES = yaml.safe_load((GOLDEN / "arch_hashes.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnetv2_b0", "efficientnetv2_s"])
def test_the_hashes_of_the_reference_networks_never_change(name: str) -> None:
    assert load_arch(name).arch_hash == GOLDEN_HASHES[name]


def test_the_canonical_text_never_changes() -> None:
    assert B0.canonical() == (GOLDEN / "efficientnet_b0.canonical.json").read_text(encoding="utf-8").rstrip("\n")


@pytest.mark.parametrize("name", library.names())
def test_a_network_survives_being_written_as_a_space_file_and_read_again(name: str, tmp_path: Path) -> None:
    space, rng, known = load_space(name), random.Random(0), rules()
    file = tmp_path / "net.yaml"
    for _ in range(1 if name.startswith("reference/") else 100):
        spec = decode(space, random_choose(rng), num_classes=10, in_channels=1)
        file.write_text(yaml.safe_dump(spec.document(), sort_keys=False), encoding="utf-8")
        again = decode(load(file, known), lambda name, domain: pytest.fail(f"{name} is open"))
        assert again.arch_hash == spec.arch_hash
        assert again.document() == spec.document()


def test_the_document_of_a_resolved_network_is_the_same_network(tmp_path: Path) -> None:
    spec = scaled(B0, width=1.2, depth=1.4, resolution=300 / 224)
    file = tmp_path / "b3.yaml"
    file.write_text(yaml.safe_dump(spec.resolved().document()), encoding="utf-8")
    assert load_arch(file).arch_hash == spec.arch_hash


def test_the_summary_shows_the_resolved_network() -> None:
    assert summary(network((BLOCK,), depth_mult=2.0, width_mult=2.0)) == "32px mbconv_e4_k3_c32x4"
    assert summary(V2_B0).startswith("192px fused_e1_k3_c16x1 fused_e4_k3_c32x2")
    assert summary(network((replace(BLOCK, skip="none"),))) == "32px mbconv_e4_k3_skip-none_c16x2"
    assert "mbconv_e3_k5_se0.25_c40x3" in summary(load_arch("mobilenet_v3_large"))
