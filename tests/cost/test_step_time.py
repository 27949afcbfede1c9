"""Step times with a clock of our own: no waiting, and exact answers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import pytest
import torch

from nas.cost import step_time
from nas.cost._conditions import Seen
from nas.cost.step_time import FULL, SEARCH, Protocol, search_target, step_times
from nas.errors import MeasurementError

CPU = torch.device("cpu")
QUICK = Protocol(warmup_steps=2, settle=0.0, min_blocks=5, max_blocks=50, at_cap=3, block_s=0.0, target=0.02, cap_s=2.0)


class Clock:
    """A clock that only steps move, and a log of which step was taken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.taken: list[str] = []
        monkeypatch.setattr("time.perf_counter", lambda: self.now)
        monkeypatch.setattr("time.process_time", lambda: self.now)
        monkeypatch.setattr(step_time, "watch_of", lambda device: Seen)

    def step(self, name: str, milliseconds: Iterable[float]) -> Callable[[], None]:
        durations: Iterator[float] = iter(milliseconds)

        def step() -> None:
            self.taken.append(name)
            self.now += next(durations) / 1e3

        return step


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_the_value_is_the_median_and_the_spread_the_median_deviation(clock: Clock) -> None:
    warmup = [1000.0, 500.0]
    protocol = replace(QUICK, target=0.0, max_blocks=5)
    (found,) = step_times([clock.step("a", [*warmup, 10, 11, 12, 14, 90])], CPU, protocol)
    assert found.value == pytest.approx(12)
    assert found.spread == pytest.approx(2)
    assert (found.n, found.unit, found.device) == (5, "ms", "cpu")


def test_it_stops_as_soon_as_the_median_is_known_well_enough(clock: Clock) -> None:
    step_times([clock.step("a", itertools.repeat(10.0))], CPU, QUICK)
    assert len(clock.taken) == QUICK.warmup_steps + QUICK.min_blocks


def test_it_goes_on_while_the_samples_scatter(clock: Clock) -> None:
    scattered = [10.0, 18, 12, 20, 14, 16, 11, 19, 13, 17, 15]
    (found,) = step_times([clock.step("a", itertools.cycle(scattered))], CPU, QUICK)
    assert found.n == QUICK.max_blocks  # the error, 1.86 * 3 / 15 / sqrt(n), is below 2 % only from 340 samples on
    (found,) = step_times([clock.step("a", itertools.cycle(scattered))], CPU, replace(QUICK, target=0.1))
    error = 1.2533 * 1.4826 * found.spread / found.value / math.sqrt(found.n)
    assert error < 0.1
    assert QUICK.min_blocks <= found.n < QUICK.max_blocks


def test_it_stops_at_the_cap(clock: Clock) -> None:
    (found,) = step_times([clock.step("a", itertools.cycle([400.0, 800.0]))], CPU, QUICK)
    assert 3 <= found.n <= 5
    assert clock.now < 2 + 0.8 + 2 * 0.8  # the cap, the sample that passed it, the warm-up


def test_a_slow_step_is_still_taken_three_times(clock: Clock) -> None:
    (found,) = step_times([clock.step("a", itertools.repeat(60_000.0))], CPU, QUICK)
    assert found.n == 3


def test_blocks_of_two_networks_alternate_and_see_the_same_drift(clock: Clock) -> None:
    drift = [1.0 + 0.1 * n for n in range(60)]
    slow = clock.step("a", [20 * factor for factor in drift])
    fast = clock.step("b", [10 * factor for factor in drift])
    protocol = replace(QUICK, target=0.0, max_blocks=7)
    first, second = step_times([slow, fast], CPU, protocol)
    assert "".join(clock.taken) == "aa" + "bb" + "ab" * 7
    assert first.value / second.value == pytest.approx(2)
    assert first.n == second.n == 7


def test_short_steps_are_timed_in_blocks(clock: Clock) -> None:
    sixty_fourth = 1e3 / 64  # of a second, exact in binary
    protocol = replace(QUICK, block_s=5 / 64, target=0.0, max_blocks=5)
    (found,) = step_times([clock.step("a", itertools.repeat(sixty_fourth))], CPU, protocol)
    assert found.value == sixty_fourth
    assert found.n == 5 * 5  # five blocks of five steps


def test_warm_up_goes_on_until_three_blocks_agree_and_is_capped(clock: Clock) -> None:
    protocol = replace(QUICK, settle=0.02, target=0.0, max_blocks=5)
    falling = [100.0, 90, 50, 30, 20, 10]
    (found,) = step_times([clock.step("a", [*falling, *[10.0] * 50])], CPU, protocol)
    assert found.value == pytest.approx(10)
    assert found.spread == pytest.approx(0, abs=1e-9)
    unsettled = replace(protocol, cap_s=1.0)
    clock.taken.clear()
    step_times([clock.step("a", itertools.cycle([100.0, 200.0]))], CPU, unsettled)
    assert len(clock.taken) < 2 + 8 + 8


def test_a_clock_that_stands_still_is_no_measurement(clock: Clock) -> None:
    with pytest.raises(MeasurementError, match=r"measured 0\.0 ms on cpu"):
        step_times([clock.step("a", itertools.repeat(0.0))], CPU, QUICK)
    with pytest.raises(MeasurementError):
        step_times([clock.step("a", itertools.repeat(0.0))], CPU, replace(QUICK, block_s=0.05))


def test_an_error_of_the_step_is_not_swallowed(clock: Clock) -> None:
    def broken() -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        step_times([broken], CPU, QUICK)


def test_the_cost_uses_the_protocol_of_the_search(clock: Clock) -> None:
    found = step_time.step_time(clock.step("a", itertools.repeat(10.0)), CPU)
    assert found.n == SEARCH.min_blocks * 2  # steps of 10 ms in blocks of 20
    assert FULL.min_blocks >= 9  # design: at least nine blocks for published figures
    assert FULL.settle > 0


def test_a_time_is_known_so_well_that_it_moves_the_score_by_a_quarter_of_the_accuracys_error() -> None:
    accuracy, error, w = 0.8, 0.01, -0.07
    target = search_target(accuracy, error, w)
    assert target == pytest.approx(min(0.1, 0.25 * error / accuracy / 0.07))
    assert abs(w) * target * accuracy <= 0.25 * error * (1 + 1e-9)
    assert search_target(0.8, 0.001, w) < target
    assert search_target(0.8, 0.5, w) == 0.1
    assert search_target(0.8, 0.01, 0) == 0.1
