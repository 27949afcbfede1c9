"""Counting many networks of one space gives what counting each gives."""

from __future__ import annotations

import random

import pytest

from nas import catalog
from nas.cost import count
from nas.cost.by_stage import counter
from nas.space import choices, decode, library, random_choose, stored_choose

SHIPPED = [name for name in library.names() if not name.startswith("reference/")]


@pytest.mark.parametrize("name", SHIPPED)
def test_the_counts_are_those_of_each_network(name: str) -> None:
    space, rng = catalog.load_space(name), random.Random(0)
    counted = counter(space, num_classes=7, in_channels=1)
    asked = choices(space)
    for _ in range(12):
        values = {key: random_choose(rng)(key, domain) for key, domain in asked.items()}
        assert counted(values) == count(decode(space, stored_choose(values), num_classes=7, in_channels=1))
