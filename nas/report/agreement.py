"""How far two scores of the same networks agree on their order, with intervals from resampled networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LEAST = 6
"""Of fewer networks a bootstrap interval covers much less than it says, and there is none."""

DRAWS = 2000


@dataclass(frozen=True)
class Agreement:
    """A rank correlation: 1 for the same order, 0 for an unrelated one, -1 for the reverse.

    Args:
        value: Over all networks. low, high: Its 95 % interval; None below six networks. networks: Their number.
    """

    value: float
    low: float | None
    high: float | None
    networks: int

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.value:.2f}{interval}"


def tau_b(first: Floats, second: Floats) -> Floats:
    """Return Kendall's tau-b, which counts out ties; not a number where one score is the same for all.

    Source: Kendall 1945, Biometrika 33(3), section 2.

    Args:
        first, second: Scores of the same networks, (..., networks).
    """
    # Each pair is met twice, in both sums.
    return _cosine(_signs(first), _signs(second), (-2, -1))


def spearman(first: Floats, second: Floats) -> Floats:
    """Return Spearman's rank correlation, tied networks at their mean rank; not a number where one score is the same for all.

    Source: Spearman 1904, American Journal of Psychology 15(1).

    Args:
        first, second: As of `tau_b`.
    """
    # Signs of differences, summed, are twice a rank less its mean; ties come out at theirs.
    return _cosine(_signs(first).sum(axis=-1), _signs(second).sum(axis=-1), -1)


def _signs(values: Floats) -> Floats:
    return np.asarray(np.sign(values[..., :, None] - values[..., None, :]))


def _cosine(one: Floats, other: Floats, axis: int | tuple[int, int]) -> Floats:
    scale = np.sqrt((one**2).sum(axis=axis) * (other**2).sum(axis=axis))
    with np.errstate(invalid="ignore"):
        return np.asarray((one * other).sum(axis=axis) / scale)


def agreement(
    pairs: Sequence[tuple[Sequence[float], Sequence[float]]], how: Callable[[Floats, Floats], Floats] = tau_b
) -> Agreement | None:
    """Return the mean rank correlation of pairs of scores of the same networks; None below three, or where there is no order.

    Networks are resampled, each with all its scores (Efron & Tibshirani 1993, section 13.3).

    Args:
        pairs: Scores of the networks, in one order of these throughout. how: `tau_b` or `spearman`.
    """
    scores = [tuple(np.asarray(side, dtype=float) for side in pair) for pair in pairs]
    number = len(scores[0][0]) if scores else 0
    if number < 3:
        return None

    def mean(rows: npt.NDArray[np.int64]) -> Floats:
        return np.asarray(np.mean([how(one[rows], other[rows]) for one, other in scores], axis=0))

    value = float(mean(np.arange(number)))
    if np.isnan(value):
        return None
    if number < LEAST:
        return Agreement(value, None, None, number)
    rows = np.random.default_rng(0).integers(0, number, (DRAWS, number))
    drawn = np.concatenate([mean(part) for part in np.array_split(rows, max(1, number**2 // 100))])
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Agreement(value, float(low), float(high), number)
