"""The way back from a network to the choices that make it."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from nas import catalog
from nas.errors import SpaceError
from nas.space import choices, decode, encode, random_choose, stored_choose
from nas.space.library import names

SPACES = [name for name in names() if not name.startswith("reference/")]

RICH = """
name: rich
resolution: [24, 32]
activation: [silu, relu]
width_mult: [0.5, 1]
stem: {block: conv, kernel_size: [3, 5], stride: 1, out_channels: [16, 24]}
stages:
  - {block: mbconv, kernel_size: [3, 5], expand_ratio: [2, 4], se_ratio: [0, 0.25], out_channels: 32,
     num_layers: {min: 1, max: 4}, stride: 2, per_layer: [kernel_size, expand_ratio]}
  - block: mbconv
    out_channels: 64
    stride: 2
    layers:
      - {expand_ratio: [3, 6], kernel_size: 3}
      - {expand_ratio: 2, kernel_size: [3, 5], num_layers: 2}
head: {block: conv, kernel_size: 1, out_channels: [64, 128], dropout: [0.1, 0.2]}
"""


@pytest.mark.parametrize("name", SPACES)
def test_what_a_space_makes_is_found_again(name: str) -> None:
    space, rng = catalog.load_space(name), random.Random(7)
    for _ in range(10):
        spec = decode(space, random_choose(rng), num_classes=7, in_channels=1)
        found = encode(space, spec)
        assert set(found) == set(choices(space))
        assert decode(space, stored_choose(found), num_classes=7, in_channels=1).arch_hash == spec.arch_hash


def test_choices_of_every_kind_are_found_again(tmp_path: Path) -> None:
    """Of each layer, of runs, of stem and head, and multipliers."""
    (tmp_path / "rich.yaml").write_text(RICH)
    space, rng = catalog.load_space(tmp_path / "rich.yaml"), random.Random(3)
    for _ in range(25):
        spec = decode(space, random_choose(rng))
        assert decode(space, stored_choose(encode(space, spec))).arch_hash == spec.arch_hash


def test_a_network_is_its_own_space() -> None:
    for name in ("efficientnet_b0", "efficientnetv2_s"):
        assert encode(catalog.load_space(name), catalog.load_arch(name)) == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"resolution": 64}, "resolution: the network has 64, the space makes 16"),
        ({"dropout": 0.5}, "dropout: the network has 0.5, the space makes 0.1"),
        ({"width_mult": 2.0}, "stem does not fit; found {'block': 'conv', 'kernel_size': 3, 'out_channels': 16"),
        ({"depth_mult": 3.0}, "stage s1 does not fit; found [{'block': 'fused_mbconv'"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, change: dict[str, float], words: str) -> None:
    from tiny import TINY_NETWORK, TINY_SPACE

    for name, text in (("tiny", TINY_SPACE), ("network", TINY_NETWORK)):
        (tmp_path / f"{name}.yaml").write_text(text)
    space, spec = catalog.load_space(tmp_path / "tiny.yaml"), catalog.load_arch(tmp_path / "network.yaml")
    assert encode(space, spec)
    with pytest.raises(SpaceError) as raised:
        encode(space, replace(spec, **change))  # type: ignore[arg-type]
    assert words in str(raised.value) and "is not in the space tiny" in str(raised.value)


def test_a_network_with_other_stages_is_not_in_the_space() -> None:
    with pytest.raises(SpaceError, match=r"the number of stages \(6\) does not fit; found 7"):
        encode(catalog.load_space("v2"), catalog.load_arch("efficientnet_b0"))


def test_too_many_combinations_are_refused_instead_of_tried(tmp_path: Path) -> None:
    stage = {"block": "mbconv", "kernel_size": [3, 5], "stride": 2}
    stage |= {"expand_ratio": [n / 8 for n in range(8, 208)], "out_channels": [8 * n for n in range(1, 700)]}
    stem = {"block": "conv", "kernel_size": 3, "stride": 2, "out_channels": 8}
    content = {"name": "wide", "resolution": 32, "stem": stem, "stages": [stage], "head": {"dropout": 0.1}}
    (tmp_path / "wide.yaml").write_text(yaml.safe_dump(content))
    space = catalog.load_space(tmp_path / "wide.yaml")
    with pytest.raises(SpaceError, match=r"s1\.kernel_size: one of more than 200000 combinations"):
        encode(space, decode(space, random_choose(random.Random(0))))
