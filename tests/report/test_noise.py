"""Scatter and shrinkage on made data whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from nas.report.noise import by_network, prior, scatter


def test_scatter_is_pooled_and_its_interval_holds_the_truth() -> None:
    assert scatter([[0.5], [0.7]]) is None
    found = scatter([[0.0, 2.0], [1.0, 1.0, 4.0], [9.0]])
    assert found is not None and (found.networks, found.freedom) == (2, 3)
    assert found.deviation == pytest.approx(((2 + 6) / 3) ** 0.5)  # sums of squares 2 and 6
    rng, held = np.random.default_rng(0), 0
    for _ in range(200):
        made = scatter([list(row) for row in rng.normal(0, 0.01, (5, 3)) + rng.normal(0, 1, (5, 1))])
        assert made is not None
        held += made.low <= 0.01 <= made.high
    assert 180 <= held <= 199


def test_trainings_are_grouped_by_network_without_those_that_failed() -> None:
    stored = {
        "a-1": {"outcome": "ok", "val_accuracy": 0.5},
        "a-2": {"outcome": "ok", "val_accuracy": 0.6},
        "b-1": {"outcome": "diverged"},
        "c-1": {"outcome": "ok"},
    }
    assert by_network(stored) == {"a": [0.5, 0.6]}


def test_what_is_expected_of_the_best_has_neither_its_luck_nor_too_little() -> None:
    rng = np.random.default_rng(0)
    naive, mended, held = [], [], 0
    for _ in range(300):
        worth = rng.normal(0.7, 0.02, 60)
        seen = worth + rng.normal(0, 0.015, 60)
        best = int(seen.argmax())
        value, error, factor = prior(list(seen), 0.015).shrunken(float(seen[best]))
        assert 0 <= factor <= 1
        naive.append(seen[best] - worth[best])
        mended.append(value - worth[best])
        held += abs(value - worth[best]) < 2 * error
    assert np.mean(naive) > 0.015, "the best flatters itself by a whole noise"
    assert abs(np.mean(mended)) < 0.0025
    assert held > 270


def test_a_tail_of_networks_that_learnt_little_does_not_pass_for_merit() -> None:
    rng = np.random.default_rng(1)
    good = rng.normal(0.7, 0.02, 60)
    tail = rng.uniform(0.1, 0.4, 12)
    clean, mixed = prior(list(good), 0.015), prior([*good, *tail], 0.015)
    assert np.std([*good, *tail]) > 0.1
    assert mixed.spread < 1.3 * clean.spread


def test_more_readings_are_shrunk_less_and_luck_alone_wholly() -> None:
    values = list(np.linspace(0.6, 0.8, 41))
    spread = prior(values, 0.05)
    once, twice = spread.shrunken(0.8), spread.shrunken(0.8, 4)
    assert spread.centre < once[0] < twice[0] < 0.8 and once[1] > twice[1]
    assert prior(values, 0.0).shrunken(0.8) == (0.8, 0.0, 1.0)
    luck = prior(values, 1.0)
    assert luck.true_spread == 0 and luck.shrunken(0.8)[0] == luck.centre == pytest.approx(0.7)
