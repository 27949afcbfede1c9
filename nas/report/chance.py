"""What a search found beside what drawing networks at random would have found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
import pandas as pd

from nas.report.read import RunView

LEAST = 5
"""Of fewer networks drawn at random, or suggested, nothing is said."""

DRAWS = 2000


@dataclass(frozen=True)
class Chance:
    """The networks of a run that were drawn at random, and those that the sampler suggested by what it had seen.

    Args:
        random, suggested: Rewards as they ended; those stopped early with their last.
        better: Chance that a suggested network is better than one drawn at random. low, high: Its 95 % interval.
        phase: At whose end they are compared for that: the last that all of them reached.
    """

    random: tuple[float, ...]
    suggested: tuple[float, ...]
    better: float
    low: float
    high: float
    phase: int

    @property
    def equal(self) -> int:
        """The largest number of networks for which both sides can be read."""
        return min(len(self.random), len(self.suggested))


def chance(view: RunView) -> Chance | None:
    """Return how the sampler's suggestions compare with random draws of the same run; None where there is too little of either.

    Networks of the user's and those taken over from another run belong to neither.
    """
    trials = view.trials
    if "suggested_by" not in trials:
        return None
    own = trials[trials["kind"].isin(["trained", "pruned"])]
    if "origin" in own:
        own = own[own["origin"].isna() | (own["origin"] == "")]
    who = own["suggested_by"].fillna("").astype(str)
    random, suggested = own[who.str.startswith("random")], own[who == ""]
    if min(len(random), len(suggested)) < LEAST:
        return None
    both = pd.concat([random, suggested])
    rungs = [_accuracies(cell) for cell in both["phase_accuracy"]]
    phase = min(map(len, rungs))
    if not phase:
        return None
    # A network's costs are the same at each phase's end, so its reward there is to its last as its accuracies are.
    at_rung = [
        float(reward) * rung[phase - 1] / rung[-1] if rung[-1] else 0.0
        for reward, rung in zip(both["reward"], rungs, strict=True)
    ]
    better, low, high = superiority(at_rung[len(random) :], at_rung[: len(random)])
    rewards = [tuple(float(value) for value in rows["reward"]) for rows in (random, suggested)]
    return Chance(rewards[0], rewards[1], better, low, high, phase)


def _accuracies(cell: object) -> list[float]:
    return [float(part) for part in str(cell).split()] if isinstance(cell, str) else []


def expected_best(values: Sequence[float], number: int) -> float:
    """Return the expected highest of some of the values, drawn without repetition.

    The i-th smallest of m is the highest of n in C(i - 1, n - 1) of the C(m, n) ways. More draws than there are
    are beyond what the values can say.

    Args:
        number: How many are drawn, from 1 to all.
    """
    ways = comb(len(values), number)
    return sum(value * (comb(place, number - 1) / ways) for place, value in enumerate(sorted(values)))


def superiority(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """Return the chance that one of the first is higher than one of the second (equal ones count half), and its 95 % interval.

    Sources: Mann & Whitney 1947, Annals of Mathematical Statistics 18(1); the interval by resampling both sides.
    """
    one, other = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    wins = (one[:, None] > other[None, :]) + 0.5 * (one[:, None] == other[None, :])
    rng = np.random.default_rng(0)
    # How often each is drawn, in place of the draws themselves: all of these at once are one product of matrices.
    rows, columns = (rng.multinomial(len(side), np.full(len(side), 1 / len(side)), DRAWS) for side in (one, other))
    drawn = ((rows @ wins) * columns).sum(axis=1) / (len(one) * len(other))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(wins.mean()), float(low), float(high)
