"""Which choices shape a network: what is called masked changes nothing, and what changes something is not called masked."""

from __future__ import annotations

import random

import pytest

from nas import catalog
from nas.space import active_choices, choices, decode, library, random_choose, stored_choose

SHIPPED = [name for name in library.names() if not name.startswith("reference/")]
SPACES = [*(name for name in SHIPPED if name.endswith("_tiny")), "v2"]


@pytest.mark.parametrize("name", SPACES)
def test_a_masked_choice_changes_no_network(name: str) -> None:
    space, rng = catalog.load_space(name), random.Random(0)
    asked, active = choices(space), active_choices(space)
    masked = 0
    for _ in range(6):
        values = {key: random_choose(rng)(key, domain) for key, domain in asked.items()}
        spec = decode(space, stored_choose(values))
        for key in set(asked) - active(values):
            masked += 1
            other = rng.choice([value for value in asked[key].values if value != values[key]])
            assert decode(space, stored_choose(values | {key: other})).arch_hash == spec.arch_hash, key
    assert active(values) <= set(asked)
    if "se_ratio" in str(asked) and "block" in str(asked):
        assert masked  # so that the above has been tried


def test_what_is_active_nearly_always_has_an_effect() -> None:
    space, rng = catalog.load_space("v2_tiny"), random.Random(1)
    asked, active = choices(space), active_choices(space)
    without = total = 0
    for _ in range(12):
        values = {key: random_choose(rng)(key, domain) for key, domain in asked.items()}
        spec = decode(space, stored_choose(values))
        for key in active(values):
            others = [value for value in asked[key].values if value != values[key]]
            total += 1
            without += all(decode(space, stored_choose(values | {key: v})).arch_hash == spec.arch_hash for v in others)
    assert total > 200
    assert without == 0


def test_layers_beyond_the_depth_are_masked_with_all_their_keys() -> None:
    name = "ofa_tiny"
    space = catalog.load_space(name)
    values = {key: domain.values[0] for key, domain in choices(space).items()}
    depths = [key for key in values if key.endswith(".num_layers")]
    assert depths
    active = active_choices(space)(values)
    for key in depths:
        stage, depth = key.removesuffix(".num_layers"), int(values[key])
        beyond = [one for one in values if one.startswith(f"{stage}.l") and int(one.split(".")[1][1:]) > depth]
        assert not active & set(beyond)
        assert beyond
