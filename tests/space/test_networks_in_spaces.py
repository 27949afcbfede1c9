"""Published networks lie in the space of their paper, or it is known what keeps them out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from nas.catalog import load_arch, load_space
from nas.cost import count
from nas.errors import SpaceError
from nas.models import places
from nas.space import choices, decode, encode, stored_choose
from nas.spec import ArchSpec, LayerSpec, StageSpec, single_layers

LAYER = LayerSpec("mbconv", 0, activation="relu6")


def changed(spec: ArchSpec, widths: Mapping[int, int] | None = None, activation: str = "", **top: Any) -> ArchSpec:
    """A network with other widths of some stages (numbered from 1), and another activation throughout."""

    def layer(old: LayerSpec, width: int | None) -> LayerSpec:
        return replace(old, out_channels=width or old.out_channels, activation=activation or old.activation)

    stages = tuple(
        StageSpec(tuple(layer(run, (widths or {}).get(number)) for run in stage.layers))
        for number, stage in enumerate(spec.stages, 1)
    )
    assert spec.head is not None
    return replace(spec, stem=layer(spec.stem, None), stages=stages, head=layer(spec.head, None), **top)


def is_in(spec: ArchSpec, name: str) -> bool:
    space = load_space(name)
    found = encode(space, spec)
    assert set(found) == set(choices(space))
    return decode(space, stored_choose(found)).arch_hash == spec.arch_hash


def kept_out(spec: ArchSpec, name: str) -> str:
    with pytest.raises(SpaceError) as raised:
        encode(load_space(name), spec)
    return str(raised.value)


@pytest.mark.parametrize(
    ("network", "stage", "width", "nearest"), [("mnasnet_a1", 5, 112, 120), ("mnasnet_b1", 6, 192, 200)]
)
def test_mnasnets_are_in_their_space_but_for_one_width(network: str, stage: int, width: int, nearest: int) -> None:
    """The paper's widths are multiples of MobileNetV2's 96 and 160; 112 is 1.17 and 192 is 1.2 times that."""
    spec = load_arch(network)
    words = kept_out(spec, "mnasnet")
    assert f"stage s{stage} does not fit" in words and f"'out_channels': {width}" in words
    assert is_in(changed(spec, {stage: nearest}), "mnasnet")


def test_efficientnet_b0_is_in_the_space_around_it_and_not_in_mnasnets() -> None:
    spec = load_arch("efficientnet_b0")
    assert is_in(replace(spec, resolution=128), "v1")
    assert "stem does not fit" in kept_out(spec, "mnasnet")  # silu, where the space has relu
    relu = changed(spec, activation="relu", drop_path=0.0)
    assert "stage s5 does not fit" in kept_out(relu, "mnasnet")
    assert "stage s6 does not fit" in kept_out(changed(relu, {5: 120}), "mnasnet")
    assert is_in(changed(relu, {5: 120, 6: 200}), "mnasnet")


def test_mnasnet_b1_is_in_the_space_of_proxylessnas() -> None:
    """But for its activation; TuNAS's released code writes it in that space as well."""
    spec = load_arch("mnasnet_b1")
    assert is_in(changed(spec, activation="relu6", dropout=0.0), "proxyless")
    assert "stem does not fit" in kept_out(spec, "proxyless")


PROXYLESS_MOBILE = [
    "k5e3 k3e3",
    "k7e3 k3e3 k5e3 k5e3",
    "k7e6 k5e3 k5e3 k5e3",
    "k5e6 k5e3 k5e3 k5e3",
    "k7e6 k7e6 k7e3 k7e3",
    "k7e6",
]
"""Kernel and expansion of its layers. Source: Bender et al. 2020 (TuNAS), arXiv:2008.06120, released code."""


def test_proxyless_mobile_is_in_its_space_but_for_one_width() -> None:
    """Its first cell is 32 wide; the released search has 24."""
    spec = load_arch("mobilenet_v2")
    stages = [spec.stages[0]]
    for layers, width, stride in zip(PROXYLESS_MOBILE, (32, 40, 80, 96, 192, 320), (2, 2, 2, 1, 2, 1), strict=True):
        options = [
            {"kernel_size": int(word[1]), "expand_ratio": float(word[3]), "se_ratio": 0.0} for word in layers.split()
        ]
        runs = [replace(LAYER, out_channels=width, options=tuple(sorted(own.items()))) for own in options]
        stages.append(StageSpec((replace(runs[0], stride=stride), *runs[1:])))
    mobile = replace(spec, stages=tuple(stages), dropout=0.0)
    assert count(mobile).params == 4_080_512  # as published, 4.1 million
    words = kept_out(mobile, "proxyless")
    assert "stage s2 does not fit" in words and "'out_channels': 32" in words
    assert is_in(changed(mobile, {2: 24}), "proxyless")


def whole_ratios(spec: ArchSpec, ratio: float) -> ArchSpec:
    """MobileNetV3-Large with a whole number in place of the expansions 2.5 and 2.3."""
    stages = []
    for stage in spec.stages:
        layers = [
            replace(
                layer,
                options=tuple((k, ratio if k == "expand_ratio" and v in (2.5, 2.3) else v) for k, v in layer.options),
            )
            for layer in single_layers(stage)
        ]
        stages.append(StageSpec(tuple(layers)))
    return replace(spec, stages=tuple(stages))


def test_mobilenet_v3_large_is_in_the_space_of_once_for_all_but_for_two_expansions_and_its_head() -> None:
    spec = load_arch("mobilenet_v3_large")
    words = kept_out(spec, "ofa")
    assert "stage s4 does not fit" in words and "'expand_ratio': 2.5" in words
    whole = whole_ratios(spec, 3.0)
    assert "head does not fit" in kept_out(whole, "ofa")  # a bias
    assert whole.head is not None
    without = tuple((key, value) for key, value in whole.head.options if key != "bias")
    plain = replace(whole, head=replace(whole.head, options=without))
    assert "norm_eps: the network has 0.001, the space makes 1e-05" in kept_out(plain, "ofa")
    assert is_in(replace(plain, norm_eps=1e-5, dropout=0.1), "ofa")


def test_mobilenet_v3_large_is_in_the_space_around_it_but_for_two_expansions_and_two_widths() -> None:
    spec = load_arch("mobilenet_v3_large")
    words = kept_out(spec, "mobilenet_v3")
    assert "stage s4 does not fit" in words and "'expand_ratio': 2.5" in words
    whole = whole_ratios(spec, 2.0)
    for stage, width in ((5, 128), (7, 1024)):
        assert f"stage s{stage} does not fit" in kept_out(whole, "mobilenet_v3")
        whole = changed(whole, {stage: width})
    assert is_in(whole, "mobilenet_v3")


@pytest.mark.parametrize("name", ["ofa", "mobilenet_v3"])
def test_mobilenet_v3_small_has_other_stages(name: str) -> None:
    assert "the number of stages (7) does not fit; found 6" in kept_out(load_arch("mobilenet_v3_small"), name)


ATTENTIVE = [
    # resolution, widths, kernels, expansions, depths, million multiply-adds
    (192, "16 16 24 32 64 112 192 216 1792", "3 3 3 3 3 3 3", "1 4 4 4 4 6 6", "1 3 3 3 3 3 1", 203),
    (224, "16 16 24 32 64 112 192 216 1984", "3 3 3 5 3 5 3", "1 4 4 4 4 6 6", "1 3 3 3 3 3 1", 279),
    (224, "16 16 24 32 64 112 200 224 1984", "3 3 3 3 3 5 3", "1 4 5 4 4 6 6", "1 3 3 3 3 4 1", 317),
    (224, "16 16 24 32 64 112 208 224 1984", "3 3 3 5 3 3 3", "1 4 4 4 4 6 6", "2 3 3 4 3 5 1", 357),
    (256, "16 16 24 32 64 112 192 216 1984", "3 3 3 5 3 5 3", "1 4 4 5 4 6 6", "1 3 3 4 3 5 1", 444),
    (256, "16 16 24 32 72 112 192 216 1792", "3 3 3 5 3 3 3", "1 4 5 4 4 6 6", "1 3 3 3 4 6 1", 491),
    (288, "16 16 24 32 64 112 216 224 1984", "3 3 3 3 3 5 3", "1 4 6 5 4 6 6", "1 3 3 4 4 6 1", 709),
]
"""AttentiveNAS-A0 to A6. Source: Wang et al. 2021, arXiv:2011.09011, released configuration."""


@pytest.mark.parametrize(
    ("resolution", "widths", "kernels", "ratios", "depths", "published"), ATTENTIVE, ids=[f"A{i}" for i in range(7)]
)
def test_attentivenas_networks_are_in_their_space(
    resolution: int, widths: str, kernels: str, ratios: str, depths: str, published: int
) -> None:
    """Choice by choice; with the two things that the released code does besides, multiply-adds are the published ones."""
    space = load_space("attentive")
    stem, *channels, last = map(int, widths.split())
    chosen: dict[str, Any] = {"resolution": resolution, "stem.out_channels": stem, "head.out_channels": last}
    for number, width in enumerate(channels, 1):
        kernel, ratio, depth = (int(words.split()[number - 1]) for words in (kernels, ratios, depths))
        own = {"kernel_size": kernel, "expand_ratio": float(ratio), "out_channels": width, "num_layers": depth}
        chosen |= {f"s{number}.{key}": value for key, value in own.items()}
    domains = choices(space)
    assert all(chosen[key] in domain.values for key, domain in domains.items())
    spec = decode(space, stored_choose(chosen))
    assert encode(space, spec) == {key: chosen[key] for key in domains}

    sizes = {place.part: place.out_size for place in places(spec)}
    shortcuts = sum(
        before * after * sizes[f"s{number}"] ** 2
        for number, (before, after) in enumerate(zip([stem, *channels], channels, strict=False), 1)
        if before != after
    )
    too_wide = (1344 - 6 * channels[-1]) * (channels[-1] * sizes["s7"] ** 2 + last)
    assert count(spec).macs + shortcuts - too_wide == pytest.approx(published * 1e6, abs=0.7e6)
