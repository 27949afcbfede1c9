"""Quantities with units."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.space import format_count, parse_quantity
from nas.space.units import COST_UNITS


@pytest.mark.parametrize(
    ("text", "cost", "value"),
    [
        ("5M", "num_params", 5e6),
        ("0.5m", "num_params", 5e5),
        (24_000_000, "num_params", 24e6),
        ("600M", "macs", 600e6),
        ("1.5 G", "macs", 1.5e9),
        ("2e9", "macs", 2e9),
        ("12ms", "step_time_ms", 12),
        ("0.5s", "step_time_ms", 500),
        ("250us", "step_time_ms", 0.25),
        ("5ms", "latency_ms", 5),
        ("800us", "latency_ms", 0.8),
        ("2GiB", "peak_memory_mib", 2048),
        ("512MiB", "peak_memory_mib", 512),
        ("1GB", "peak_memory_mib", 1e9 / 2**20),
    ],
)
def test_a_quantity_is_read_in_the_unit_of_its_cost(text: str | int, cost: str, value: float) -> None:
    assert parse_quantity(text, cost) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "cost"),
    [
        ("12", "step_time_ms"),
        ("5", "latency_ms"),
        (2, "peak_memory_mib"),
        ("5MB", "num_params"),
        ("5Q", "macs"),
        ("-5M", "macs"),
        ("0", "macs"),
        ("", "macs"),
        ("M", "macs"),
        ("5 5M", "macs"),
        ("nan", "macs"),
        ("1e999", "macs"),
        (True, "macs"),
    ],
)
def test_a_wrong_quantity_says_what_is_allowed(text: str, cost: str) -> None:
    with pytest.raises(ValueError, match="allowed: a positive number with a unit") as caught:
        parse_quantity(text, cost)
    assert repr(text) in str(caught.value)


def test_every_cost_has_an_example_that_reads() -> None:
    for cost in COST_UNITS:
        with pytest.raises(ValueError, match="such as") as caught:
            parse_quantity("bad", cost)
        assert parse_quantity(str(caught.value).rpartition("such as ")[2], cost) > 0


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (5_288_548, "5.29M"),
        (385_814_752, "386M"),
        (37.7e9, "37.7G"),
        (2e12, "2T"),
        (1500, "1.5K"),
        (12, "12"),
        (999_612, "1M"),
    ],
)
def test_counts_are_written_for_people(number: float, text: str) -> None:
    assert format_count(number) == text


@given(st.floats(1, 1e14))
def test_what_is_written_reads_back_within_its_three_digits(number: float) -> None:
    assert parse_quantity(format_count(number), "macs") == pytest.approx(number, rel=0.006)
