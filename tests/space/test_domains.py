"""Scalars, lists and ranges."""

from __future__ import annotations

from typing import Any

import pytest

from nas.space import Domain
from nas.space.schema import parse_domain
from nas.spec import Key

KERNEL = Key(int, 3, minimum=1, maximum=31, odd=True)
RATIO = Key(float, 4, minimum=0.25, maximum=32)
NAME = Key(str, "")


@pytest.mark.parametrize(
    ("key", "value", "values", "ordered"),
    [
        (KERNEL, 3, (3,), True),
        (KERNEL, [5, 3], (3, 5), True),
        (KERNEL, {"min": 3, "max": 7, "step": 2}, (3, 5, 7), True),
        (RATIO, [6, 1, 2.5], (1.0, 2.5, 6.0), True),
        (RATIO, {"min": 1, "max": 3}, (1.0, 2.0, 3.0), True),
        (RATIO, {"min": 2, "max": 2}, (2.0,), True),
        (NAME, ["z", "a"], ("z", "a"), False),
    ],
)
def test_a_value_becomes_a_domain(key: Key, value: Any, values: tuple[Any, ...], ordered: bool) -> None:
    domain = parse_domain(key, value)
    assert domain == Domain(values, ordered)
    assert domain.fixed == (len(values) == 1)
    assert all(type(item) is key.kind for item in domain.values)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (KERNEL, [], "empty list"),
        (KERNEL, [3, 4], "found 4; allowed: an odd whole number from 1 up to 31"),
        (KERNEL, "3", "found '3'"),
        (KERNEL, None, "found None"),
        (KERNEL, [3, 3], "each value once"),
        (RATIO, [4, 4.0], "each value once"),
        (KERNEL, [[3]], r"found \[3\]"),
        (KERNEL, {"min": 3}, "allowed: a range"),
        (KERNEL, {"min": 3, "max": 7, "stop": 1}, "allowed: a range"),
        (RATIO, {"min": 0.5, "max": 2}, "whole numbers in a range"),
        (RATIO, {"min": 5, "max": 1}, "min up to max"),
        (RATIO, {"min": 1, "max": 6, "step": 2}, "whole steps"),
        (RATIO, {"min": 1, "max": 6, "step": 0}, "whole steps"),
        (RATIO, {"min": True, "max": 6}, "whole numbers"),
        (Key(int, 1), {"min": 1, "max": 10**9}, "at most 1000"),
        (NAME, {"min": 1, "max": 2}, "found a range"),
    ],
)
def test_a_wrong_domain_says_what_is_allowed(key: Key, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_domain(key, value)
