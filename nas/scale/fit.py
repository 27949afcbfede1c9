"""What the trainings of a grid say: which coefficients, and how sure that is. Pure arithmetic on raw values."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nas.scale.grid import Level, Point

SIGNIFICANT = 2.0
"""Two accuracies are told apart where they differ by more than this many standard errors of their difference."""


@dataclass(frozen=True)
class Seen:
    """What the trainings of one network showed.

    Args:
        accuracies: Of each seed. mean: Of them.
        error: Standard error of the mean: validation images and seeds together.
        step_time: Multiple of the base's step time: the median over seeds. spread: Its error, as a share of it.
    """

    accuracies: tuple[float, ...]
    mean: float
    error: float
    step_time: float
    spread: float


def seed_deviation(accuracies: Sequence[Sequence[float]]) -> float:
    """Return the standard deviation of an accuracy over seeds, pooled over the networks that have several."""
    several = [group for group in accuracies if len(group) > 1]
    freedom = sum(len(group) - 1 for group in several)
    if not freedom:
        return 0.0
    return math.sqrt(sum(statistics.variance(group) * (len(group) - 1) for group in several) / freedom)


def seen(trainings: Sequence[Mapping[str, Any]], deviation: float) -> Seen:
    """Return what the trainings of one network showed.

    Args:
        trainings: Raw values by seed: `val_accuracy`, `val_error`, `step_time_ms`, `step_time_mad_ms`, `ref_step_time_ms`.
        deviation: Of an accuracy over seeds (`seed_deviation`).

    All seeds are scored on the same images, so the error of these does not shrink with more seeds.
    """
    accuracies = tuple(item["val_accuracy"] for item in trainings)
    within = statistics.fmean(item["val_error"] for item in trainings)
    ratios = [time_ratio(item) for item in trainings]
    shares = [item["step_time_mad_ms"] / item["step_time_ms"] for item in trainings]
    return Seen(
        accuracies=accuracies,
        mean=statistics.fmean(accuracies),
        error=math.hypot(within, deviation / math.sqrt(len(accuracies))),
        step_time=statistics.median(ratios),
        spread=statistics.fmean(shares),
    )


def time_ratio(values: Mapping[str, Any]) -> float:
    """Return the step time of a timing as a multiple of the base's, timed in turns with it; infinite where it failed."""
    if values["outcome"] != "ok" or "step_time_ms" not in values:
        return math.inf
    return float(values["step_time_ms"] / values["ref_step_time_ms"])


def told_apart(one: Seen, other: Seen) -> bool:
    """Tell whether two accuracies differ by more than their errors allow.

    On the careful side: both are scored on the same images, which makes the error of a difference smaller than this.
    """
    return abs(one.mean - other.mean) > SIGNIFICANT * math.hypot(one.error, other.error)


@dataclass(frozen=True)
class Decision:
    """Which network the grid chose.

    Args:
        best: Of the highest mean accuracy. chosen: Of those that cannot be told from it, the one with the shortest measured step.
        tied: All that cannot be told from the best, itself among them, by falling accuracy.
    """

    best: Level
    chosen: Level
    tied: tuple[Level, ...]


def decide(found: Mapping[Level, Seen], candidates: Sequence[Level]) -> Decision:
    """Return the choice among candidates: a tie goes to the cheapest as measured.

    Args:
        found: What trainings showed. candidates: Those that may be chosen; at least one.
    """
    order = sorted(candidates, key=lambda level: (-found[level].mean, found[level].step_time))
    tied = [level for level in order if not told_apart(found[level], found[order[0]])]
    return Decision(order[0], min(tied, key=lambda level: found[level].step_time), tuple(tied))


def step_time_model(measured: Mapping[Level, float], points: Mapping[Level, Point]) -> Mapping[Level, float]:
    """Return the step time of every point as a multiple of the base's: measured, or predicted from those that are.

    log(time) = sum of k_i log(x_i) over multiply-adds, parameters, and the theory's shares of depth and resolution, fitted
    with a weak pull towards "time grows as the multiply-adds do". It says what is worth measuring next and scores nothing.
    """
    prior = np.array([1.0, 0.0, 0.0, 0.0])
    rows = {level: _features(point) for level, point in points.items()}
    known = [level for level in measured if level in rows]
    weights = prior
    if known:
        x = np.array([rows[level] for level in known])
        y = np.log([measured[level] for level in known])
        pull = 0.05 * np.eye(4)
        weights = np.linalg.solve(x.T @ x + pull, x.T @ y + pull @ prior)
    return {level: measured.get(level, float(np.exp(row @ weights))) for level, row in rows.items()}


def _features(point: Point) -> list[float]:
    found = point.coefficients
    return [math.log(point.macs), math.log(point.params), math.log(found.alpha), 2 * math.log(found.gamma)]
