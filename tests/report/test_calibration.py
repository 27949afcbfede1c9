from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from nas.errors import RunError
from nas.objective import Candidate, Reward, pareto, score_of
from nas.report import calibrate, load_run
from nas.report.calibration import MIN_NETWORKS, slope

PUBLISHED = Path(__file__).parents[2] / "results" / "published" / "v2_tiny-200"
OWN = Reward(-0.07, -0.05, 1e6)


def networks(
    count: int, rise: float, *, noise: float = 0.01, loss: float = 0.05, size: float = 1.0, seed: int = 0
) -> list[Candidate]:
    """The best of each step time reach 0.7 * time^rise; most fall short by `loss` on average; all are measured with noise.

    Parameters are time^size, loosely.
    """
    rng = np.random.default_rng(seed)
    time = np.exp(rng.uniform(-1.2, 1.2, count))
    short = rng.exponential(loss, count) if loss else np.zeros(count)
    accuracy = 0.7 * time**rise * np.exp(-short + rng.normal(0, noise, count) if noise else -short)
    params = 1e6 * time**size * np.exp(rng.normal(0, 0.2, count))
    return [
        Candidate(f"{n:016x}", float(accuracy[n]), 0.01, float(10 * time[n]), 10.0, float(params[n]))
        for n in range(count)
    ]


def test_a_line_without_noise_is_found_exactly() -> None:
    found = calibrate(networks(60, 0.05, noise=0, loss=0), OWN)
    assert found.time.value == pytest.approx(0.05, abs=1e-5)
    assert found.time.low == pytest.approx(0.05, abs=1e-5) and found.time.high == pytest.approx(0.05, abs=1e-5)


@pytest.mark.parametrize("rise", [0.03, 0.05, 0.1])
@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_the_slope_of_the_best_is_found_within_its_error(rise: float, loss: float) -> None:
    inside, values = 0, []
    for seed in range(8):
        best = networks(100, rise, loss=loss, seed=seed)
        found = slope(np.log([item.relative_time for item in best]), np.log([item.val_accuracy for item in best]))
        inside += found.low <= rise <= found.high
        values.append(found.value)
    assert inside >= 6  # of intervals that hold it 95 times of 100
    assert np.mean(values) == pytest.approx(rise, abs=0.004)


def test_the_suggested_reward_is_flat_along_the_best() -> None:
    found = calibrate(networks(60, 0.05, noise=0, loss=0, size=0), OWN)
    suggested = calibrate(networks(60, 0.05, noise=0, loss=0), Reward(-0.07, 0, 1e6)).suggested()
    assert suggested is not None and (suggested.w, suggested.v) == (pytest.approx(-0.05, abs=1e-5), 0)
    scores = [score_of(item, suggested) for item in networks(60, 0.05, noise=0, loss=0)]
    assert scores == pytest.approx([0.7] * 60, abs=1e-4)
    assert found.together is not None  # parameters that say nothing only add noise


def test_the_proportion_of_the_exponents_is_kept() -> None:
    own = Reward(-0.07, -0.05, 1e6)
    candidates = networks(120, 0.06)
    found = calibrate(candidates, own)
    suggested = found.suggested()
    assert found.together is not None and suggested is not None
    assert suggested.v / suggested.w == pytest.approx(own.v / own.w)
    assert suggested.w + suggested.v == pytest.approx(-0.06, abs=0.012)  # parameters rise as time does
    twice = calibrate(candidates, Reward(-0.14, -0.10, 1e6)).suggested()
    assert twice is not None and twice.w == pytest.approx(suggested.w, abs=1e-4)  # wherever one starts


@pytest.mark.parametrize("seed", range(4))
def test_noise_alone_suggests_nothing_although_its_front_rises(seed: int) -> None:
    candidates = networks(100, 0.0, loss=0, seed=seed)
    front = pareto(candidates)
    assert front[-1].val_accuracy > front[0].val_accuracy  # as every front does
    found = calibrate(candidates, OWN)
    assert found.suggested() is None or found.time.low < 0.004  # one interval of forty lies above the truth
    assert abs(found.time.value) < 0.01


def test_accuracy_that_falls_with_cost_suggests_nothing() -> None:
    found = calibrate(networks(100, -0.05), OWN)
    assert found.time.high < 0 and not found.time.rises and found.suggested() is None


def test_the_published_run_shows_no_slope() -> None:
    view = load_run(PUBLISHED)
    found = calibrate(view.candidates(), view.reward)
    assert found.networks == 104
    assert found.time.low < 0 < found.time.high and found.params.low < 0 < found.params.high
    assert found.suggested() is None


def test_a_search_without_exponents_has_no_proportion_to_keep() -> None:
    found = calibrate(networks(60, 0.05), Reward(0, 0, 1e6))
    assert found.together is None and found.suggested() is None
    assert found.time.rises


def test_a_few_networks_that_learned_nothing_change_little() -> None:
    good = networks(100, 0.05)
    bad = [Candidate(f"bad{n}", 0.1, 0.01, 30.0, 10.0, 3e6) for n in range(4)]
    silent = [Candidate("zero", 0.0, 0.0, 30.0, 10.0, 3e6)]
    assert calibrate([*good, *bad, *silent], OWN).time.value == pytest.approx(
        calibrate(good, OWN).time.value, abs=0.006
    )


def test_too_little_to_see_a_slope_in_is_refused() -> None:
    with pytest.raises(RunError, match=f"29 networks were trained to the end; at least {MIN_NETWORKS}"):
        calibrate(networks(29, 0.05), OWN)
    same = [Candidate(str(n), 0.7, 0.01, 10.0, 10.0, 1e6 * (n + 1)) for n in range(40)]
    with pytest.raises(RunError, match="nearly the same step time"):
        calibrate(same, OWN)


def test_a_slope_is_the_same_each_time() -> None:
    x = np.linspace(-1, 1, 50)
    y = 0.05 * x + np.random.default_rng(0).normal(0, 0.01, 50)
    assert slope(x, y) == slope(x, y)
    assert math.isfinite(slope(x, y).low)


def test_the_line_has_a_tenth_of_the_networks_above_it() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, 200)
    y = 0.05 * x + rng.normal(0, 0.02, 200)
    rest = y - slope(x, y).value * x
    above = rest > np.partition(rest, 179)[179]
    assert above.sum() == 20
    # A regression quantile balances: as many of each side as chance allows, on both halves of the costs.
    assert 5 <= above[x < 0].sum() <= 15
