"""Counts of very many networks of one space: what stages have in common is counted once.

A sampler compares thousands of networks before it suggests one. Those differ in few stages, so that here a stage is decoded and
counted once for all networks that have it, behind the same channels and pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from nas.blocks import BLOCKS, Count
from nas.models import placed
from nas.space import Read, SearchSpace, choices, decode, decode_stage, stored_choose
from nas.spec import ArchSpec, LayerSpec, Value, settled, single_layers

REMEMBERED = 50_000
"""Different stages that are kept, and different networks around them."""

Counted = tuple[Count, int, int]
"""Counts of a part, and the channels and pixels of its output."""


def counter(
    space: SearchSpace, *, num_classes: int, in_channels: int, read: Read = lambda values: values
) -> Callable[[Mapping[str, Value]], Count]:
    """Return a function that counts the network of given choices: what `count(decode(...))` does, many times faster.

    Args:
        read: What the function is given, `read` turns into values; only where it has not seen a part of the network yet.
    """
    domains = choices(space)
    own = [tuple(name for name in domains if name.startswith(f"s{n}.")) for n, _ in enumerate(space.stages, 1)]
    shared = tuple(name for name in domains if not any(name in part for part in own))
    first = {name: domain.values[0] for name, domain in domains.items()}
    frames: dict[tuple[Value, ...], tuple[ArchSpec, ArchSpec, str, Counted]] = {}
    stages: dict[tuple[object, ...], Counted] = {}

    def frame(given: Mapping[str, Value]) -> tuple[ArchSpec, ArchSpec, str, Counted]:
        """Return a network with these choices outside its stages, the same resolved, its activation, and its stem counted."""
        values = read(given)
        found = first | {name: values[name] for name in shared}
        spec = decode(space, stored_choose(found), num_classes=num_classes, in_channels=in_channels)
        whole = spec.resolved()
        place = placed("stem", whole.stem, whole.in_channels, whole.resolution, whole.stem_pool)
        stem = BLOCKS[place.layer.block].count(place.args, place.size), place.args.out_channels, place.out_size
        return spec, whole, str(found.get("activation", space.activation.values[0])), stem

    def counts(given: Mapping[str, Value]) -> Count:
        around = tuple(given[name] for name in shared)
        if around not in frames:
            if len(frames) >= REMEMBERED:
                frames.clear()
            frames[around] = frame(given)
        spec, whole, activation, (counted, channels, size) = frames[around]
        params, macs = counted.params, counted.macs
        for number, part in enumerate(own, 1):
            mark = (number, channels, size, around, *[given[name] for name in part])
            if mark not in stages:
                if len(stages) >= REMEMBERED:
                    stages.clear()
                stage = spec.resolved_stage(decode_stage(space, number, stored_choose(read(given)), activation))
                stages[mark] = _through(single_layers(settled(stage, channels)), channels, size)
            counted, channels, size = stages[mark]
            params, macs = params + counted.params, macs + counted.macs
        if whole.head is not None:
            mark = ("head", channels, size, around)
            if mark not in stages:
                stages[mark] = _through([whole.head], channels, 1 if whole.pool_first else size)
            counted, channels, size = stages[mark]
            params, macs = params + counted.params, macs + counted.macs
        return Count(params + channels * num_classes + num_classes, macs + channels * num_classes)

    return counts


def _through(layers: Iterable[LayerSpec], channels: int, size: int) -> Counted:
    total = Count(0, 0)
    for layer in layers:
        place = placed("", layer, channels, size)
        total += BLOCKS[layer.block].count(place.args, size)
        channels, size = place.args.out_channels, place.out_size
    return total, channels, size
