"""The figures of `benchmarks.step_time`, from made measurements."""

from __future__ import annotations

import random

import pytest

from benchmarks._stats import tau
from benchmarks.step_time import BESIDE, figures, order, summary

GOLD = [1.0, 1.01, 1.5, 2.0, 2.01, 3.0]


def test_the_order_is_kendalls() -> None:
    rng = random.Random(0)
    own = [rng.random() for _ in GOLD]
    assert order(own, GOLD, 0.0, range(6)) == pytest.approx(tau(own, GOLD))
    assert order(GOLD, GOLD, 0.0, [0, 0, 1]) == 1, "a network that was drawn twice is no pair"
    assert order(GOLD, GOLD, 0.0, [2, 2]) is None


def test_close_pairs_can_be_left_out() -> None:
    swapped = [1.01, 1.0, 1.5, 2.01, 2.0, 3.0]
    found = figures({row: [value, value] for row, value in enumerate(swapped)}, GOLD)
    assert found["tau"]["tau"] == pytest.approx(1 - 2 * 2 / 15)
    assert found["tau_of_pairs_more_than_3_percent_apart"]["tau"] == 1
    assert found["tau"]["low"] < found["tau"]["tau"] <= found["tau"]["high"]


def test_a_common_factor_is_no_error_and_repetitions_scatter() -> None:
    found = figures({row: [value * 2, value * 2, value * 2] for row, value in enumerate(GOLD)}, GOLD)
    assert (found["common_factor"], found["mean_error"], found["between_repetitions"]) == pytest.approx((2, 0, 0))
    found = figures({row: [value * 0.9, value, value * 1.1] for row, value in enumerate(GOLD)}, GOLD)
    assert (found["mean_error"], found["between_repetitions"]) == pytest.approx((0.2 / 3, 0.1))


def test_every_arm_has_its_figures() -> None:
    seen = {"foreign_load": 0.1, "turns": 5, "rejected": 1, "note": ""}
    rows = {
        f"{turn}/{arm}/{row}": {"ms": 10 * value, "spread": 0.01}
        | ({} if arm.startswith("naive") else {"relative": value, "seen": seen, "seconds": 2.0})
        for turn in range(2) for arm in BESIDE for row, value in enumerate(GOLD)
    }  # fmt: skip
    gold = {
        f"{turn}/{row}": {"ms": 10 * value, "relative": value, "seen": {"foreign_load": 0.0}}
        for turn in range(2) for row, value in enumerate(GOLD)
    }  # fmt: skip
    answer = summary({"gold": gold, "rows": rows}, len(GOLD))
    assert set(answer) == {"gold", *BESIDE}
    assert all(answer[arm]["ms"]["tau"]["tau"] == 1 for arm in BESIDE)
    assert "relative" not in answer["naive_loaded"] and answer["loaded"]["relative"]["mean_error"] == 0
    assert answer["worker"]["rejected_turns"] == 12 and answer["worker"]["noted"] == 0
