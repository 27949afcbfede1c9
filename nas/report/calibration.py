"""Exponents from a run's own networks: those with which accuracy pays exactly for the time and the size it takes.

MnasNet chose w = -0.07 because twice the latency brought about 5 % of accuracy: networks on the same trade-off should
have the same reward (Tan et al. 2019, arXiv:1807.11626, section 3.1, equations 2 and 3). So w = -d ln(accuracy) /
d ln(step time) along the best networks of each step time.

The front itself is the wrong place to read that slope: of noisy accuracies it takes the running maximum, so it rises
even where accuracy has nothing to do with time. The upper decile has no such lean: noise lifts it alike everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from nas.errors import RunError
from nas.objective import Candidate, Reward

MIN_NETWORKS = 30
"""Of fewer networks the upper decile is the place of one or two."""

DECILE = 0.9
RESAMPLES = 400
STEEPEST = 10.0
"""Slopes are looked for between minus and plus this: the exponents that a reward allows."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Slope:
    """Relative accuracy gained for relative cost, with a 95 % interval from resampled networks."""

    value: float
    low: float
    high: float

    @property
    def rises(self) -> bool:
        """Whether accuracy can be seen to rise with the cost: the interval lies above 0."""
        return self.low > 0


@dataclass(frozen=True)
class Calibration:
    """How accuracy rises with cost among the networks of a run, and the exponents that follow.

    Args:
        networks: Networks that were trained to the end; the others say nothing here.
        reward: The exponents that `together` scales.
        time: d ln(accuracy) / d ln(step time); its negative is the w that suits with v = 0.
        params: Likewise of the parameters; its negative is the v that suits with w = 0.
        together: The factor on both exponents of `reward` with which the reward is flat. None where both are 0.
    """

    networks: int
    reward: Reward
    time: Slope
    params: Slope
    together: Slope | None

    def suggested(self) -> Reward | None:
        """Return the reward with both exponents scaled, or None where no rise of accuracy can be seen."""
        if self.together is None or not self.together.rises:
            return None
        scale = self.together.value
        return replace(self.reward, w=max(-STEEPEST, scale * self.reward.w), v=max(-STEEPEST, scale * self.reward.v))


def calibrate(candidates: Sequence[Candidate], reward: Reward) -> Calibration:
    """Read from trained networks the exponents with which the reward is flat along the best of each cost.

    Step time and parameters rise together, so a fit of both at once would split one slope between them at random. The
    ratio of `reward`'s exponents is kept and one factor is fitted; the fits of each cost alone are for comparison.

    Raises:
        RunError: too few networks, or all of one cost.
    """
    sound = [item for item in candidates if item.val_accuracy > 0]
    if len(sound) < MIN_NETWORKS:
        raise RunError(
            f"--calibrate: {len(sound)} networks were trained to the end; at least {MIN_NETWORKS} are needed for a slope. "
            "Let the run go on, or raise its --budget."
        )
    accuracy = np.log([item.val_accuracy for item in sound])
    time = np.log([item.relative_time for item in sound])
    params = np.log([item.num_params / reward.ref_params for item in sound])
    for name, cost in (("step time", time), ("number of parameters", params)):
        if np.ptp(cost) < math.log(1.1):
            raise RunError(f"--calibrate: all networks have nearly the same {name}; a slope needs them to differ.")
    charged = -(reward.w * time + reward.v * params)  # what the reward takes off, as a logarithm
    return Calibration(
        networks=len(sound),
        reward=reward,
        time=slope(time, accuracy),
        params=slope(params, accuracy),
        together=slope(charged, accuracy) if reward.w or reward.v else None,
    )


def slope(cost: Floats, accuracy: Floats) -> Slope:
    """Return the slope of the upper decile of accuracy over cost, both logarithms, with a bootstrap interval.

    Networks count alike: scored on the same images, their errors differ only by what luck made of their accuracies.
    Sources: Koenker & Bassett 1978, Econometrica 46(1) (regression quantiles); Efron 1979 (bootstrap of pairs).
    """
    picks = np.random.default_rng(0).integers(0, len(cost), (RESAMPLES, len(cost)))
    low, high = np.percentile(_decile_slopes(cost[picks], accuracy[picks]), [2.5, 97.5])
    return Slope(float(_decile_slopes(cost[None], accuracy[None])[0]), float(low), float(high))


def _decile_slopes(x: Floats, y: Floats) -> Floats:
    """Return for each row of (rows, n) the slope of the line that a tenth of its points lie above.

    Koenker & Bassett's loss is convex, also with the intercept at its best for each slope; so the slope is found by
    halving in thirds.
    """
    rank = math.ceil(DECILE * x.shape[1]) - 1

    def loss(slopes: Floats) -> Floats:
        rest = y - slopes[:, None] * x
        over = rest - np.partition(rest, rank, axis=1)[:, rank, None]
        return np.asarray(np.where(over > 0, DECILE * over, (DECILE - 1) * over).sum(axis=1))

    low, high = np.full(len(x), -STEEPEST), np.full(len(x), STEEPEST)
    for _ in range(40):  # 20 * (2/3)^40 = 2e-6
        third = (high - low) / 3
        falls = loss(low + third) > loss(high - third)
        low, high = np.where(falls, low + third, low), np.where(falls, high, high - third)
    return np.asarray((low + high) / 2)
