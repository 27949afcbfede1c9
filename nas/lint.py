"""What a space holds, before a second of training is spent."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from nas.cost import count
from nas.models import places
from nas.objective import slacks
from nas.space import Domain, SearchSpace, choices, decode, forbidden, random_choose
from nas.space.decode import Choose, decode_stage
from nas.spec import ArchSpec, LayerSpec, StageSpec, Value, settled, single_layers

_ENUMERABLE = 50_000
"""Forms of all parts together that are enumerated (a second or two)."""


@dataclass(frozen=True)
class SpaceReport:
    """What a space holds.

    Args:
        choices: Open choices by name.
        raw_size: Product of the numbers of options.
        size: Distinct networks, before `forbid` and limits; None where there are too many to enumerate.
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
        any(slack > 0 for slack in slacks({"num_params": c.params, "macs": c.macs}, space.limits).values())
        for c in counts
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

    Once the choices that act on all parts (multipliers, activation, resolution) are made, the parts are chosen
    independently: the networks are a product of the distinct forms of each part. Two such products can share
    networks (a multiplier that rounding swallows), so the size of their union is counted. None where there are too
    many to enumerate.
    """
    products = _products(space)
    if products is None:
        return None
    by_scalars: dict[Scalars, list[_Product]] = {}
    for product in products.values():
        by_scalars.setdefault(product.scalars, []).append(product)
    total = 0
    for group in by_scalars.values():
        if len(group) > 1 and any(product.others != 1 for product in group):
            return None  # stages that were only counted cannot be compared
        boxes = {tuple(frozenset(part.values()) for part in product.parts) for product in group}
        size = union_size(list(boxes), _following)
        if size is None:
            return None
        total += size * group[0].others
    return total


Follow = Callable[["Form", int], tuple["Form", int]]
"""What a part really is after the channels before it, and the channels it hands on."""


def _following(form: Form, channels: int) -> tuple[Form, int]:
    """Settle a stage: whether it can have its skip connection depends on the channels of the part before."""
    if isinstance(form, StageSpec):
        form = settled(form, channels)
        return form, form.layers[-1].out_channels
    return form, 0 if form is None else form.out_channels


def union_size(
    boxes: Sequence[tuple[frozenset[Form], ...]], follow: Follow = lambda form, channels: (form, 0)
) -> int | None:
    """Return how many tuples lie in at least one of some products of sets, or None where that takes too long.

    Part by part: the forms of a part are grouped by the products that hold them, and each group goes on with those.
    """
    known: dict[tuple[int, frozenset[int], int], int] = {}

    def tuples(part: int, inside: frozenset[int], channels: int) -> int:
        if part == len(boxes[0]):
            return 1
        if (part, inside, channels) not in known:
            if len(known) > _ENUMERABLE:
                raise OverflowError
            holders: dict[tuple[Form, int], set[int]] = {}
            for box in inside:
                for form in boxes[box][part]:
                    holders.setdefault(follow(form, channels), set()).add(box)
            groups = Counter((frozenset(held), after) for (_, after), held in holders.items())
            known[part, inside, channels] = sum(
                size * tuples(part + 1, group, after) for (group, after), size in groups.items()
            )
        return known[part, inside, channels]

    try:
        return tuples(0, frozenset(range(len(boxes))), 0)
    except OverflowError:
        return None


Form = LayerSpec | StageSpec | None
"""A part of a resolved network: stem or head (or none), or a stage."""

Scalars = tuple[int, float, float]
"""Resolution, dropout and drop path of a resolved network."""


@dataclass(frozen=True)
class _Product:
    """The networks that are left once the choices that act on all parts are made.

    Args:
        parts: For each part its resolved form by the values of its own choices; empty for a stage that was only counted.
        others: The number of combinations of the stages that were only counted.
    """

    scalars: Scalars
    parts: tuple[dict[tuple[Value, ...], Form], ...]
    others: int = 1


def _by_part(space: SearchSpace) -> dict[str, dict[str, Domain]]:
    """Return the open choices by the part they act on (`stem`, `s1`, ..., `head`); "" holds those that act on all."""
    parts = ["", "stem", *(f"s{number}" for number in range(1, len(space.stages) + 1)), "head"]
    found: dict[str, dict[str, Domain]] = {part: {} for part in parts}
    for name, domain in choices(space).items():
        found[name.partition(".")[0] if "." in name else ""][name] = domain
    return found


def _products(space: SearchSpace) -> dict[tuple[Value, ...], _Product] | None:
    """Return the product of forms for every choice of values that act on all parts, or None where that is too much."""
    by_part = _by_part(space)
    for_all = by_part.pop("")
    free = _counted_by_layer(space, by_part, _combinations(for_all))
    sizes = [_combinations(domains) for part, domains in by_part.items() if part not in free]
    if _combinations(for_all) * sum(sizes) > _ENUMERABLE:
        return None
    products = {}
    for shared in _every(for_all):
        base = decode(space, _chooser(shared))
        activation = str(shared.get("activation", space.activation.values[0]))
        parts: list[dict[tuple[Value, ...], Form]] = []
        others = 1
        for part, domains in by_part.items():
            if part in free:
                number = _stages_by_layer(space, base, int(part[1:]), domains, shared)
                if number is None:
                    return None
                others *= number
                parts.append({(): None})
                continue
            forms = {}
            for own in _every(domains):
                choose = _chooser({**shared, **own})
                if part in ("stem", "head"):
                    form: Form = getattr(decode(space, choose).resolved(), part)
                else:
                    form = base.resolved_stage(decode_stage(space, int(part[1:]), choose, activation))
                forms[tuple(own.values())] = form
            parts.append(forms)
        resolved = base.resolved()
        scalars = resolved.resolution, resolved.dropout, resolved.drop_path
        products[tuple(shared.values())] = _Product(scalars, tuple(parts), others)
    return products


def _combinations(domains: Mapping[str, Domain]) -> int:
    return math.prod(len(domain.values) for domain in domains.values())


def _counted_by_layer(space: SearchSpace, by_part: Mapping[str, Mapping[str, Domain]], times: int) -> set[str]:
    """Return the stages that are counted one layer at a time: where all is too much, those whose layers are independent."""
    wishes = any(layer.skip.values != ("",) for _, layer in space.layers())
    if wishes or space.depth_mult.values != (1.0,) or times * sum(map(_combinations, by_part.values())) <= _ENUMERABLE:
        return set()
    return {f"s{number}" for number, stage in enumerate(space.stages, 1) if stage.per_layer}


def _stages_by_layer(
    space: SearchSpace, base: ArchSpec, number: int, domains: Mapping[str, Domain], shared: Mapping[str, Value]
) -> int | None:
    """Count the distinct forms of a stage whose layers are chosen one by one: lists of layers, a union of products."""
    of_layer = {name: domain for name, domain in domains.items() if name.count(".") == 2}
    of_stage = {name: domain for name, domain in domains.items() if name not in of_layer}
    activation = str(shared.get("activation", space.activation.values[0]))
    most = int(max(float(value) for value in space.stages[number - 1].layers[0].num_layers.values))
    boxes = set()
    for own in _every(of_stage):

        def layers(values: Mapping[str, Value], own: Mapping[str, Value] = own) -> list[LayerSpec]:
            choose = _chooser({**shared, **own, **values})
            return single_layers(base.resolved_stage(decode_stage(space, number, choose, activation)))

        box: list[frozenset[Form]] = []
        for index in range(most):
            mine = {name: domain for name, domain in of_layer.items() if name.startswith(f"s{number}.l{index + 1}.")}
            if index >= len(layers({})):
                box.append(frozenset({None}))
            elif _combinations(mine) > 1000:
                return None
            else:
                box.append(frozenset(layers(values)[index] for values in _every(mine)))
        boxes.add(tuple(box))
    return union_size(list(boxes))


def _chooser(chosen: Mapping[str, Value]) -> Choose:
    """Return a chooser that answers what is given, and the first value of everything else."""

    def choose(name: str, domain: Domain) -> Value:
        return chosen.get(name, domain.values[0])

    return choose


def _every(domains: Mapping[str, Domain]) -> Iterator[dict[str, Value]]:
    for values in itertools.product(*(domain.values for domain in domains.values())):
        yield dict(zip(domains, values, strict=True))


def _useless(space: SearchSpace) -> Iterator[str]:
    """Yield the choices that no block of their place reads, and those whose values all give the same network."""
    for place, layer in space.layers():
        blocks = ", ".join(map(str, layer.block.values))
        for key, domain in layer.unread.items():
            if not domain.fixed:
                yield f"{place}.{key}: {blocks} does not read it"
    products = _products(space)
    if products is None:
        return
    by_part = _by_part(space)
    for_all = by_part.pop("")
    tables: list[tuple[list[str], list[Mapping[tuple[Value, ...], object]]]] = [(list(for_all), [products])]
    counted = _counted_by_layer(space, by_part, _combinations(for_all))
    for index, (part, domains) in enumerate(by_part.items()):
        if part in counted:
            continue
        tables.append((list(domains), [product.parts[index] for product in products.values()]))
    for names, outcomes in tables:
        for index, name in enumerate(names):
            if all(_without_effect(index, table) for table in outcomes):
                yield f"{name}: every value gives the same network"


def _without_effect(index: int, table: Mapping[tuple[Value, ...], object]) -> bool:
    """Tell whether the outcomes of a table depend on all values but the one at an index."""
    seen: dict[tuple[Value, ...], object] = {}
    for values, outcome in table.items():
        others = values[:index] + values[index + 1 :]
        if seen.setdefault(others, outcome) != outcome:
            return False
    return True


def _warnings(space: SearchSpace, report: SpaceReport, drawn: list[ArchSpec]) -> Iterator[str]:
    smallest = min(list(places(spec))[-1].out_size for spec in drawn[:50])
    if smallest < 2:
        yield (
            f"the last stage sees {smallest}x{smallest} pixels: at this size its kernels look at padding. Raise the "
            "resolution or lower a stride."
        )
    allowed = 1 - (report.forbidden + report.infeasible) / report.sampled
    if allowed < 0.05:
        yield f"only {allowed:.1%} of random networks meet the rules and limits: the search will mostly refuse."
    if report.size is not None and report.size < 50:
        yield f"only {report.size} distinct networks: train them all instead of searching."
    if space.baseline is None:
        yield "no `baseline`: step times will be relative to the middle of the space."


def _spread(values: list[float]) -> tuple[float, float, float]:
    ordered = sorted(values)
    return ordered[0], ordered[len(ordered) // 2], ordered[-1]
