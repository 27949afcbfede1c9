"""Coefficients and rules to a network: the published families, rounding, and what the rules exempt."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nas import catalog
from nas.cost import count
from nas.errors import UsageError
from nas.scale.compound import (
    EFFICIENTNET,
    PUBLISHED,
    Coefficients,
    Row,
    Rules,
    at,
    phi_of,
    pixels,
    published,
    scale,
)
from nas.spec import ArchSpec

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "reference_networks.json").read_text())["networks"]


def layers(spec: ArchSpec) -> list[int]:
    return [stage.num_layers for stage in spec.resolved().stages]


@pytest.mark.parametrize("row", EFFICIENTNET, ids=lambda row: row.name)
def test_the_published_table_gives_the_networks_of_the_libraries(row: Row) -> None:
    spec = published(row, catalog.load_arch(row.base))
    golden = GOLDEN[row.name]
    counted = count(replace(spec, resolution=golden["pixels"]))
    assert (counted.params, counted.macs) == (golden["params"], golden["macs"])
    assert spec.arch_hash == catalog.load_arch(row.name).arch_hash


def test_no_single_phi_gives_b4() -> None:
    b4 = next(row for row in EFFICIENTNET if row.name == "efficientnet_b4")
    found = [phi_of(b4.depth, 1.2), phi_of(b4.width, 1.1), phi_of(b4.resolution / 224, 1.15)]
    assert [round(phi, 2) for phi in found] == [3.22, 3.53, 3.78]


def test_phi_1_of_the_published_coefficients_costs_more_than_theory() -> None:
    b0 = catalog.load_arch("efficientnet_b0")
    assert round(PUBLISHED.theory, 3) == 1.920
    built = count(scale(b0, PUBLISHED, 1, Rules(resolution_multiple=32))).macs / count(b0).macs
    assert round(built, 2) == 2.23  # at 256 pixels


def test_phi_0_is_the_network_itself() -> None:
    for name in ("efficientnet_b0", "mobilenet_v2", "v2_tiny"):
        space = catalog.load_space(name)
        base = catalog.baseline(space, num_classes=10, in_channels=3)
        for policy in ("v1", "v2"):
            rules = Rules(policy=policy)  # type: ignore[arg-type]
            assert scale(base, PUBLISHED, 0, rules).arch_hash == base.arch_hash


@settings(max_examples=25, deadline=None)
@given(phi=st.floats(0, 4), alpha=st.floats(1, 2), beta=st.floats(1, 1.5), gamma=st.floats(1, 1.5))
def test_a_network_only_grows(phi: float, alpha: float, beta: float, gamma: float) -> None:
    base = catalog.load_arch("efficientnetv2_b0")
    for rules in (Rules(), Rules(depth_rounding="round"), Rules(policy="v2")):
        spec = scale(base, Coefficients(alpha, beta, gamma), phi, rules)
        assert all(new >= old for new, old in zip(layers(spec), layers(base), strict=True))
        assert spec.resolution >= base.resolution
        assert count(spec).macs >= count(base).macs
        assert spec.resolution % 8 == 0


def test_layers_are_rounded_up_or_to_the_nearest_and_the_float_trap_is_guarded() -> None:
    base = catalog.load_arch("efficientnetv2_l")  # 25 layers in stage 6: 25 * 2.2 = 55.000000000000007
    assert layers(at(base, depth=2.2, width=1, resolution=1, rules=Rules()))[5] == 55
    b0 = catalog.load_arch("efficientnet_b0")
    assert layers(b0) == [1, 2, 2, 3, 3, 4, 1]
    assert layers(at(b0, depth=1.2, width=1, resolution=1, rules=Rules())) == [2, 3, 3, 4, 4, 5, 2]
    rounded = at(b0, depth=1.2, width=1, resolution=1, rules=Rules(depth_rounding="round"))
    assert layers(rounded) == [1, 2, 2, 4, 4, 5, 1]


def test_v2_gives_as_many_layers_in_all_but_more_of_them_to_later_stages() -> None:
    b0 = catalog.load_arch("efficientnet_b0")
    uniform = at(b0, depth=2, width=1, resolution=1, rules=Rules(depth_rounding="round"))
    later = at(b0, depth=2, width=1, resolution=1, rules=Rules(policy="v2"))
    assert sum(layers(later)) == sum(layers(uniform)) == 32
    ratios = [new / old for new, old in zip(layers(later), layers(b0), strict=True)]
    assert ratios[1] < ratios[3] < ratios[5]


def test_a_largest_resolution_caps_and_one_below_the_base_is_refused() -> None:
    base = catalog.load_arch("efficientnetv2_b0")
    assert pixels(base, 4, Rules(max_resolution=480)) == 480
    assert pixels(base, 4, Rules()) == 768
    with pytest.raises(UsageError, match=r"--max-resolution: found 100; .* 192 pixels"):
        at(base, depth=1, width=1, resolution=1, rules=Rules(max_resolution=100))


def test_stem_head_and_first_and_last_stage_can_be_kept() -> None:
    base = catalog.load_arch("efficientnet_b0")
    rules = Rules(keep_stem=True, keep_head=True, keep_first_last=True)
    spec = at(base, depth=2, width=2, resolution=1, rules=rules).resolved()
    assert spec.stem.out_channels == 32 and spec.head is not None and spec.head.out_channels == 1280
    assert layers(spec) == [1, 4, 4, 6, 6, 8, 1]
    free = at(base, depth=2, width=2, resolution=1, rules=Rules()).resolved()
    assert free.stem.out_channels == 64 and free.head is not None and free.head.out_channels == 2560


def test_what_a_networks_own_multipliers_did_stays_where_a_part_is_kept() -> None:
    base = catalog.baseline(catalog.load_space("v2_tiny"), num_classes=10, in_channels=1)
    own = base.resolved()
    spec = at(base, depth=1, width=2, resolution=1, rules=Rules(keep_stem=True, keep_head=True)).resolved()
    assert spec.stem.out_channels == own.stem.out_channels
    assert spec.head is not None and own.head is not None and spec.head.out_channels == own.head.out_channels
    assert spec.stages[-1].layers[-1].out_channels == 2 * own.stages[-1].layers[-1].out_channels


def test_a_scaled_network_is_the_same_when_its_file_is_read(tmp_path: Path) -> None:
    base = catalog.baseline(catalog.load_space("v2_tiny"), num_classes=10, in_channels=1)
    for rules in (Rules(), Rules(policy="v2", keep_stem=True, keep_head=True, keep_first_last=True)):
        spec = scale(base, PUBLISHED, 2.5, rules)
        path = tmp_path / "scaled.yaml"
        path.write_text(yaml.safe_dump(spec.document()))
        assert catalog.load_arch(path).arch_hash == spec.arch_hash


def test_layers_that_depth_does_not_act_on_are_left_alone() -> None:
    base = catalog.load_arch("mobilenet_v2_110d")  # its first and last stage are fixed in the file itself
    spec = at(base, depth=2, width=1, resolution=1, rules=Rules())
    assert (layers(spec)[0], layers(spec)[-1]) == (layers(base)[0], layers(base)[-1])
    assert layers(spec)[2] > layers(base)[2]


@pytest.mark.parametrize("values", [(0.9, 1, 1), (1, 1, 17), (1, float("nan"), 1)])
def test_coefficients_scale_up(values: tuple[float, float, float]) -> None:
    with pytest.raises(UsageError, match="allowed: 1 to 16"):
        Coefficients(*values)
