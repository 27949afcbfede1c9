from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.objective import Candidate, Reward, few_images, guessing, pareto, ranked, score_of, slacks, tightest, warnings
from nas.space import Limit

V2 = Reward(w=-0.07, v=-0.05, ref_params=7e6)


def candidate(name: str, accuracy: float, time: float = 10, params: float = 7e6, error: float = 0.01) -> Candidate:
    return Candidate(name, accuracy, error, time, 10, params)


def score(accuracy: float = 0.8, time: float = 10, ref: float = 10, params: float = 7e6, reward: Reward = V2) -> float:
    return reward.score(accuracy, step_time_ms=time, ref_step_time_ms=ref, num_params=params)


def test_the_formula_of_efficientnetv2() -> None:
    assert score() == pytest.approx(0.8)
    assert score(time=20) / score() == pytest.approx(2**-0.07)
    assert 1 - score(time=20) / score() == pytest.approx(0.0474, abs=1e-4)
    assert score(params=14e6) / score() == pytest.approx(2**-0.05)
    assert score(time=1) / score() == pytest.approx(10**0.07)  # ten times faster is worth 17 %
    assert score(0.75, 12, 8, 5e6) == pytest.approx(0.75 * 1.5**-0.07 * (5 / 7) ** -0.05)


def test_a_drift_of_the_machine_cancels() -> None:
    assert score(time=13, ref=10) == pytest.approx(score(time=26, ref=20))


def test_exponents_of_zero_leave_the_accuracy() -> None:
    assert score(0.6, 99, 1, 1e9, Reward(0, 0, 7e6)) == 0.6


costs = st.floats(1e-3, 1e6)


@given(st.floats(0, 0.99), st.floats(1.001, 2), costs, costs, costs, st.floats(-1, -1e-3), st.floats(-1, -1e-3))
def test_more_accuracy_is_better_and_more_cost_is_worse(
    accuracy: float, factor: float, time: float, ref: float, params: float, w: float, v: float
) -> None:
    reward = Reward(w, v, 1e5)
    base = score(accuracy, time, ref, params, reward)
    assert score(accuracy + 0.01, time, ref, params, reward) > base
    if accuracy > 1e-3:
        assert score(accuracy, time * factor, ref, params, reward) < base
        assert score(accuracy, time, ref, params * factor, reward) < base
        assert score(accuracy, time, ref * factor, params, reward) > base


def test_slacks_are_shares_of_the_limit() -> None:
    limits = (Limit("num_params", max=4e6), Limit("macs", min=1e8, max=4e8), Limit("step_time_ms", max=5))
    assert slacks({"num_params": 5e6, "macs": 5e7}, limits) == {
        "num_params.max": 0.25,
        "macs.max": 5e7 / 4e8 - 1,
        "macs.min": 0.5,
    }
    assert slacks({"num_params": 4e6}, limits) == {"num_params.max": 0}


def test_the_tighter_of_two_limits_holds() -> None:
    first = (Limit("num_params", max=5e6, min=1e6), Limit("macs", max=1e9))
    second = (Limit("num_params", max=4e6), Limit("step_time_ms", max=12))
    assert tightest(first, second) == (
        Limit("num_params", max=4e6, min=1e6),
        Limit("macs", max=1e9),
        Limit("step_time_ms", max=12),
    )
    assert tightest((), ()) == ()
    assert set(tightest(second, first)) == set(tightest(first, second))


def test_ranking_is_by_score_and_ties_go_to_the_smaller() -> None:
    best, slow, fast = candidate("best", 0.9), candidate("slow", 0.8, time=40), candidate("fast", 0.8, time=5)
    assert [item.arch_hash for item in ranked([slow, fast, best], V2)] == ["best", "fast", "slow"]
    flat = Reward(0, 0, 7e6)
    large, small = candidate("a", 0.8, params=9e6), candidate("b", 0.8, params=8e6)
    assert [item.arch_hash for item in ranked([large, small], flat)] == ["b", "a"]
    assert score_of(best, V2) == pytest.approx(0.9)


def beats(first: Candidate, second: Candidate) -> bool:
    at_least = first.val_accuracy >= second.val_accuracy and first.relative_time <= second.relative_time
    return at_least and (first.val_accuracy, first.relative_time) != (second.val_accuracy, second.relative_time)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6)), max_size=12))
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    items = [candidate(str(index), accuracy / 6, time) for index, (accuracy, time) in enumerate(points)]
    front = pareto(items)
    brute = {(i.val_accuracy, i.relative_time) for i in items if not any(beats(other, i) for other in items)}
    assert {(item.val_accuracy, item.relative_time) for item in front} == brute
    assert len(front) == len(brute)
    assert [item.relative_time for item in front] == sorted(item.relative_time for item in front)


def test_a_run_that_ends_in_the_cheapest_corner_says_so() -> None:
    # Accuracy hardly rises with time, so that the fastest tenth wins.
    items = [candidate(f"{n:03}", 0.7 + 0.0001 * n, time=1.0 + n) for n in range(40)]
    found = warnings(items, V2, top=5)
    assert any("among the cheapest tenth" in line and "w = -0.07" in line for line in found)


def test_a_ranking_of_noise_is_called_one_of_costs() -> None:
    rng = random.Random(0)
    noise = [candidate(f"{n:03}", rng.gauss(0.75, 0.01), time=5 + n) for n in range(40)]
    assert any("costs and luck may have decided" in line for line in warnings(noise, V2))
    real = [candidate(f"{n:03}", 0.6 + 0.005 * n, time=5 + n) for n in range(40)]
    assert not any("costs and luck may have decided" in line for line in warnings(real, V2))


def test_a_winner_that_the_exponents_choose_is_named() -> None:
    items = [candidate(f"slow{n}", 0.80 - 0.001 * n, time=40) for n in range(9)]
    items += [candidate("fast", 0.745, time=10, error=0.001), candidate("faster", 0.6, time=5)]
    assert ranked(items, V2)[0].arch_hash == "fast"
    found = warnings(items, V2)
    assert any(line.startswith("With exponents half as strong") and "slow0" in line for line in found)


def test_a_clear_winner_needs_no_warning() -> None:
    rng = random.Random(0)
    items = [candidate(f"{n:03}", 0.5 + 0.1 * rng.random(), time=5 + 20 * rng.random()) for n in range(40)]
    items.append(candidate("winner", 0.95, time=15))
    assert warnings(items, V2) == []


def test_few_networks_carry_no_warning() -> None:
    assert warnings([candidate(str(n), 0.7, time=1.0 + n) for n in range(9)], V2) == []


def test_networks_that_learned_nothing_carry_no_error() -> None:
    assert isinstance(warnings([candidate(str(n), 0.0, time=1.0 + n) for n in range(20)], V2), list)


def test_few_validation_images_are_said_with_their_error_and_a_remedy() -> None:
    (line,) = few_images(32, 32)
    assert "on 32 validation images: it moves in steps of 0.031" in line
    assert "known to ± 0.071 only" in line and line.endswith("Add validation images to the data.")
    assert few_images(100, 2_000)[0].endswith("The data has 2000: raise val_images of the recipe.")
    assert "on 1 validation image:" in few_images(1, 1)[0]
    assert few_images(500, 500) == few_images(2_000, 10_000) == []


def test_a_best_network_that_guesses_is_told_so() -> None:
    assert guessing(0.30, 0.02, 10) == []
    (said,) = guessing(0.13, 0.02, 10)
    assert "0.1300 ± 0.0200" in said and "guessing among 10 classes (0.1000)" in said
