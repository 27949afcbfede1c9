"""A search held against random draws, on made runs."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from test_regret import trial

from nas.report.chance import chance, expected_best, superiority
from nas.report.read import RunView
from nas.runs import Run
from nas.search.record import TrialRecord, table


def view(trials: list[TrialRecord]) -> RunView:
    return RunView(Run(Path("run"), {}), table(trials), (), ())


def drawn(number: int, *accuracies: float, who: str = "", kind: str = "trained") -> TrialRecord:
    return replace(trial(number, kind, *accuracies), suggested_by=who)


def test_the_expected_best_is_the_mean_over_all_ways_to_draw() -> None:
    values = [0.3, 0.9, 0.5, 0.7]
    for number in (1, 2, 3, 4):
        ways = [max(pick) for pick in combinations(values, number)]
        assert expected_best(values, number) == pytest.approx(np.mean(ways))


def test_the_chance_to_be_better_counts_pairs_and_is_bounded() -> None:
    assert superiority([2, 3], [1, 2])[0] == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    rng = np.random.default_rng(0)
    value, low, high = superiority(list(rng.normal(1, 1, 80)), list(rng.normal(0, 1, 40)))
    assert low < 0.760 < high and low < value < high  # Phi(1 / sqrt 2)


def test_suggestions_are_compared_with_draws_where_all_have_been() -> None:
    random = [drawn(n, 0.4 + n / 100, 0.5 + n / 100, who="random") for n in range(6)]
    stuck = [drawn(6, 0.2, who="random, after 10 suggestions without a new network", kind="pruned")]
    good = [drawn(n, 0.6 + n / 100, 0.7 + n / 100) for n in range(10, 16)]
    others = [
        drawn(20, 0.1, 0.1, who="user"),
        replace(drawn(21, 0.1, 0.1), origin="run trial 3"),
        drawn(22, 0.1, kind="duplicate"),
    ]
    found = chance(view([*random, *stuck, *good, *others]))
    assert found is not None
    assert (len(found.random), len(found.suggested), found.phase, found.equal) == (7, 6, 1, 6)
    assert found.better == 1.0 and max(found.suggested) == pytest.approx(0.85)
    worse = [drawn(n, 0.1, 0.9) for n in range(10, 16)]
    behind = chance(view([*random, *stuck, *worse]))
    assert behind is not None and behind.high < 0.5, "at the end of phase 1, which all have reached, they are the worst"


def test_where_too_few_are_known_nothing_is_said() -> None:
    few = [drawn(n, 0.5, 0.6, who="random") for n in range(4)]
    assert chance(view([*few, *(drawn(n, 0.5, 0.6) for n in range(10, 20))])) is None
    old = view(few)
    assert chance(replace(old, trials=old.trials.drop(columns="suggested_by"))) is None
