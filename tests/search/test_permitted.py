"""What a search knows of a network before it measures anything."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

from nas import catalog
from nas.cost import count
from nas.search.permitted import known_of
from nas.search.study import values
from nas.space import Limit, SearchSpace, choices, decode, forbidden, stored_choose
from nas.spec import ArchSpec

CLASSES = {"num_classes": 10, "in_channels": 3}


def some(space: SearchSpace, number: int) -> list[tuple[dict[str, Any], ArchSpec]]:
    """Return parameters as a sampler draws them, each with its network."""
    rng, found = random.Random(0), []
    for _ in range(number):
        params: Mapping[str, Any] = {
            name: rng.randrange(len(domain.values)) if domain.ordered else rng.choice(domain.values)
            for name, domain in choices(space).items()
        }
        found.append((dict(params), decode(space, stored_choose(values(choices(space), params)), **CLASSES)))
    return found


def test_what_breaks_a_rule_or_a_limit_that_is_counted_is_not_permitted() -> None:
    space = catalog.load_space("v2_tiny")
    drawn = some(space, 60)
    middle = sorted(count(spec).macs for _, spec in drawn)[30]
    known = known_of(space, [Limit("macs", max=middle)], **CLASSES)
    refused = 0
    for params, spec in drawn:
        permitted = not forbidden(space, spec) and count(spec).macs <= middle
        assert known.network(params) == (spec.arch_hash if permitted else None)
        assert known.beyond is not None
        assert known.beyond(params) == max(0.0, count(spec).macs / middle - 1)
        refused += not permitted
    assert 30 <= refused < 60
    assert known_of(space, [Limit("step_time_ms", max=1.0)], **CLASSES).beyond is None  # it cannot be counted


def test_a_network_that_is_left_out_is_not_permitted() -> None:
    space = catalog.load_space("v2_tiny")
    params, spec = next(pair for pair in some(space, 60) if not forbidden(space, pair[1]))
    assert known_of(space, [], **CLASSES).network(params) == spec.arch_hash
    assert known_of(space, [], **CLASSES, skipped={spec.arch_hash}).network(params) is None


def test_costs_are_logarithms_of_counts_and_masked_choices_are_named() -> None:
    space = catalog.load_space("v2_tiny")
    known = known_of(space, [], **CLASSES)
    masked = 0
    for params, spec in some(space, 10):
        assert known.cost(params) == {
            "num_params": math.log(count(spec).params),
            "macs": math.log(count(spec).macs),
        }
        masked += len(set(known.distributions) - known.active(params))
    assert masked
