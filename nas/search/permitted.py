"""What a search knows of a network before it measures anything: whether it may be tried, and what can be counted."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from nas.cost.by_stage import counter
from nas.objective import slacks
from nas.search.samplers.known import Known, Params
from nas.search.study import distributions, values
from nas.space import Limit, SearchSpace, active_choices, choices, decode, forbidden, stored_choose
from nas.spec import Value

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

    def read(params: Params) -> dict[str, Value]:
        return values(asked, params)

    counted = counter(space, num_classes=num_classes, in_channels=in_channels, read=read)
    seen: dict[tuple[object, ...], str | None] = {}

    def network(params: Params) -> str | None:
        key = tuple(params[name] for name in domains)
        if key not in seen:
            if len(seen) >= REMEMBERED:
                seen.clear()
            seen[key] = looked_at(params)
        return seen[key]

    def beyond(params: Params) -> float:
        total = counted(params)
        found = slacks({"num_params": float(total.params), "macs": float(total.macs)}, limits)
        return sum(max(0.0, slack) for slack in found.values())

    def looked_at(params: Params) -> str | None:
        if beyond(params) > 0:
            return None
        spec = decode(space, stored_choose(read(params)), num_classes=num_classes, in_channels=in_channels)
        return None if spec.arch_hash in skipped or forbidden(space, spec) else spec.arch_hash

    def cost(params: Params) -> dict[str, float]:
        total = counted(params)
        return {"num_params": math.log(total.params), "macs": math.log(total.macs)}

    countable = slacks({"num_params": 0.0, "macs": 0.0}, limits)
    return Known(domains, network, active_choices(space, read), cost, beyond if countable else None)
