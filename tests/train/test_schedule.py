from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.train.schedule import PRESETS, Progressive, epoch_rate, learning_rate, phases

# arXiv:2104.00298, table 6, interpolated over its four stages.
PAPER = {
    ("s", 300): {"resolution": (128, 185, 242, 300), "magnitude": (5, 25 / 3, 35 / 3, 15), "mixup": (0, 0, 0, 0),
                 "dropout": (0.1, 1 / 6, 7 / 30, 0.3)},
    ("m", 380): {"resolution": (128, 212, 296, 380), "magnitude": (5, 10, 15, 20), "mixup": (0, 1 / 15, 2 / 15, 0.2),
                 "dropout": (0.1, 0.2, 0.3, 0.4)},
    ("l", 380): {"resolution": (128, 212, 296, 380), "magnitude": (5, 35 / 3, 55 / 3, 25),
                 "mixup": (0, 1 / 6, 1 / 3, 0.5), "dropout": (0.1, 7 / 30, 11 / 30, 0.5)},
}  # fmt: skip

# The released code: size int(128 + (train - 128) * (k + 1) / 4), RandAugment linspace(5, 10 / 15 / 20), dropout constant.
SHIPPED = {
    ("s", 300): {"resolution": (171, 214, 257, 300), "magnitude": (5, 20 / 3, 25 / 3, 10), "dropout": (0.2,) * 4},
    ("m", 384): {"resolution": (192, 256, 320, 384), "magnitude": (5, 25 / 3, 35 / 3, 15), "dropout": (0.3,) * 4,
                 "mixup": (0, 1 / 15, 2 / 15, 0.2)},
    ("l", 384): {"resolution": (192, 256, 320, 384), "magnitude": (5, 10, 15, 20), "dropout": (0.4,) * 4,
                 "mixup": (0, 1 / 6, 1 / 3, 0.5)},
}  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "resolution", "expected"),
    [
        (f"efficientnetv2_{size}_{rule}", resolution, expected)
        for rule, table in (("paper", PAPER), ("shipped", SHIPPED))
        for (size, resolution), expected in table.items()
    ],
)
def test_published_schedules(preset: str, resolution: int, expected: dict[str, tuple[float, ...]]) -> None:
    found = phases(PRESETS[preset], resolution, epochs=350)
    for name, values in expected.items():
        assert [getattr(phase, name) for phase in found] == pytest.approx(values), name
    assert [phase.epochs for phase in found] == [87.5] * 4
    assert [phase.number for phase in found] == [1, 2, 3, 4]


def test_the_table_as_it_is_printed() -> None:
    s, m, large = (
        phases(PRESETS[f"efficientnetv2_{size}_paper"], pixels, 350)
        for size, pixels in (("s", 300), ("m", 380), ("l", 380))
    )
    assert [round(phase.magnitude, 2) for phase in s] == [5, 8.33, 11.67, 15]
    assert [round(phase.dropout, 3) for phase in s] == [0.1, 0.167, 0.233, 0.3]
    assert [round(phase.mixup, 3) for phase in m] == [0, 0.067, 0.133, 0.2]
    assert [round(phase.mixup, 3) for phase in large] == [0, 0.167, 0.333, 0.5]


spans = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(lambda pair: (min(pair), max(pair)))
progressives = st.builds(
    Progressive,
    phases=st.integers(1, 6),
    size=st.floats(0.05, 1).map(lambda first: (first, 1.0)),
    magnitude=spans,
    mixup=spans,
    dropout=spans,
    rule=st.sampled_from(["paper", "shipped"]),
)


@given(progressives, st.integers(8, 600), st.floats(0.1, 400))
def test_size_and_regularisation_rise_together(progressive: Progressive, resolution: int, epochs: float) -> None:
    found = phases(progressive, resolution, epochs)
    assert len(found) == progressive.phases
    for before, after in itertools.pairwise(found):
        assert before.resolution <= after.resolution
        for name in ("magnitude", "mixup", "dropout"):
            assert getattr(before, name) <= getattr(after, name) + 1e-12
    assert sum(phase.epochs for phase in found) == pytest.approx(epochs)


@given(progressives, st.integers(8, 600))
def test_sizes_are_multiples_of_8_and_the_last_is_the_networks_own(progressive: Progressive, resolution: int) -> None:
    *early, last = phases(progressive, resolution, 1)
    assert last.resolution == resolution
    for phase in early:
        assert phase.resolution % 8 == 0 or phase.resolution == resolution
        assert 8 <= phase.resolution <= resolution


def test_a_single_phase_is_the_last() -> None:
    progressive = Progressive(1, (0.5, 1), magnitude=(5, 15), mixup=(0, 0.2), dropout=(0.1, 0.3))
    (phase,) = phases(progressive, 96, 3)
    assert (phase.number, phase.resolution, phase.epochs) == (1, 96, 3)
    assert (phase.magnitude, phase.mixup, phase.dropout) == (15, 0.2, 0.3)


@given(st.integers(8, 2000), st.floats(1e-5, 1), st.floats(0, 0.9))
def test_the_rate_starts_low_peaks_once_and_ends_near_zero(steps: int, peak: float, warmup: float) -> None:
    rates = [learning_rate(step, steps, peak, warmup) for step in range(steps)]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(peak)
    assert all(0 < rate <= peak * (1 + 1e-12) for rate in rates)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    rise = max(1, round(steps * warmup))
    assert rates[0] == pytest.approx(peak / rise)
    left = steps - rise  # the fewer steps fall, the coarser the end
    if left >= 8:
        assert rates[-1] < 0.05 * peak


def test_each_phase_has_its_own_rise_and_fall() -> None:
    rates = [learning_rate(step, 100, 1.0, 0.2) for step in range(100)]
    assert rates[0] == pytest.approx(0.05)
    assert rates[19] == 1.0
    assert rates[59] == pytest.approx(0.5, abs=0.02)
    assert rates[99] == pytest.approx(0, abs=1e-3)


def test_a_phase_of_one_step_has_the_peak() -> None:
    assert learning_rate(0, 1, 0.01, 0.2) == 0.01


PUBLISHED: dict[str, Any] = {
    "peak": 0.256,
    "schedule": "exponential",
    "epochs": 350,
    "warmup_epochs": 5,
    "staircase": True,
}


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [(0, 0), (1, 0.0512), (2.5, 0.128), (5, 0.256), (7.39, 0.256), (7.4, 0.256 * 0.97), (17, 0.256 * 0.97**5)]
    + [(5 + 2.4 * steps, 0.256 * 0.97**steps) for steps in range(0, 144, 13)],
)
def test_the_published_rate_rises_for_five_epochs_and_falls_by_3_percent_every_2_4(epoch: float, rate: float) -> None:
    assert epoch_rate(epoch, **PUBLISHED) == pytest.approx(rate)


def test_without_a_staircase_the_fall_is_smooth_and_meets_it_at_every_step() -> None:
    smooth: dict[str, Any] = {**PUBLISHED, "staircase": False}
    assert epoch_rate(9.8, **smooth) == pytest.approx(0.256 * 0.97**2)
    assert epoch_rate(8.6, **smooth) == pytest.approx(0.256 * 0.97**1.5)


rates = st.fixed_dictionaries(
    {
        "peak": st.floats(1e-3, 1),
        "schedule": st.sampled_from(["exponential", "cosine", "constant"]),
        "epochs": st.floats(20, 400),
        "warmup_epochs": st.floats(0, 10),
        "warmup_learning_rate": st.floats(0, 1e-3),
        "staircase": st.booleans(),
        "minimum": st.floats(0, 1e-3),
    }
)


@given(rates, st.lists(st.floats(0, 1), min_size=2, max_size=20).map(sorted))
def test_the_rate_of_a_full_training_rises_then_never_rises_again(plan: dict[str, Any], shares: list[float]) -> None:
    warmup, end = plan["warmup_epochs"], plan["epochs"]
    rise = [epoch_rate(share * warmup * (1 - 1e-9), **plan) for share in shares]
    fall = [epoch_rate(warmup + share * (end - warmup), **plan) for share in shares]
    slack = 1e-12
    assert all(before <= after + slack for before, after in itertools.pairwise(rise))
    assert all(before >= after - slack for before, after in itertools.pairwise(fall))
    assert all(plan["minimum"] - slack <= rate <= plan["peak"] + slack for rate in fall)
    assert epoch_rate(warmup, **plan) == pytest.approx(plan["peak"])
    if warmup:
        assert rise[0] >= plan["warmup_learning_rate"] - slack
        assert epoch_rate(warmup * (1 - 1e-9), **plan) == pytest.approx(plan["peak"], rel=1e-6)


def test_a_cosine_ends_at_its_minimum_halfway_between_at_half_time() -> None:
    plan: dict[str, Any] = {"peak": 1.0, "schedule": "cosine", "epochs": 24, "warmup_epochs": 4, "minimum": 0.2}
    assert epoch_rate(14, **plan) == pytest.approx(0.6)
    assert epoch_rate(24, **plan) == pytest.approx(0.2)
    assert epoch_rate(25, **plan) == pytest.approx(0.2)
