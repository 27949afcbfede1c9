"""What a space holds, before a second of training is spent."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from nas.cost import count
from nas.models import places
from nas.objective import slacks
from nas.space import Domain, SearchSpace, choices, decode, forbidden, random_choose
from nas.space.decode import decode_stage
from nas.spec import ArchSpec, StageSpec

_ENUMERABLE = 200_000


@dataclass(frozen=True)
class SpaceReport:
    """What a space holds.

    Args:
        choices: Open choices by name.
        raw_size: Product of the numbers of options.
        size: Distinct networks, before `forbid` and limits; None where a stage is too large to enumerate.
        sampled: Networks drawn at random. forbidden, infeasible: Of these, how many break a rule, or a counted limit.
        params, macs: Least, median and most of the sample.
        useless: Choices that can never matter. warnings: What else the author should know.
    """

    choices: dict[str, Domain]
    raw_size: int
    size: int | None
    sampled: int
    forbidden: int
    infeasible: int
    params: tuple[float, float, float]
    macs: tuple[float, float, float]
    useless: tuple[str, ...]
    warnings: tuple[str, ...]


def lint(space: SearchSpace, samples: int = 500, seed: int = 0) -> SpaceReport:
    """Look at a space: its size, the range of its networks, the share that is allowed, and choices without effect."""
    rng = random.Random(seed)
    drawn = [decode(space, random_choose(rng)) for _ in range(samples)]
    counts = [count(spec) for spec in drawn]
    broken = [bool(forbidden(space, spec)) for spec in drawn]
    beyond = [
        any(slack > 0 for slack in slacks({"num_params": c.params, "macs": c.macs}, space.limits).values()) for c in counts
    ]
    open_choices = choices(space)
    report = SpaceReport(
        choices=open_choices,
        raw_size=math.prod(len(domain.values) for domain in open_choices.values()),
        size=distinct(space),
        sampled=samples,
        forbidden=sum(broken),
        infeasible=sum(bad and not rule for bad, rule in zip(beyond, broken, strict=True)),
        params=_spread([float(c.params) for c in counts]),
        macs=_spread([float(c.macs) for c in counts]),
        useless=tuple(_useless(space)),
        warnings=(),
    )
    return replace(report, warnings=tuple(_warnings(space, report, drawn)))


def distinct(space: SearchSpace) -> int | None:
    """Count the distinct networks of a space: after masking, rounding and merging, before rules and limits.

    Two networks differ if any part differs once the multipliers are applied, so the count is a product of the distinct
    forms of each part, summed over the distinct choices that act on all parts at once.
    """
    globals_ = {name: domain for name, domain in choices(space).items() if "." not in name}
    if math.prod(len(domain.values) for domain in globals_.values()) > 1000:
        return None
    forms: dict[tuple[object, ...], int] = {}
    for values in itertools.product(*(domain.values for domain in globals_.values())):
        chosen = dict(zip(globals_, values, strict=True))
        base = decode(space, lambda name, domain, chosen=chosen: chosen.get(name, domain.values[0]))  # type: ignore[misc]
        total = 1
        for number in range(1, len(space.stages) + 1):
            found = _stage_forms(space, number, base)
            if found is None:
                return None
            total *= found
        for part in ("stem", "head"):
            total *= _end_forms(space, part, base)
        resolved = base.resolved()
        key = (resolved.resolution, resolved.dropout, resolved.drop_path, space.activation.values, str(chosen))
        forms[key] = total
    return sum(forms.values())


def _stage_forms(space: SearchSpace, number: int, base: ArchSpec) -> int | None:
    """Count the distinct resolved forms of one stage."""
    asked: dict[str, Domain] = {}

    def record(name: str, domain: Domain) -> object:
        asked[name] = domain
        return domain.values[0]

    decode_stage(space, number, record, base)  # type: ignore[arg-type]
    if math.prod(len(domain.values) for domain in asked.values()) > _ENUMERABLE:
        return None
    found: set[StageSpec] = set()
    for chosen in _every(asked):
        stage = decode_stage(space, number, lambda name, domain, chosen=chosen: chosen[name], base)  # type: ignore[misc]
        found.add(base.resolved_stage(stage))
    return len(found)


def _end_forms(space: SearchSpace, part: str, base: ArchSpec) -> int:
    open_here = {name: domain for name, domain in choices(space).items() if name.startswith(f"{part}.")}
    found = set()
    for chosen in _every(open_here):
        spec = decode(space, lambda name, domain, chosen=chosen: chosen.get(name, domain.values[0]))  # type: ignore[misc]
        spec = replace(spec, width_mult=base.width_mult)
        found.add(getattr(spec.resolved(), part))
    return len(found)


def _every(domains: dict[str, Domain]) -> Iterator[dict[str, object]]:
    for values in itertools.product(*(domain.values for domain in domains.values())):
        yield dict(zip(domains, values, strict=True))


def _useless(space: SearchSpace) -> Iterator[str]:
    """Yield the choices that no block of their place reads."""
    for name, layer in space.layers():
        for block in layer.block.values:
            if all(domain.fixed for domain in layer.options.values()):
                break
            unread = [
                key
                for key, domain in layer.options.items()
                if not domain.fixed and key not in space.rules[str(block)].keys and layer.block.fixed
            ]
            yield from (f"{name}.{key}: {block} does not read it" for key in unread)


def _warnings(space: SearchSpace, report: SpaceReport, drawn: list[ArchSpec]) -> Iterator[str]:
    smallest = min(list(places(spec))[-1].out_size for spec in drawn[:50])
    if smallest < 2:
        yield (
            f"the last stage sees {smallest}x{smallest} pixels: at this size its kernels look at padding. Raise the "
            "resolution or lower a stride."
        )
    allowed = 1 - (report.forbidden + report.infeasible) / report.sampled
    if allowed < 0.05:
        yield f"only {allowed:.1%} of random networks meet the rules and limits: the search will spend its time refusing."
    if report.size is not None and report.size < 50:
        yield f"only {report.size} distinct networks: train them all instead of searching."
    if space.baseline is None:
        yield "no `baseline`: step times will be relative to the middle of the space."


def _spread(values: list[float]) -> tuple[float, float, float]:
    ordered = sorted(values)
    return ordered[0], ordered[len(ordered) // 2], ordered[-1]
