"""Counts of very many networks of one space: what stages have in common is counted once.

A sampler compares thousands of networks before it suggests one. Those differ in few stages, so that here a stage is decoded and
counted once for all networks that have it, behind the same channels and pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

from nas.blocks import BLOCKS, Count
from nas.models import placed
from nas.space import SearchSpace, choices, decode, decode_stage, stored_choose
from nas.spec import ArchSpec, LayerSpec, Value, settled, single_layers

REMEMBERED = 50_000
"""Different stages that are kept."""

Counted = tuple[Count, int, int]
"""Counts of a part, and the channels and pixels of its output."""


def counter(
    space: SearchSpace, *, num_classes: int, in_channels: int
) -> Callable[[Mapping[str, Value]], Count]:
    """Return a function that counts the network of given choices: what `count(decode(...))` does, many times faster."""
    names = tuple(choices(space))
    own = [tuple(name for name in names if name.startswith(f"s{n}.")) for n, _ in enumerate(space.stages, 1)]
    shared = tuple(name for name in names if not any(name in part for part in own))
    first = {name: domain.values[0] for name, domain in choices(space).items()}

    @lru_cache(REMEMBERED)
    def frame(values: tuple[Value, ...]) -> tuple[ArchSpec, ArchSpec, str]:
        """Return a network with these choices outside its stages, the same resolved, and its activation."""
        found = first | dict(zip(shared, values, strict=True))
        spec = decode(space, stored_choose(found), num_classes=num_classes, in_channels=in_channels)
        return spec, spec.resolved(), str(found.get("activation", space.activation.values[0]))

    @lru_cache(REMEMBERED)
    def counted(
        number: int, values: tuple[Value, ...], around: tuple[Value, ...], channels: int, size: int
    ) -> Counted:
        spec, _, activation = frame(around)
        found = dict(zip(own[number - 1], values, strict=True)) | dict(zip(shared, around, strict=True))
        stage = spec.resolved_stage(decode_stage(space, number, stored_choose(found), activation))
        return _through(single_layers(settled(stage, channels)), channels, size)

    def counts(values: Mapping[str, Value]) -> Count:
        around = tuple(values[name] for name in shared)
        _, spec, _ = frame(around)
        place = placed("stem", spec.stem, spec.in_channels, spec.resolution, spec.stem_pool)
        total = BLOCKS[place.layer.block].count(place.args, place.size)
        channels, size = place.args.out_channels, place.out_size
        for number, part in enumerate(own, 1):
            more, channels, size = counted(number, tuple(values[name] for name in part), around, channels, size)
            total += more
        if spec.head is not None:
            more, channels, size = _through([spec.head], channels, 1 if spec.pool_first else size)
            total += more
        return total + Count(channels * num_classes + num_classes, channels * num_classes)

    return counts


def _through(layers: Iterable[LayerSpec], channels: int, size: int) -> Counted:
    total = Count(0, 0)
    for layer in layers:
        place = placed("", layer, channels, size)
        total += BLOCKS[layer.block].count(place.args, size)
        channels, size = place.args.out_channels, place.out_size
    return total, channels, size
