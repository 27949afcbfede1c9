"""Rank correlations and their intervals on made data."""

from __future__ import annotations

import numpy as np
import pytest

from nas.report.agreement import agreement, spearman, tau_b


def array(*values: float) -> np.ndarray:  # type: ignore[type-arg]
    return np.asarray(values, dtype=float)


def test_known_values() -> None:
    assert tau_b(array(1, 2, 3, 4), array(1, 2, 4, 3)) == pytest.approx(4 / 6)
    assert tau_b(array(1, 2, 3), array(3, 2, 1)) == -1
    # 5 pairs of 6 count in the first, whose first two are tied: 5 / sqrt(5 * 6).
    assert tau_b(array(1, 1, 2, 3), array(1, 2, 3, 4)) == pytest.approx(5 / 30**0.5)
    assert spearman(array(1, 2, 3, 4), array(1, 2, 4, 3)) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert np.isnan(tau_b(array(1, 1, 1), array(1, 2, 3))) and np.isnan(spearman(array(1, 2, 3), array(5, 5, 5)))


def test_it_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for _ in range(20):
        one, other = rng.integers(0, 6, (2, 12)).astype(float)
        assert tau_b(one, other) == pytest.approx(stats.kendalltau(one, other).statistic)
        assert spearman(one, other) == pytest.approx(stats.spearmanr(one, other).statistic)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    truth = 2 / np.pi * np.arcsin(0.8)  # of a normal pair with correlation 0.8
    held = 0
    for _ in range(40):
        pair = rng.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], 25)
        found = agreement([(list(pair[:, 0]), list(pair[:, 1]))])
        assert found is not None and found.low is not None and found.high is not None
        held += found.low <= truth <= found.high
    assert held >= 34


def test_few_networks_have_no_interval_and_none_no_value() -> None:
    assert agreement([([1, 2], [1, 2])]) is None
    assert agreement([([1, 1, 1, 1], [1, 2, 3, 4])]) is None
    found = agreement([([1, 2, 3], [1, 2, 3]), ([1, 2, 3], [3, 2, 1])])
    assert found is not None and (found.value, found.low, found.networks) == (0.0, None, 3)
    assert str(found) == "0.00"
