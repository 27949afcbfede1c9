"""What the trainings of a grid say: which coefficients, and how sure that is. Pure arithmetic on raw values."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from nas.scale.grid import Level, Point
from nas.train.loop import from_bits

SIGNIFICANT = 2.0
"""Two accuracies are told apart where they differ by more than this many standard errors of their difference."""

TIE = 1.0
"""A network competes by its cost where it is at most this many standard errors of the difference below the best.

The one-standard-error rule: Breiman, Friedman, Olshen & Stone 1984, Classification and Regression Trees, section 3.4.3. Two
errors would let the cheapest win nearly always, and give up accuracy that is probably there.
"""


@dataclass(frozen=True)
class Seen:
    """What the trainings of one network showed.

    Args:
        accuracies: Of each seed. mean: Of them.
        error: Standard error of the mean: validation images and seeds together.
        step_time: Multiple of the base's step time: the median over seeds. spread: Its error, as a share of it.
        right: float, (N,): of each validation image the share of seeds with which it was named rightly.
    """

    accuracies: tuple[float, ...]
    mean: float
    error: float
    step_time: float
    spread: float
    right: npt.NDArray[np.float64] = field(repr=False, compare=False)


def seed_deviation(accuracies: Sequence[Sequence[float]]) -> float:
    """Return the standard deviation of an accuracy over seeds, pooled over the networks that have several."""
    several = [group for group in accuracies if len(group) > 1]
    freedom = sum(len(group) - 1 for group in several)
    if not freedom:
        return 0.0
    return math.sqrt(sum(statistics.variance(group) * (len(group) - 1) for group in several) / freedom)


def seen(trainings: Sequence[Mapping[str, Any]], deviation: float, images: int) -> Seen:
    """Return what the trainings of one network showed.

    Args:
        trainings: Raw values by seed: `val_accuracy`, `val_error`, `val_right`, `step_time_ms`, `step_time_mad_ms`,
            `ref_step_time_ms`.
        deviation: Of an accuracy over seeds (`seed_deviation`). images: Validation images.

    All seeds are scored on the same images, so the error of these does not shrink with more seeds.
    """
    accuracies = tuple(item["val_accuracy"] for item in trainings)
    within = statistics.fmean(item["val_error"] for item in trainings)
    shares = [item["step_time_mad_ms"] / item["step_time_ms"] for item in trainings]
    return Seen(
        accuracies=accuracies,
        mean=statistics.fmean(accuracies),
        error=math.hypot(within, deviation / math.sqrt(len(accuracies))),
        step_time=statistics.median(time_ratio(item) for item in trainings),
        spread=statistics.fmean(shares),
        right=np.mean([from_bits(item["val_right"], images) for item in trainings], axis=0),
    )


def time_ratio(values: Mapping[str, Any]) -> float:
    """Return the step time of a timing as a multiple of the base's, timed in turns with it; infinite where it failed."""
    if values["outcome"] != "ok" or "step_time_ms" not in values:
        return math.inf
    return float(values["step_time_ms"] / values["ref_step_time_ms"])


def difference(one: Seen, other: Seen, deviation: float) -> tuple[float, float]:
    """Return the difference of two accuracies and its standard error.

    Compared image for image, for both are scored on the same ones: most are right or wrong with every network and say nothing of
    a difference. To that comes the scatter over seeds, which is partly in it already; the error is on the careful side.
    Source: Bonett & Price 2012, Journal of Educational and Behavioral Statistics 37(4), equation 5 (one of each discordant kind
    added), with means over seeds in the place of single answers.
    """
    gaps = one.right - other.right
    n = len(gaps) + 2
    square, mean = (float((gaps**2).sum()) + 2) / n, float(gaps.sum()) / n
    seeds = deviation**2 * (1 / len(one.accuracies) + 1 / len(other.accuracies))
    return one.mean - other.mean, math.sqrt((square - mean**2) / n + seeds)


def told_apart(one: Seen, other: Seen, deviation: float) -> bool:
    """Tell whether two accuracies differ by more than their errors allow."""
    gap, error = difference(one, other, deviation)
    return abs(gap) > SIGNIFICANT * error


@dataclass(frozen=True)
class Decision:
    """Which network the grid chose.

    Args:
        best: Of the highest mean accuracy.
        close: Those at most one standard error of the difference below the best, itself among them. chosen: Of these the one with
            the shortest measured step.
        tied: All that cannot be told from the best, itself among them, by falling accuracy.
    """

    best: Level
    chosen: Level
    close: tuple[Level, ...]
    tied: tuple[Level, ...]


def decide(found: Mapping[Level, Seen], candidates: Sequence[Level], deviation: float) -> Decision:
    """Return the choice among candidates: a tie goes to the cheapest as measured.

    Args:
        found: What trainings showed. candidates: Those that may be chosen; at least one.
        deviation: Of an accuracy over seeds (`seed_deviation`).
    """
    order = sorted(candidates, key=lambda level: (-found[level].mean, found[level].step_time))
    best = found[order[0]]
    tied, close = [order[0]], [order[0]]
    for level in order[1:]:
        gap, error = difference(best, found[level], deviation)
        if gap <= SIGNIFICANT * error:
            tied.append(level)
        if gap <= TIE * error:
            close.append(level)
    return Decision(order[0], min(close, key=lambda level: found[level].step_time), tuple(close), tuple(tied))


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
