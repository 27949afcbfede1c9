"""What a search knows of a network before it measures anything: whether it may be tried, and what can be counted."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence

from nas.cost import count
from nas.objective import slacks
from nas.search.samplers.known import Known, Params
from nas.search.study import distributions, values
from nas.space import Limit, SearchSpace, active_choices, choices, decode, forbidden, stored_choose

REMEMBERED = 50_000
"""Networks of which the answer is kept: a sampler asks for the same ones again and again."""


def known_of(
    space: SearchSpace,
    limits: Sequence[Limit],
    *,
    num_classes: int,
    in_channels: int,
    skipped: Collection[str] = (),
) -> Known:
    """Return what a sampler may know of a space: a network is not permitted where a rule of the space forbids it, or where its
    parameters or multiply-adds, which are counted, are beyond a limit.

    Args:
        skipped: Hashes of networks that are not to be tried.
    """
    asked = choices(space)
    domains = distributions(asked)
    active = active_choices(space)
    seen: dict[tuple[object, ...], tuple[str | None, dict[str, float]]] = {}

    def made(params: Params) -> tuple[str | None, dict[str, float]]:
        key = tuple(params[name] for name in domains)
        if key not in seen:
            if len(seen) >= REMEMBERED:
                seen.clear()
            seen[key] = looked_at(params)
        return seen[key]

    def looked_at(params: Params) -> tuple[str | None, dict[str, float]]:
        spec = decode(space, stored_choose(values(asked, params)), num_classes=num_classes, in_channels=in_channels)
        counted = count(spec)
        costs = {"num_params": float(counted.params), "macs": float(counted.macs)}
        beyond = any(slack > 0 for slack in slacks(costs, limits).values())
        permitted = not beyond and spec.arch_hash not in skipped and not forbidden(space, spec)
        return (spec.arch_hash if permitted else None), {name: math.log(value) for name, value in costs.items()}

    def network(params: Params) -> Hashable | None:
        return made(params)[0]

    def cost(params: Params) -> Mapping[str, float]:
        return made(params)[1]

    return Known(domains, network, lambda params: active(values(asked, params)), cost)
