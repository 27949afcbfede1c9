"""Fronts of accuracy against costs: which networks no other beats, how much they hold, and where the knee is.

Pure arithmetic. A point is an accuracy and one or more costs, `(accuracy, cost, ...)`: more accuracy is better, less of each
cost is. Costs are compared by their logarithms, for twice as dear means the same of milliseconds and of parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

STEP_TIME = "step_time_ms"

Point = tuple[float, ...]


def point(values: Mapping[str, float], costs: Sequence[str]) -> Point:
    """Return the point of raw values: `val_accuracy`, and the costs by name.

    The step time is that relative to the baseline's in the same minutes, so that a drift of the machine's speed cancels.
    """
    found = (values[cost] / (values["ref_step_time_ms"] if cost == STEP_TIME else 1.0) for cost in costs)
    return (values["val_accuracy"], *found)


def shown(cost: str) -> str:
    """Return what a cost is called where people see it."""
    return "step time / baseline" if cost == STEP_TIME else cost


def beats(first: Point, second: Point) -> bool:
    """Return whether a point is no worse than another in anything, and better in something."""
    at_least = first[0] >= second[0] and all(a <= b for a, b in zip(first[1:], second[1:], strict=True))
    return at_least and first != second


def front(points: Sequence[Point]) -> list[int]:
    """Return the places of the points that no other beats, by rising first cost; of equal points the first."""
    found: list[int] = []
    for place in sorted(range(len(points)), key=lambda place: (points[place][1:], -points[place][0], place)):
        # Sorted by costs, nothing that comes later beats a point; what is equal to one on the front is not named again.
        if not any(points[other] == points[place] or beats(points[other], points[place]) for other in found):
            found.append(place)
    return found


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Return the volume between points and a reference, in units of accuracy times ln(cost) (for each cost).

    For one cost: the integral, over ln(cost) up to the reference's, of how far the best accuracy to be had at that cost lies
    above the reference's. A point that is not better than the reference in every coordinate adds nothing.
    Source: Zitzler & Thiele 1998, "Multiobjective optimization using evolutionary algorithms", PPSN V ("size of the space
    covered").

    Args:
        points: In any order, beaten ones too. reference: The worst that counts: the least accuracy, the highest costs.
    """
    best = [points[place] for place in front(points)]
    inside = [
        (
            point[0] - reference[0],
            *(math.log(worst / cost) for cost, worst in zip(point[1:], reference[1:], strict=True)),
        )
        for point in best
    ]
    return _volume([item for item in inside if all(value > 0 for value in item)])


def _volume(points: Sequence[Point]) -> float:
    """Return the volume of the union of boxes from the origin to each point; all coordinates are positive."""
    if not points:
        return 0.0
    if len(points[0]) == 1:
        return max(point[0] for point in points)
    # Slabs along the last coordinate: from the outermost point inwards, each adds a point to what the slab's section holds.
    order = sorted(points, key=lambda point: -point[-1])
    edges = [*(point[-1] for point in order), 0.0]
    return sum(
        (edges[place] - edges[place + 1]) * _volume([point[:-1] for point in order[: place + 1]])
        for place in range(len(order))
        if edges[place] > edges[place + 1]
    )


def knee(points: Sequence[Point]) -> int:
    """Return the place of the knee of a front: the point from which a little more of one thing costs most of another.

    Accuracy and the logarithm of each cost are scaled to 0..1 over the front. The knee is the point farthest beyond the straight
    line between the two ends (with two costs: beyond the plane through the three corners), which is where

        accuracy - sum of ln(cost)s, all scaled

    is largest. Source: Das 1999, "On characterizing the 'knee' of the Pareto curve based on normal-boundary intersection",
    Structural Optimization 18, 107-115, with the corners of the scaled front in place of the individual optima; why a knee is
    what people without other preferences choose: Branke et al. 2004, "Finding knees in multi-objective optimization", PPSN VIII.
    Of fewer than three points, and where none lies beyond the line, the most accurate one is named.

    Args:
        points: A front, at least one point.
    """
    most_accurate = max(range(len(points)), key=lambda place: (points[place][0], [-cost for cost in points[place][1:]]))
    if len(points) < 3:
        return most_accurate
    height = [point[0] - sum(point[1:]) for point in scaled(points)]
    best = max(range(len(points)), key=lambda place: (height[place], points[place][0]))
    ends = 2 - len(points[0])  # the height of the most accurate point where it is the dearest in everything
    return best if height[best] > ends + 1e-12 else most_accurate


def scaled(points: Sequence[Point]) -> list[Point]:
    """Return points with accuracy and the logarithm of each cost scaled to 0..1; what does not differ is 0."""
    columns = list(zip(*((point[0], *map(math.log, point[1:])) for point in points), strict=True))
    spans = [(min(column), max(column) - min(column)) for column in columns]
    rows = zip(*columns, strict=True)
    return [
        tuple((value - low) / span if span > 0 else 0.0 for value, (low, span) in zip(row, spans, strict=True))
        for row in rows
    ]


def spread(points: Sequence[Point], most: int) -> list[int]:
    """Return the places of at most so many points of a front, spread evenly over the logarithms of their costs.

    The most accurate and the knee are among them; then comes again and again the point that is farthest from those chosen.

    Returns:
        By rising first cost.
    """
    where = [point[1:] for point in scaled(points)]
    order = sorted(range(len(points)), key=lambda place: points[place][1:])
    if len(points) <= most:
        return order
    chosen = list(dict.fromkeys([max(order, key=lambda place: points[place][0]), knee(points)]))[:most]
    while len(chosen) < most:
        rest = [place for place in order if place not in chosen]
        chosen.append(max(rest, key=lambda place: min(math.dist(where[place], where[other]) for other in chosen)))
    return sorted(chosen, key=lambda place: points[place][1:])
