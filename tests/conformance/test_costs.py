"""What every cost must do."""

from __future__ import annotations

import math

import pytest
import torch

from nas.catalog import load_arch
from nas.cost import COSTS, Measurement
from nas.space.units import COST_UNITS
from nas.spec import scaled

CPU = torch.device("cpu")


def measured(name: str) -> Measurement | None:
    cost = COSTS[name]
    if cost.of_spec is not None:
        return cost.of_spec(load_arch("efficientnet_b0"))
    assert cost.of_step is not None
    x = torch.randn(64, 64)
    return cost.of_step(lambda: x @ x, CPU)


@pytest.mark.parametrize("name", list(COSTS))
def test_a_cost_is_had_in_exactly_one_way(name: str) -> None:
    assert (COSTS[name].of_spec is None) != (COSTS[name].of_step is None)


@pytest.mark.parametrize("name", list(COSTS))
def test_a_cost_is_positive_finite_and_in_its_unit_or_says_why_it_is_absent(name: str) -> None:
    found = measured(name)
    if found is None:
        assert name in COSTS[name].absent
        return
    assert 0 < found.value < math.inf
    assert found.unit == COSTS[name].unit
    assert found.n >= 1
    assert found.device


@pytest.mark.parametrize("name", list(COSTS))
def test_a_cost_is_deterministic_or_has_a_spread(name: str) -> None:
    first, again = measured(name), measured(name)
    if first is None or again is None:
        assert first is again is None
    elif COSTS[name].of_spec is not None:
        assert first == again
        assert (first.spread, first.n, first.device) == (0, 1, "formula")
    else:
        assert first.n > 1
        assert first.spread >= 0


def test_every_limit_of_the_language_has_its_cost() -> None:
    assert set(COST_UNITS) == set(COSTS)


@pytest.mark.parametrize("name", ["num_params", "macs"])
def test_a_larger_network_costs_more(name: str) -> None:
    of_spec = COSTS[name].of_spec
    assert of_spec is not None
    spec = load_arch("efficientnet_b0")
    small, deep, wide = (of_spec(item).value for item in (spec, scaled(spec, depth=2), scaled(spec, width=2)))
    assert small < deep
    assert small < wide


def test_only_macs_depend_on_the_resolution() -> None:
    one, other = load_arch("efficientnet_b0"), load_arch("efficientnet_b0", resolution=64)
    for name, equal in (("num_params", True), ("macs", False)):
        of_spec = COSTS[name].of_spec
        assert of_spec is not None
        assert (of_spec(one).value == of_spec(other).value) is equal


def test_memory_is_absent_on_a_cpu() -> None:
    of_step = COSTS["peak_memory_mib"].of_step
    assert of_step is not None
    assert of_step(lambda: pytest.fail("a step was taken"), CPU) is None


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_measurement_refuses_what_cannot_be_a_cost(value: float) -> None:
    from nas.errors import MeasurementError

    with pytest.raises(MeasurementError, match="a cost is positive and finite"):
        Measurement(value, "ms", 0.0, 1, "cpu")
    with pytest.raises(MeasurementError):
        Measurement(1.0, "ms", math.nan, 1, "cpu")
