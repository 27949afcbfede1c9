"""The way back: which choices of a space make a given architecture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import product

from nas.errors import SpaceError
from nas.space.decode import SHAPING, choices, decode, decode_stage, stored_choose
from nas.space.model import Domain, SearchSpace
from nas.spec import ArchSpec, LayerSpec, StageSpec, Value, settled, settled_layers

Choices = dict[str, Value]

MOST = 200_000
"""Combinations tried for one stage before it is given up as too free to be searched in this way."""


def encode(space: SearchSpace, spec: ArchSpec) -> Choices:
    """Return a value for each open choice of a space such that `decode` makes an architecture (its number of classes and
    channels apart). Of several ways, the first.

    Raises:
        SpaceError: the space does not hold the architecture; the first part that does not fit is named.
    """
    domains = choices(space)
    first = {name: domain.values[0] for name, domain in domains.items()}
    target = spec.resolved()
    where, fitted = "", -1
    nearest: ArchSpec | None = None
    top = {name: domain for name, domain in domains.items() if "." not in name}
    numbers = {name: domain for name, domain in top.items() if name not in SHAPING}
    for shape in _combinations({name: domain for name, domain in top.items() if name in SHAPING}):
        found = first | shape
        for step, (part, solve) in enumerate(_parts(space, domains, target), 1):
            solution = solve(found)
            if solution is None:
                if step > fitted:
                    where, fitted = part, step
                break
            found |= solution
        else:  # all layers fit: it takes the resolution and the rates besides
            for own in _combinations(numbers):
                made = _decoded(space, found | own, spec)
                if made.arch_hash == spec.arch_hash:
                    return found | own
                nearest = nearest or made.resolved()
    what = f"{where} does not fit; found {_shown(target, where)}"
    if nearest is not None:  # all layers fit
        what = "; ".join(
            f"{key}: the network has {getattr(target, key)}, the space makes {getattr(nearest, key)}"
            for key in ("resolution", "dropout", "drop_path", "norm_eps", "norm_momentum", "stem_pool", "pool_first")
            if getattr(target, key) != getattr(nearest, key)
        )
    raise SpaceError(
        [
            f"{spec.name or spec.arch_hash}: is not in the space {space.name}: {what}. Widen the space there, or give another "
            "network."
        ]
    )


Solve = Callable[[Choices], Choices | None]


def _parts(space: SearchSpace, domains: Mapping[str, Domain], target: ArchSpec) -> Iterator[tuple[str, Solve]]:
    """Yield each part of a network with a function that finds its choices, given those of the top level."""

    def end(part: str) -> Solve:
        own = {name: domain for name, domain in domains.items() if name.startswith(f"{part}.")}

        def solve(found: Choices) -> Choices | None:
            for combination in _combinations(own):
                spec = _decoded(space, found | combination, target).resolved()
                if getattr(spec, part) == getattr(target, part):
                    return combination
            return None

        return solve

    def count(found: Choices) -> Choices | None:
        return {} if len(space.stages) == len(target.stages) else None

    yield f"the number of stages ({len(space.stages)})", count
    yield "stem", end("stem")
    for number, stage in enumerate(target.stages, 1):
        yield (
            f"stage s{number}",
            lambda found, number=number, stage=stage: _stage(  # type: ignore[misc]
                space, domains, number, stage, found, target
            ),
        )
    yield "head", end("head")


def _stage(
    space: SearchSpace,
    domains: Mapping[str, Domain],
    number: int,
    wanted: StageSpec,
    found: Choices,
    target: ArchSpec,
) -> Choices | None:
    """Return the choices of a stage, or None."""
    prefix = f"s{number}."
    own = {name: domain for name, domain in domains.items() if name.startswith(prefix)}
    of_layer = {
        name: domain for name, domain in own.items() if space.stages[number - 1].per_layer and name.count(".") == 2
    }
    whole = _decoded(space, found, target)
    before = target.stem.out_channels if number == 1 else target.stages[number - 2].layers[-1].out_channels
    blocks = settled_layers(wanted, before)

    def made(values: Choices) -> StageSpec:
        choose = stored_choose(found | values)
        activation = str(found.get("activation", space.activation.values[0]))
        return whole.resolved_stage(decode_stage(space, number, choose, activation))

    for shared in _combinations({name: domain for name, domain in own.items() if name not in of_layer}):
        values = shared | {name: domain.values[0] for name, domain in of_layer.items()}
        if of_layer and whole.depth_mult == 1 and made(values).num_layers != wanted.num_layers:
            continue  # each layer is tried by itself below, but none could help
        for index, block in enumerate(blocks, 1):
            mine = {name: domain for name, domain in of_layer.items() if name.startswith(f"{prefix}l{index}.")}
            if not mine:
                continue
            fits = (
                choice
                for choice in _combinations(mine)
                if settled_layers(made(values | choice), before)[index - 1 : index] == [block]
            )
            choice = next(fits, None)
            if choice is None and whole.depth_mult == 1:
                break  # a multiplier on depth moves layers: only without one does this settle the matter
            values |= choice or {}
        if settled(made(values), before) == wanted:
            return values
    return None


def _combinations(domains: Mapping[str, Domain]) -> Iterator[Choices]:
    if math.prod(len(domain.values) for domain in domains.values()) > MOST:
        raise SpaceError(
            [f"{next(iter(domains))}: one of more than {MOST} combinations, too many to be searched for a network."]
        )
    for values in product(*(domain.values for domain in domains.values())):
        yield dict(zip(domains, values, strict=True))


def _decoded(space: SearchSpace, found: Choices, spec: ArchSpec) -> ArchSpec:
    return decode(space, stored_choose(found), num_classes=spec.num_classes, in_channels=spec.in_channels)


def _shown(target: ArchSpec, where: str) -> str:
    if where.startswith("stage s"):
        stage = target.stages[int(where.removeprefix("stage s")) - 1]
        return str([layer.document() for layer in stage.layers])
    if where in ("stem", "head"):
        part: LayerSpec | None = getattr(target, where)
        return "none" if part is None else str(part.document())
    return str(len(target.stages))
