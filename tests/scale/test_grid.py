"""What a grid builds, and which of it is worth a training."""

from __future__ import annotations

import pytest

from nas import catalog
from nas.cost import count
from nas.scale.compound import PUBLISHED, Rules
from nas.scale.grid import SINGLE, Choice, Grid, choose, grid, largest_resolution, published_point

B0 = catalog.load_arch("efficientnet_b0")


def of(tolerance: float = 0.1, rules: Rules | None = None, gamma_too: bool = True) -> Grid:
    return grid(B0, rules or Rules(), target=2, tolerance=tolerance, step=0.05, gamma_too=gamma_too, reach=1.25)


@pytest.fixture(scope="module")
def found() -> Grid:
    return of()


@pytest.fixture(scope="module")
def choice(found: Grid) -> Choice:
    return choose(found, lambda point: point.macs, within=0.15, budget=12)


def test_the_tolerance_admits_the_published_winner_and_half_of_it_does_not(found: Grid) -> None:
    point = published_point(found)
    assert point is not None and PUBLISHED in point.members and point.on_surface
    narrow = published_point(of(tolerance=0.05))
    assert narrow is not None and abs(PUBLISHED.theory - 2) > 0.05
    on_narrow = [item for item in narrow.members if abs(item.theory - 2) <= 0.05]
    assert PUBLISHED not in on_narrow and narrow.on_surface == len(on_narrow)


def test_the_surface_is_counted_in_triples_both_ends_included(found: Grid) -> None:
    values = [round(1 + 0.05 * i, 2) for i in range(31)]
    expected = sum(abs(a * b * b * c * c - 2) <= 0.1 + 1e-9 for a in values for b in values for c in values)
    assert found.surface == expected == 111
    assert sum(point.on_surface for point in found.points) == expected


def test_points_are_counted_as_they_are_built(found: Grid) -> None:
    for point in found.points[::40]:
        assert point.macs == count(point.spec).macs / count(B0).macs
        assert point.params == count(point.spec).params / count(B0).params
    costs = [point.macs for point in found.surface_points]
    assert max(costs) > 3  # theory says 2.1 at most; layers are rounded up


def test_every_network_is_there_once_and_its_triples_build_it(found: Grid) -> None:
    hashes = [point.spec.arch_hash for point in found.points]
    assert len(set(hashes)) == len(hashes) and B0.arch_hash not in hashes
    assert any(len(point.members) > 3 for point in found.points)


def test_a_network_is_named_by_the_triple_nearest_to_the_target_that_claims_nothing_unscaled(found: Grid) -> None:
    for point in found.points:
        values = (point.coefficients.alpha, point.coefficients.beta, point.coefficients.gamma)
        assert point.coefficients in point.members
        assert [value == 1 for value in values] == [place == 0 for place in point.level]
    rounded = of(rules=Rules(depth_rounding="round"))  # 1.05 and 1.1 are no layer more in some stages, and none in all
    assert any(len({item.alpha for item in point.members}) > 1 for point in rounded.points if point.level[0] == 0)


def test_the_choice_costs_the_target_and_holds_each_dimension_alone(choice: Choice) -> None:
    kinds = [point.kind for point in choice.points]
    assert len(choice.points) == 12 and set(SINGLE) <= set(kinds)
    assert all(abs(point.macs / 2 - 1) <= 0.15 for point in choice.points)
    assert len({point.spec.arch_hash for point in choice.points}) == 12


def test_every_point_is_taken_or_has_a_reason(found: Grid, choice: Choice) -> None:
    taken = {point.level for point in choice.points}
    assert taken.isdisjoint(choice.reasons)
    assert taken | set(choice.reasons) == {point.level for point in found.points}


def test_a_network_that_another_contains_is_not_trained_beside_it(choice: Choice) -> None:
    free = [point for point in choice.points if point.kind == "compound"]
    for one in free:
        for other in free:
            if one is not other:
                assert not all(a >= b for a, b in zip(one.level, other.level, strict=True))


def test_a_larger_budget_adds_and_changes_nothing(found: Grid, choice: Choice) -> None:
    fewer = choose(found, lambda point: point.macs, within=0.15, budget=8)
    assert choice.points[:8] == fewer.points and len(choice.points) == 12


def test_what_was_trained_stays_chosen(found: Grid, choice: Choice) -> None:
    last = choice.points[-1].level
    fewer = choose(found, lambda point: point.macs, within=0.15, budget=5, first=[last])
    assert last in {point.level for point in fewer.points}


def test_without_gamma_no_point_has_larger_images() -> None:
    found = of(gamma_too=False)
    assert {point.spec.resolution for point in found.points} == {224}
    assert "resolution" not in {point.kind for point in found.points}


def test_images_are_packed_for_the_largest_network(found: Grid) -> None:
    largest = largest_resolution(B0, Rules(), target=2, step=0.05, reach=1.25)
    assert max(point.spec.resolution for point in found.points) == largest
