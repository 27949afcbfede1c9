"""Exact counts from the formulas of the blocks: microseconds, no network built."""

from __future__ import annotations

from dataclasses import dataclass

from nas.blocks import BLOCKS, Count
from nas.models import places
from nas.spec import ArchSpec


@dataclass(frozen=True)
class Row:
    """The counts of one part of a network. `out_size` is the height and width of its output, in pixels."""

    part: str
    out_channels: int
    out_size: int
    count: Count


def table(spec: ArchSpec) -> tuple[Row, ...]:
    """Return the counts of stem, stages, head and classifier.

    MACs are those of convolutions and linear layers, squeeze-excitation included; norms, biases, activations and
    pooling are not counted. Papers' "FLOPs" are these MACs.
    """
    rows: dict[str, Row] = {}
    size, width = spec.resolution, spec.in_channels
    for place in places(spec):
        before = rows[place.part].count if place.part in rows else Count(0, 0)
        count = before + BLOCKS[place.layer.block].count(place.args, place.size)
        size, width = place.out_size, place.args.out_channels
        rows[place.part] = Row(place.part, width, size, count)
    classes = spec.num_classes
    rows["classifier"] = Row("classifier", classes, 1, Count(width * classes + classes, width * classes))
    return tuple(rows.values())


def count(spec: ArchSpec) -> Count:
    """Return trainable parameters and multiply-adds (per image) of a network at its own resolution."""
    total = Count(0, 0)
    for row in table(spec):
        total += row.count
    return total
