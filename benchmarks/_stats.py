"""What the benchmarks' tables are made of: medians with bootstrap intervals, rank correlations, arms in random order."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import kendalltau, spearmanr

LEAST = 6
"""Of fewer values a bootstrap interval of the median covers much less than it says (of 3 values 77 %, of 6 values 93 %)."""


def median_interval(values: Sequence[float], draws: int = 10_000) -> dict[str, Any]:
    """Return the median of values, a rate or a ratio from each round, with its 95 % percentile bootstrap interval.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.

    Returns:
        `median`, `low`, `high`, `n`, and `interval`: `95 %`, or `range` where there are fewer than six values and `low` and
        `high` are the least and the largest.
    """
    seen = np.asarray(values, dtype=float)
    found: dict[str, Any] = {"median": float(np.median(seen)), "low": float(seen.min()), "high": float(seen.max())}
    found |= {"n": len(seen), "interval": "range"}
    if len(seen) >= LEAST:
        rows = np.random.default_rng(0).integers(0, len(seen), (draws, len(seen)))
        low, high = np.quantile(np.median(seen[rows], axis=1), [0.025, 0.975])
        found |= {"low": float(low), "high": float(high), "interval": "95 %"}
    return found


def shown(interval: Mapping[str, Any], digits: int = 2) -> str:
    """Return a median with its interval as text, such as `1.93 [1.80, 2.11]`, or with its range: `1.93 (1.80 to 2.11)`."""
    middle, low, high = (f"{interval[key]:,.{digits}f}" for key in ("median", "low", "high"))
    if interval["n"] == 1:
        return f"{middle} (one round)"
    return f"{middle} [{low}, {high}]" if interval["interval"] == "95 %" else f"{middle} ({low} to {high})"


def tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Kendall's tau-b of two scores of the same networks: 1 for the same order, -1 for the reverse."""
    return float(kendalltau(first, second).statistic)


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's rank correlation of two scores of the same networks."""
    return float(spearmanr(first, second).statistic)


def shuffled(arms: Sequence[str], rounds: int, seed: int = 0) -> list[list[str]]:
    """Return an order of the arms for each round: drawn at random, and reversed in the round after, so that no arm always
    runs on a machine that another one has warmed."""
    rng = random.Random(seed)
    found: list[list[str]] = []
    for number in range(rounds):
        order = found[-1][::-1] if number % 2 else rng.sample(list(arms), len(arms))
        found.append(order)
    return found
