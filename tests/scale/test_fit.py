"""Which coefficients are chosen, and how sure that is."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from nas import catalog
from nas.scale.compound import Rules
from nas.scale.fit import Seen, decide, difference, seed_deviation, seen, step_time_model, time_ratio, told_apart
from nas.scale.grid import grid
from nas.train.loop import from_bits, right_bits

IMAGES = 1000


def raw(accuracy: float, time: float = 10.0, error: float = 0.01, *, shuffled: int | None = None) -> dict[str, Any]:
    """A training that named the first images rightly, or as many at random."""
    right = torch.arange(IMAGES) < round(accuracy * IMAGES)
    if shuffled is not None:
        right = right[torch.randperm(IMAGES, generator=torch.Generator().manual_seed(shuffled))]
    return {
        "outcome": "ok",
        "val_accuracy": accuracy,
        "val_error": error,
        "val_right": right_bits(right),
        "step_time_ms": time,
        "step_time_mad_ms": 0.1,
        "ref_step_time_ms": 5.0,
    }


def of(accuracy: float, time: float, **options: Any) -> Seen:
    return seen([raw(accuracy, 5 * time, **options)], 0.0, IMAGES)


def test_bits_are_written_and_read() -> None:
    right = torch.tensor([True, False, True, True, False, False, False, False, True])
    assert right_bits(right) == "b080"
    assert from_bits("b080", 9).tolist() == right.tolist()


def test_a_difference_is_counted_image_for_image() -> None:
    # 20 images of 1000 with one network only: discordant pairs (20 + 1) / 1002 and (0 + 1) / 1002
    gap, error = difference(of(0.80, 1), of(0.78, 1), 0.0)
    assert gap == pytest.approx(0.02)
    assert error == pytest.approx(math.sqrt((22 / 1002 - (20 / 1002) ** 2) / 1002))
    # Two networks that err on different images: nearly what two independent samples would have.
    _, apart = difference(of(0.80, 1, shuffled=1), of(0.78, 1, shuffled=2), 0.0)
    assert apart == pytest.approx(math.sqrt((0.8 * 0.2 + 0.78 * 0.22) / 1000), rel=0.05)
    assert told_apart(of(0.80, 1), of(0.78, 1), 0.0)
    assert not told_apart(of(0.80, 1, shuffled=1), of(0.78, 1, shuffled=2), 0.0)


def test_the_scatter_over_seeds_is_part_of_a_difference() -> None:
    _, still = difference(of(0.80, 1), of(0.78, 1), 0.0)
    _, scattered = difference(of(0.80, 1), of(0.78, 1), 0.01)
    assert scattered == pytest.approx(math.sqrt(still**2 + 2 * 0.01**2))
    assert told_apart(of(0.80, 1), of(0.78, 1), 0.0) and not told_apart(of(0.80, 1), of(0.78, 1), 0.01)


def test_a_tie_goes_to_the_cheapest_as_measured() -> None:
    found = {(1, 0, 0): of(0.80, 2.2), (0, 1, 0): of(0.798, 1.5), (0, 0, 1): of(0.60, 1.0)}
    decision = decide(found, list(found), 0.005)
    assert decision.best == (1, 0, 0) and decision.chosen == (0, 1, 0)
    assert decision.close == decision.tied == ((1, 0, 0), (0, 1, 0))


def test_between_one_and_two_errors_nothing_is_told_apart_and_the_cheaper_does_not_win() -> None:
    found = {(1, 0, 0): of(0.80, 2.2), (0, 1, 0): of(0.79, 1.5)}
    _, error = difference(*found.values(), 0.005)
    assert error < 0.01 < 2 * error
    decision = decide(found, list(found), 0.005)
    assert decision.chosen == decision.best and len(decision.tied) == 2 and len(decision.close) == 1


def test_a_clear_winner_is_chosen_whatever_it_costs() -> None:
    found = {(1, 0, 0): of(0.80, 9.0), (0, 1, 0): of(0.70, 1.0)}
    decision = decide(found, list(found), 0.005)
    assert decision.chosen == decision.best == (1, 0, 0) and len(decision.tied) == 1


def test_only_candidates_can_be_chosen() -> None:
    found = {(1, 0, 0): of(0.80, 2.0), (0, 1, 0): of(0.90, 1.0)}
    assert decide(found, [(1, 0, 0)], 0.0).chosen == (1, 0, 0)


def test_seeds_of_all_networks_tell_how_far_an_accuracy_scatters() -> None:
    assert seed_deviation([[0.5], [0.7]]) == 0.0
    # two pairs, 0.02 and 0.04 apart: variances 0.0002 and 0.0008, one degree of freedom each
    assert seed_deviation([[0.50, 0.52], [0.70, 0.74], [0.9]]) == pytest.approx(math.sqrt(0.0005))


def test_more_seeds_shrink_the_error_of_seeds_and_not_that_of_images() -> None:
    one, four = seen([raw(0.5)], 0.04, IMAGES), seen([raw(0.5)] * 4, 0.04, IMAGES)
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
