from __future__ import annotations

import math
import random

import pytest

from nas.front import beats, front, hypervolume, knee, point, spread

E = math.e


def test_a_point_beats_another_that_it_is_nowhere_worse_than() -> None:
    assert beats((0.8, 2.0), (0.7, 2.0)) and beats((0.8, 1.0), (0.8, 2.0))
    assert not beats((0.8, 2.0), (0.8, 2.0)), "the same is not better"
    assert not beats((0.9, 3.0), (0.7, 2.0)) and not beats((0.7, 2.0), (0.9, 3.0))
    assert not beats((0.8, 1.0, 5.0), (0.7, 2.0, 4.0))


def test_the_front_is_what_no_other_beats() -> None:
    points = [(0.7, 3.0), (0.8, 2.0), (0.5, 1.0), (0.9, 4.0), (0.8, 2.0), (0.4, 1.0), (0.9, 4.5)]
    assert front(points) == [2, 1, 3]
    assert front([]) == []


@pytest.mark.parametrize("costs", [1, 2])
def test_the_front_is_that_of_comparing_all_with_all(costs: int) -> None:
    rng = random.Random(costs)
    points = [tuple(rng.randint(1, 8) for _ in range(costs + 1)) for _ in range(120)]
    expected = {item for item in points if not any(beats(other, item) for other in points)}
    found = [points[place] for place in front(points)]
    assert set(found) == expected and len(found) == len(expected)
    assert [item[1] for item in found] == sorted(item[1] for item in found)


def test_hypervolume_of_one_cost_is_accuracy_over_ln_cost() -> None:
    reference = (0.1, E**3)
    assert hypervolume([], reference) == 0
    assert hypervolume([(0.6, E)], reference) == pytest.approx(0.5 * 2)
    assert hypervolume([(0.6, E), (0.9, E**2)], reference) == pytest.approx(0.5 * 1 + 0.8 * 1)
    assert hypervolume([(0.6, E), (0.9, E**2), (0.5, E**2)], reference) == pytest.approx(1.3), (
        "a beaten one adds nothing"
    )
    assert hypervolume([(0.6, E), (0.99, E**4), (0.05, 1.0)], reference) == pytest.approx(1.0), "beyond the reference"


def test_hypervolume_of_two_costs_is_a_union_of_boxes() -> None:
    reference = (0.0, E**2, E**2)
    assert hypervolume([(0.5, E, E)], reference) == pytest.approx(0.5)
    assert hypervolume([(0.5, 1.0, E), (0.5, E, 1.0)], reference) == pytest.approx(0.5 * (2 + 2 - 1))
    assert hypervolume([(0.8, E, E), (0.5, 1.0, 1.0)], reference) == pytest.approx(0.5 * 4 + 0.3 * 1)


def test_hypervolume_of_two_costs_is_what_random_points_say() -> None:
    rng = random.Random(3)
    points = [(rng.random(), *(math.exp(rng.random()) for _ in range(2))) for _ in range(12)]
    reference = (0.0, E, E)
    n = 20_000
    hits = 0
    for _ in range(n):
        accuracy, *logs = (rng.random() for _ in range(3))
        hits += any(
            item[0] >= accuracy and all(math.log(c) <= t for c, t in zip(item[1:], logs, strict=True))
            for item in points
        )
    assert hypervolume(points, reference) == pytest.approx(hits / n, abs=0.015)


def test_the_knee_is_farthest_beyond_the_line_between_the_ends() -> None:
    # On ln(cost) 0, 1, 2, 3 scaled to thirds; accuracy scaled by 0.6: heights 0, 0.5, 0.25, 0.
    points = [(0.3, 1.0), (0.8, E), (0.85, E**2), (0.9, E**3)]
    assert knee(points) == 1
    assert knee([points[place] for place in (3, 1, 0, 2)]) == 1, "in any order"
    assert knee([(accuracy, 1000 * cost) for accuracy, cost in points]) == 1, "in any unit"


def test_a_front_without_a_knee_names_the_most_accurate() -> None:
    assert knee([(0.5, 1.0)]) == 0
    assert knee([(0.5, 1.0), (0.6, 2.0)]) == 1
    assert knee([(0.5, 1.0), (0.51, E), (0.9, E**2)]) == 2, "all below the line"


def test_the_knee_with_two_costs() -> None:
    # Scaled heights: 0 - 0 - 1, 0.9 - 0.2 - 0.2, 1 - 1 - 0.
    points = [(0.0, 1.0, E**10), (0.9, E**2, E**2), (1.0, E**10, 1.0)]
    assert knee(points) == 1


def test_members_of_a_front_are_chosen_evenly_over_ln_cost() -> None:
    points = [(0.1 + cost / 100, math.exp(cost)) for cost in (0, 0.1, 0.2, 0.3, 5, 5.1, 10)]
    assert spread(points, 3) == [0, 4, 6] or spread(points, 3) == [0, 5, 6]
    assert spread(points, 7) == list(range(7)) and spread(points, 99) == list(range(7))
    assert spread(points, 1) == [6], "the most accurate"
    assert len(spread(points, 5)) == len(set(spread(points, 5))) == 5


def test_the_knee_is_among_the_chosen() -> None:
    points = [(0.3, 1.0), (0.8, 1.1), (0.81, 1.2), (0.82, 20.0), (0.83, 400.0)]
    assert knee(points) in spread(points, 2) and spread(points, 2)[-1] == 4


def test_a_point_takes_the_step_time_relative_to_the_baselines() -> None:
    values = {"val_accuracy": 0.7, "step_time_ms": 12.0, "ref_step_time_ms": 8.0, "num_params": 5e6}
    assert point(values, ("step_time_ms", "num_params")) == (0.7, 1.5, 5e6)
