"""Spaces and networks by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nas.catalog import baseline, load_arch, load_space
from nas.errors import SpaceError
from nas.space import decode, middle_choose


def test_a_network_can_be_asked_for_at_another_size() -> None:
    spec = load_arch("efficientnet_b0", resolution=96, num_classes=10)
    assert (spec.resolution, spec.num_classes) == (96, 10)
    assert load_arch("efficientnet_b0").resolution == 224


def test_a_given_resolution_is_not_multiplied(tmp_path: Path) -> None:
    file = tmp_path / "net.yaml"
    file.write_text("extends: efficientnet_b0\nresolution_mult: 2\n", encoding="utf-8")
    assert load_arch(file).resolved().resolution == 448
    assert load_arch(file, resolution=100).resolved().resolution == 100


def test_a_space_is_not_an_architecture(tmp_path: Path) -> None:
    with pytest.raises(
        SpaceError, match=r"^v2: a search space with 3\d open choices \(s1\.block, .*, \.\.\.\), not an"
    ):
        load_arch("v2")
    file = tmp_path / "net.yaml"
    file.write_text("extends: efficientnet_b0\nresolution: [32, 64]\n", encoding="utf-8")
    with pytest.raises(SpaceError, match=r"with 1 open choices \(resolution\), not an architecture\."):
        load_arch(file)


def test_the_baseline_takes_the_classes_and_channels_of_the_data() -> None:
    space = load_space("v2_tiny")
    found = baseline(space, num_classes=7, in_channels=1)
    assert (found.num_classes, found.in_channels) == (7, 1)
    assert space.baseline is not None
    assert found == replace(space.baseline, num_classes=7, in_channels=1)


def test_without_a_baseline_the_middle_of_the_space_stands_for_it() -> None:
    space = replace(load_space("v2_tiny"), baseline=None)
    found = baseline(space, num_classes=7, in_channels=1)
    assert found.name == "v2_tiny-middle"
    assert found.arch_hash == decode(space, middle_choose, num_classes=7, in_channels=1).arch_hash
