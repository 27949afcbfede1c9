"""How much of a reward is luck: the scatter between seeds, and what is left of the best of many when luck is taken off."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LEAST_FREEDOM = 2
"""Of fewer differences between seeds a scatter is not known at all: of one it may be off by a factor of 30."""


@dataclass(frozen=True)
class Scatter:
    """How far a value scatters over seeds.

    Args:
        deviation: Standard deviation, pooled over networks. low, high: Its 95 % interval.
        networks: Those trained with several seeds. freedom: Their trainings less one each.
    """

    deviation: float
    low: float
    high: float
    networks: int
    freedom: int


def scatter(groups: Sequence[Sequence[float]]) -> Scatter | None:
    """Return how far values of the same network scatter over seeds; None where no network has several.

    The interval is that of a normal scatter that is alike for all networks, with the quantiles of chi-square of Wilson &
    Hilferty 1931, PNAS 17(12).

    Args:
        groups: The values of each network, one for each seed.
    """
    several = [group for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in several)
    if not freedom:
        return None
    squares = sum(statistics.variance(group) * (len(group) - 1) for group in several)

    def quantile(z: float) -> float:
        return freedom * max(1e-3, 1 - 2 / (9 * freedom) + z * math.sqrt(2 / (9 * freedom))) ** 3

    return Scatter(
        deviation=math.sqrt(squares / freedom),
        low=math.sqrt(squares / quantile(1.96)),
        high=math.sqrt(squares / quantile(-1.96)),
        networks=len(several),
        freedom=freedom,
    )


def by_network(trainings: Mapping[str, Mapping[str, object]]) -> dict[str, list[float]]:
    """Return the accuracies of trainings that ended well by network.

    Args:
        trainings: Raw values by `<arch_hash>-<seed>`, as finalists and audits store them.
    """
    found: dict[str, list[float]] = {}
    for name, item in trainings.items():
        if item.get("outcome") == "ok" and "val_accuracy" in item:
            found.setdefault(name.rpartition("-")[0], []).append(float(str(item["val_accuracy"])))
    return found


@dataclass(frozen=True)
class Prior:
    """How rewards of a run are spread, as far as it matters for the best: their upper half, taken for that of a normal.

    Args:
        centre: Median of the rewards. spread: Their standard deviation above it, true differences and luck together.
        noise: Standard deviation of one reward by luck alone.
    """

    centre: float
    spread: float
    noise: float

    @property
    def true_spread(self) -> float:
        """Standard deviation of what the networks are worth; 0 where luck explains all."""
        return math.sqrt(max(0.0, self.spread**2 - self.noise**2))

    def shrunken(self, value: float, readings: int = 1) -> tuple[float, float, float]:
        """Return what a network is worth by the mean of its readings, the error of that, and the factor it was shrunk by.

        The posterior mean under a normal prior whose spread is taken from the run itself (Efron & Morris 1975, JASA 70(350),
        equation 1.9). It needs no further correction for having been picked as the highest, for the posterior does not
        depend on why one looks at it (Dawid 1994; Efron 2011, JASA 106(496), section 2). All rests on the prior: a
        network that is better than the others are ever likely to be is shrunk too far.

        Args:
            value: Mean of the readings. readings: Their number, each with noise of its own.
        """
        noise = self.noise**2 / readings
        if noise == 0:
            return value, 0.0, 1.0
        factor = self.true_spread**2 / (self.true_spread**2 + noise)
        return self.centre + factor * (value - self.centre), math.sqrt(factor * noise), factor


def prior(rewards: Sequence[float], noise: float) -> Prior:
    """Return how rewards are spread.

    Rewards have a long tail of networks that learnt little, which says nothing of the best: as a standard deviation of all it
    would take luck for merit. So the half above the median stands for both.

    Args:
        rewards: One for each network. noise: Standard deviation of one of them by luck alone.
    """
    values = np.asarray(rewards, dtype=float)
    centre = float(np.median(values))
    above = values[values > centre]
    return Prior(centre, float(np.sqrt(np.mean((above - centre) ** 2))) if len(above) else 0.0, noise)
