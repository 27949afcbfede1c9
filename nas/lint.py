"""What a space holds, before a second of training is spent."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from nas.cost import count
from nas.models import places
from nas.objective import slacks
from nas.space import Domain, SearchSpace, choices, decode, forbidden, random_choose
from nas.space.decode import SHAPING, Choose, decode_stage
from nas.spec import ArchSpec, LayerSpec, StageSpec, Value, settled, single_layers

_ENUMERABLE = 50_000
"""Forms of all parts together that are enumerated (a few seconds)."""


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


Letter = LayerSpec | StageSpec | None
"""What stands at one place of a resolved network: stem or head, a stage (whole, or one of its blocks), or nothing."""

Box = tuple[frozenset[Letter], ...]
"""What may stand at each place of a part, whatever stands at the others."""

Scalars = tuple[int, float, float]
"""Resolution, dropout and drop path of a resolved network."""

Follow = Callable[[Letter, int], tuple[Letter, int]]
"""What a letter really is after the channels before it, and the channels it hands on."""


def distinct(space: SearchSpace) -> int | None:
    """Count the distinct networks of a space: after masking, rounding and merging, before rules and limits.

    Once the choices that act on all parts (multipliers, activation, resolution) are made, the parts are chosen
    independently, and so are the layers of a stage with `per_layer`: the networks are a product of the distinct forms of
    each. Two such products can share networks (a multiplier that rounding swallows), so the size of their union is
    counted. None where there are too many forms to enumerate.
    """
    products = _products(space)
    if products is None:
        return None
    by_scalars: dict[Scalars, set[tuple[frozenset[Box], ...]]] = {}
    for product in products.values():
        by_scalars.setdefault(product.scalars, set()).add(tuple(part.boxes for part in product.parts))
    sizes: dict[frozenset[tuple[frozenset[Box], ...]], int | None] = {}
    for group in map(frozenset, by_scalars.values()):
        if group not in sizes:
            sizes[group] = union_size([[list(boxes) for boxes in product] for product in group], _following)
    found = [sizes[frozenset(group)] for group in by_scalars.values()]
    return None if None in found else sum(size for size in found if size is not None)


def _following(letter: Letter, channels: int) -> tuple[Letter, int]:
    """Settle a stage: whether it can have its skip connection depends on the channels of the part before."""
    if letter is None:
        return None, channels
    return (settled(letter, channels) if isinstance(letter, StageSpec) else letter), _handed_on(letter)


def _handed_on(letter: StageSpec | LayerSpec) -> int:
    return letter.layers[-1].out_channels if isinstance(letter, StageSpec) else letter.out_channels


def union_size(
    products: Sequence[Sequence[Sequence[Box]]], follow: Follow = lambda letter, channels: (letter, 0)
) -> int | None:
    """Return how many words lie in at least one product, or None where that takes too long.

    A product has parts; a part is a union of boxes; a box has a set of letters for each place. Letter by letter, words
    are grouped by the boxes that still hold them, and each group goes on with those; at the end of a part all boxes of
    the next one are open to the products that are left.
    """
    known: dict[tuple[int, int, frozenset[tuple[int, int]], int], int] = {}

    def start(part: int, inside: frozenset[int], channels: int) -> int:
        if part == len(products[0]):
            return 1
        boxes = frozenset((product, box) for product in inside for box in range(len(products[product][part])))
        return words(part, 0, boxes, channels)

    def words(part: int, place: int, inside: frozenset[tuple[int, int]], channels: int) -> int:
        if not inside:
            return 0
        product, box = next(iter(inside))
        if place == len(products[product][part][box]):
            return start(part + 1, frozenset(product for product, _ in inside), channels)
        key = part, place, inside, channels
        if key not in known:
            if len(known) > _ENUMERABLE:
                raise OverflowError
            holders: dict[tuple[Letter, int], set[tuple[int, int]]] = {}
            for product, box in inside:
                for letter in products[product][part][box][place]:
                    holders.setdefault(follow(letter, channels), set()).add((product, box))
            groups = Counter((frozenset(held), after) for (_, after), held in holders.items())
            known[key] = sum(size * words(part, place + 1, group, after) for (group, after), size in groups.items())
        return known[key]

    try:
        return start(0, frozenset(range(len(products))), 0)
    except OverflowError:
        return None


@dataclass(frozen=True)
class _Part:
    """One part of a network (stem, stage, head) and what its choices make of it, those for all parts being made.

    Args:
        shared: The names of its choices that hold for all its places.
        own: For each place the names of its own choices. A stage has one place, or one for each layer with `per_layer`.
        table: The letter at each place by the values of the shared choices and of those of a place.
        lengths: How many places it may have.
    """

    shared: tuple[str, ...]
    own: tuple[tuple[str, ...], ...]
    table: Mapping[tuple[Value, ...], tuple[Letter, ...]]
    lengths: tuple[int, ...] = (1,)

    @cached_property
    def boxes(self) -> frozenset[Box]:
        """What it can be: a box for each length and each combination of the shared choices."""
        rows: dict[tuple[Value, ...], list[tuple[Letter, ...]]] = {}
        for values, letters in self.table.items():
            rows.setdefault(values[: len(self.shared)], []).append(letters)
        nothing: Box = (frozenset({None}),)
        return frozenset(
            tuple(map(frozenset, list(zip(*found, strict=True))[:length])) + nothing * (len(self.own) - length)
            for found in rows.values()
            for length in self.lengths
        )

    @cached_property
    def handed_on(self) -> frozenset[int]:
        """The numbers of channels that its letters hand on."""
        return frozenset(_handed_on(letter) for row in self.table.values() for letter in row if letter is not None)

    def useless(self, before: frozenset[int]) -> Iterator[str]:
        """Yield the choices whose values all give the same, whichever of some numbers of channels come in."""
        outcomes = {
            values: [
                [_following(letter, channels)[0] for channels in (self.handed_on if place else before)]
                for place, letter in enumerate(letters)
            ]
            for values, letters in self.table.items()
        }
        for index, name in enumerate(self.shared):
            if _without_effect(index, outcomes):
                yield name
        for place, names in enumerate(self.own):
            of_place = {values: found[place] for values, found in outcomes.items()}
            for index, name in enumerate(names, len(self.shared)):
                if _without_effect(index, of_place):
                    yield name


@dataclass(frozen=True)
class _Product:
    """The networks that are left once the choices that act on all parts are made."""

    scalars: Scalars
    parts: tuple[_Part, ...]


def _by_part(space: SearchSpace) -> dict[str, dict[str, Domain]]:
    """Return the open choices by the part they act on (`stem`, `s1`, ..., `head`); "" holds those that act on all."""
    parts = ["", "stem", *(f"s{number}" for number in range(1, len(space.stages) + 1)), "head"]
    found: dict[str, dict[str, Domain]] = {part: {} for part in parts}
    for name, domain in choices(space).items():
        found[name.partition(".")[0] if "." in name else ""][name] = domain
    return found


def _products(space: SearchSpace) -> dict[tuple[Value, ...], _Product] | None:
    """Return the product of parts for every choice of values that act on all parts, or None where that is too much."""
    by_part = _by_part(space)
    for_all = by_part.pop("")
    forms = sum(_num_forms(space, part, domains) for part, domains in by_part.items())
    shaping = {name: domain for name, domain in for_all.items() if name in SHAPING}
    if _combinations(for_all) + _combinations(shaping) * forms > _ENUMERABLE:
        return None
    made: dict[tuple[Value | None, ...], tuple[_Part, ...]] = {}
    products = {}
    for shared in _every(for_all):
        base = decode(space, _chooser(shared))
        shape = tuple(shared.get(name) for name in SHAPING)
        if shape not in made:
            made[shape] = tuple(_part(space, base, part, domains, shared) for part, domains in by_part.items())
        resolved = base.resolved()
        scalars = resolved.resolution, resolved.dropout, resolved.drop_path
        products[tuple(shared.values())] = _Product(scalars, made[shape])
    return products


def _part(
    space: SearchSpace, base: ArchSpec, part: str, domains: Mapping[str, Domain], shared: Mapping[str, Value]
) -> _Part:
    table: dict[tuple[Value, ...], tuple[Letter, ...]] = {}
    if part in ("stem", "head"):
        for own in _every(domains):
            letter: Letter = getattr(decode(space, _chooser({**shared, **own})).resolved(), part)
            table[tuple(own.values())] = (letter,)
        return _Part((), (tuple(domains),), table)

    def made(values: Mapping[str, Value]) -> StageSpec:
        activation = str(shared.get("activation", space.activation.values[0]))
        choose = _chooser({**shared, **values})
        return base.resolved_stage(decode_stage(space, int(part[1:]), choose, activation))

    if not _by_layer(space, part):
        for own in _every(domains):
            table[tuple(own.values())] = (made(own),)
        return _Part((), (tuple(domains),), table)
    lengths = tuple(int(value) for value in space.stages[int(part[1:]) - 1].layers[0].num_layers.values)
    of_stage, of_layer = _stage_choices(part, domains)
    names = [tuple(name for name in of_layer if name.startswith(f"{part}.l{i}.")) for i in range(1, max(lengths) + 1)]
    for common in _every(of_stage):
        # All layers have the same options: each combination is given to all of them at once.
        for values in itertools.product(*(of_layer[name].values for name in names[0])):
            chosen = {name: value for place in names for name, value in zip(place, values, strict=True)}
            stage = made({**common, **chosen, f"{part}.num_layers": max(lengths)})
            table[(*common.values(), *values)] = tuple(StageSpec((layer,)) for layer in single_layers(stage))
    return _Part(tuple(of_stage), tuple(names), table, lengths)


def _by_layer(space: SearchSpace, part: str) -> bool:
    """Tell whether the layers of a part are chosen one by one. A multiplier on depth mixes them: it scales runs of them."""
    return part[1:].isdigit() and bool(space.stages[int(part[1:]) - 1].per_layer) and space.depth_mult.values == (1.0,)


def _stage_choices(part: str, domains: Mapping[str, Domain]) -> tuple[dict[str, Domain], dict[str, Domain]]:
    """Return the choices of a stage with `per_layer` that hold for all its layers, their number apart, and those of each."""
    of_layer = {name: domain for name, domain in domains.items() if name.count(".") == 2}
    return {n: d for n, d in domains.items() if n not in of_layer and n != f"{part}.num_layers"}, of_layer


def _num_forms(space: SearchSpace, part: str, domains: Mapping[str, Domain]) -> int:
    """Return how many forms of a part must be made to know them all."""
    if not _by_layer(space, part):
        return _combinations(domains)
    of_stage, of_layer = _stage_choices(part, domains)
    return _combinations(of_stage) * _combinations({n: d for n, d in of_layer.items() if n.startswith(f"{part}.l1.")})


def _combinations(domains: Mapping[str, Domain]) -> int:
    return math.prod(len(domain.values) for domain in domains.values())


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
        for key in layer.unread:
            yield f"{place}.{key}: {blocks} does not read it"
    products = _products(space)
    if products is None:
        return
    for_all = _by_part(space)[""]
    found = [name for index, name in enumerate(for_all) if _without_effect(index, products)]
    # What is without effect under every choice that acts on all parts.
    idle: list[list[str]] = []
    for parts in {id(product.parts): product.parts for product in products.values()}.values():
        before, names = frozenset({0}), list[str]()
        for part in parts:
            names += part.useless(before)
            before = part.handed_on
        idle.append(names)
    found += [name for name in idle[0] if all(name in names for names in idle)]
    for name in found:
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
    # The head is left out: one that the image is pooled before sees a single pixel by intent.
    smallest = min([place.out_size for place in places(spec) if place.part != "head"][-1] for spec in drawn[:50])
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
