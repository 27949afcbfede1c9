from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.errors import RunError, UsageError
from nas.objective import Candidate, Reward, score_of
from nas.report import RunView, load_run, rerank
from nas.report.ranking import kendall_tau
from nas.runs import Run
from nas.space import Limit

PUBLISHED = Path(__file__).parents[2] / "results" / "published" / "v2_tiny-200"
OWN = Reward(-0.07, -0.05, 1e6)


def row(number: int, accuracy: float, time: float, params: float, kind: str = "trained", **more: Any) -> dict[str, Any]:
    candidate = Candidate(f"{number:016x}", accuracy, 0.01, time, 10.0, params)
    return {
        "number": number, "kind": kind, "arch": f"net {number}", "reward": score_of(candidate, OWN), "macs": 10 * params,
        "peak_memory_mib": math.nan, **vars(candidate), **more,
    }  # fmt: skip


def view(rows: list[dict[str, Any]], device: str = "cpu") -> RunView:
    manifest = {
        "kind": "search",
        "reward": {"w": OWN.w, "v": OWN.v},
        "baseline": {"num_params": OWN.ref_params},
        "device": {"type": device},
    }
    return RunView(Run(Path("run"), manifest), pd.DataFrame(rows), (), ())


def random_view(seed: int, networks: int = 20) -> RunView:
    rng = random.Random(seed)
    rows = [row(n, rng.uniform(0.4, 0.9), rng.uniform(5, 40), rng.uniform(1e5, 1e7)) for n in range(networks)]
    return view(rows)


@pytest.fixture
def small() -> RunView:
    """By the run's own score: quick, balanced, exact; `exact` wins where cost does not count."""
    rows = [
        row(0, 0.80, 5, 5e5),
        row(1, 0.82, 10, 1e6),
        row(2, 0.84, 40, 4e6),
        row(3, 0.99, 1, 1e3, "pruned"),
        {"number": 4, "kind": "infeasible", "arch_hash": "dead", "arch": "net 4"},
    ]
    return view(rows)


def order(found: Any) -> list[int]:
    return list(found.table["number"])


def test_its_own_exponents_change_nothing() -> None:
    for seed in range(5):
        run = random_view(seed)
        found = rerank(run)
        assert found.reward == found.own == run.reward
        assert list(found.table["rank"]) == list(found.table["old_rank"]) == list(range(1, 21))
        assert order(found) == list(run.trained()["number"])
        assert list(found.table["reward"]) == pytest.approx(list(run.trained()["reward"]))
        assert found.tau == 1 and not found.first_changed


def test_the_published_run_is_ranked_as_it_was() -> None:
    found = rerank(load_run(PUBLISHED))
    stored = load_run(PUBLISHED).trained()
    assert list(found.table["arch_hash"]) == list(stored["arch_hash"])
    assert list(found.table["reward"]) == pytest.approx(list(stored["reward"]))
    assert (found.trained, found.pruned, found.tau) == (104, 96, 1)


def test_other_exponents_move_the_order(small: RunView) -> None:
    assert order(rerank(small)) == [0, 1, 2]
    found = rerank(small, Reward(0, 0, OWN.ref_params))
    assert order(found) == [2, 1, 0]
    assert list(found.table["old_rank"]) == [3, 2, 1]
    assert list(found.table["reward"]) == pytest.approx([0.84, 0.82, 0.80])
    assert found.tau == -1 and found.first_changed and found.old_first == f"{0:016x}"


def test_pruned_networks_have_no_rank(small: RunView) -> None:
    found = rerank(small)
    assert (found.trained, found.pruned) == (3, 1)
    assert 3 not in order(found)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.floats(-1, 0), st.floats(-1, 0))
def test_the_order_is_by_falling_reward_and_keeps_every_network(seed: int, w: float, v: float) -> None:
    run = random_view(seed)
    found = rerank(run, Reward(w, v, OWN.ref_params))
    rewards = list(found.table["reward"])
    assert rewards == sorted(rewards, reverse=True)
    assert sorted(found.table["old_rank"]) == list(range(1, 21))
    assert -1 <= found.tau <= 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.floats(-1, 0), st.floats(0.01, 1))
def test_a_stronger_exponent_never_prefers_the_slower_of_two(seed: int, w: float, more: float) -> None:
    run = random_view(seed, 8)
    mild, strong = (
        {item["number"]: item["rank"] for item in rerank(run, Reward(x, 0, 1e6)).table.to_dict("records")}
        for x in (w, w - more)
    )
    times = run.trials["step_time_ms"]
    for one, other in combinations(range(8), 2):
        fast, slow = (one, other) if times[one] < times[other] else (other, one)
        if mild[fast] < mild[slow]:
            assert strong[fast] < strong[slow]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.floats(1e5, 1e7), st.floats(5, 40))
def test_limits_leave_exactly_what_is_within_and_its_order(seed: int, params: float, time: float) -> None:
    run = random_view(seed)
    rows = run.trials[(run.trials["num_params"] <= params) & (run.trials["step_time_ms"] <= time)]
    limits = (Limit("num_params", max=params), Limit("step_time_ms", max=time))
    if rows.empty:
        with pytest.raises(UsageError, match="none of the 20"):
            rerank(run, limits=limits)
        return
    found = rerank(run, limits=limits)
    assert set(order(found)) == set(rows["number"])
    kept = [number for number in order(rerank(run)) if number in set(rows["number"])]
    assert order(found) == kept and found.tau == 1
    assert found.trained == 20


def test_a_limit_on_what_was_not_measured_names_the_option_and_why(small: RunView) -> None:
    with pytest.raises(
        UsageError, match=r"--max-memory: 3 of 3 trained networks have no peak_memory_mib .*CUDA"
    ) as caught:
        rerank(small, limits=[Limit("peak_memory_mib", max=100)])
    assert "a run on cpu" in str(caught.value)
    with pytest.raises(UsageError, match=r"--max-params \(the least is 500K\)"):
        rerank(small, limits=[Limit("num_params", max=10)])


def test_memory_is_a_limit_where_it_was_measured() -> None:
    run = view([row(0, 0.8, 5, 5e5, peak_memory_mib=900.0), row(1, 0.7, 5, 5e5, peak_memory_mib=90.0)], "cuda")
    assert order(rerank(run, limits=[Limit("peak_memory_mib", max=100)])) == [1]


def test_latency_is_a_limit_where_it_was_measured(small: RunView) -> None:
    run = view([row(0, 0.8, 5, 5e5, latency_ms=9.0), row(1, 0.7, 5, 5e5, latency_ms=3.0)])
    assert order(rerank(run, limits=[Limit("latency_ms", max=5)])) == [1]
    with pytest.raises(UsageError, match=r"--max-latency \(the least is 3\.00 ms\)"):
        rerank(run, limits=[Limit("latency_ms", max=1)])
    with pytest.raises(
        UsageError, match=r"--max-latency: 3 of 3 trained networks have no latency_ms \(it is measured in searches with"
    ):
        rerank(small, limits=[Limit("latency_ms", max=5)])


def test_a_first_network_beyond_a_limit_has_changed(small: RunView) -> None:
    found = rerank(small, limits=[Limit("step_time_ms", max=7)])
    assert order(found) == [0] and found.tau == 1 and not found.first_changed
    slow = rerank(view([row(0, 0.9, 20, 5e5), row(1, 0.5, 5, 5e5)]), limits=[Limit("step_time_ms", max=7)])
    assert slow.first_changed and list(slow.table["old_rank"]) == [2]


def test_a_run_without_a_trained_network_is_refused(small: RunView) -> None:
    early = replace(small, trials=small.trials[small.trials["kind"] != "trained"])
    with pytest.raises(RunError, match="no network has been trained to the end"):
        rerank(early)


def test_a_network_listed_twice_is_ranked_once(small: RunView) -> None:
    again = pd.concat([small.trials, small.trials.iloc[:1].assign(number=9)])
    assert rerank(replace(small, trials=again)).trained == 3


def test_the_first_two_are_told_apart_by_the_errors_of_their_accuracies() -> None:
    near = rerank(view([row(0, 0.80, 10, 1e6), row(1, 0.79, 10, 1e6), row(2, 0.60, 10, 1e6)]))
    gap, error = near.first_gap()
    assert (gap, error) == (pytest.approx(0.01), pytest.approx(math.hypot(0.01, 0.01)))
    assert near.not_told_apart() == 1
    far = rerank(view([row(0, 0.90, 10, 1e6), row(1, 0.79, 10, 1e6)]))
    assert far.not_told_apart() == 0
    # Equal accuracies and costs that differ much: it is the costs that decide, and they are known.
    cheap = rerank(view([row(0, 0.80, 1, 1e5), row(1, 0.80, 100, 1e7)]))
    assert cheap.not_told_apart() == 0


def test_kendalls_tau() -> None:
    assert kendall_tau([1, 2, 3, 4]) == 1
    assert kendall_tau([4, 3, 2, 1]) == -1
    assert kendall_tau([1, 2, 4, 3]) == pytest.approx(1 - 2 * 1 / 6)  # one of six pairs swapped
    assert kendall_tau([7]) == kendall_tau([]) == 1


@given(st.permutations(range(9)))
def test_kendalls_tau_counts_pairs(ranks: list[int]) -> None:
    rises = sum(1 if second > first else -1 for first, second in combinations(ranks, 2))
    assert kendall_tau(ranks) == pytest.approx(rises / 36)
