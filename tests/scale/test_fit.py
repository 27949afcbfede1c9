"""Which coefficients are chosen, and how sure that is."""

from __future__ import annotations

import math
from typing import Any

import pytest

from nas import catalog
from nas.scale.compound import Rules
from nas.scale.fit import Seen, decide, seed_deviation, seen, step_time_model, time_ratio, told_apart
from nas.scale.grid import grid


def raw(accuracy: float, time: float = 10.0, error: float = 0.01) -> dict[str, Any]:
    return {
        "outcome": "ok",
        "val_accuracy": accuracy,
        "val_error": error,
        "step_time_ms": time,
        "step_time_mad_ms": 0.1,
        "ref_step_time_ms": 5.0,
    }


def of(mean: float, time: float, error: float = 0.01) -> Seen:
    return Seen((mean,), mean, error, time, 0.01)


def test_a_tie_goes_to_the_cheapest_as_measured() -> None:
    found = {(1, 0, 0): of(0.80, 2.2), (0, 1, 0): of(0.79, 1.5), (0, 0, 1): of(0.60, 1.0)}
    decision = decide(found, list(found))
    assert decision.best == (1, 0, 0) and decision.chosen == (0, 1, 0)
    assert decision.tied == ((1, 0, 0), (0, 1, 0))  # 0.60 is 14 errors away, and the cheapest of all


def test_a_clear_winner_is_chosen_whatever_it_costs() -> None:
    found = {(1, 0, 0): of(0.80, 9.0, 0.001), (0, 1, 0): of(0.79, 1.0, 0.001)}
    decision = decide(found, list(found))
    assert decision.chosen == decision.best == (1, 0, 0) and len(decision.tied) == 1


def test_two_are_told_apart_by_twice_the_error_of_their_difference() -> None:
    edge = 2 * math.hypot(0.01, 0.01)
    assert not told_apart(of(0.5, 1), of(0.5 + edge * 0.99, 1))
    assert told_apart(of(0.5, 1), of(0.5 + edge * 1.01, 1))


def test_seeds_of_all_networks_tell_how_far_an_accuracy_scatters() -> None:
    assert seed_deviation([[0.5], [0.7]]) == 0.0
    # two pairs, 0.02 and 0.04 apart: variances 0.0002 and 0.0008, one degree of freedom each
    assert seed_deviation([[0.50, 0.52], [0.70, 0.74], [0.9]]) == pytest.approx(math.sqrt(0.0005))


def test_more_seeds_shrink_the_error_of_seeds_and_not_that_of_images() -> None:
    one, four = seen([raw(0.5)], 0.04), seen([raw(0.5)] * 4, 0.04)
    assert one.error == pytest.approx(math.hypot(0.01, 0.04))
    assert four.error == pytest.approx(math.hypot(0.01, 0.02))
    assert one.step_time == 2.0 and one.spread == pytest.approx(0.01)


def test_a_failed_timing_costs_for_ever() -> None:
    assert time_ratio({"outcome": "out_of_memory"}) == math.inf
    assert time_ratio(raw(0.5)) == 2.0


@pytest.mark.parametrize("exponent", [0.3, 0.8, 1.2])
def test_the_model_of_step_times_learns_from_what_was_measured(exponent: float) -> None:
    base = catalog.baseline(catalog.load_space("v2_tiny"), num_classes=10, in_channels=1)
    found = grid(base, Rules(), target=2, tolerance=0.1, step=0.1, gamma_too=True, reach=1.25)
    points = {point.level: point for point in found.points}
    assert step_time_model({}, points) == pytest.approx({level: point.macs for level, point in points.items()})
    truth = {level: point.macs**exponent for level, point in points.items()}
    measured = dict(list(truth.items())[::3])
    predicted = step_time_model(measured, points)
    for level in measured:
        assert predicted[level] == measured[level]  # what was measured is never replaced
    errors = [abs(math.log(predicted[level] / truth[level])) for level in truth]
    assert max(errors) < 0.1
