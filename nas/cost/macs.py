"""`macs`: multiply-adds of one image through the network, counted from the formulas of the blocks."""

from __future__ import annotations

from nas.cost._base import COSTS, Cost, Measurement
from nas.cost._count import count
from nas.spec import ArchSpec


def macs(spec: ArchSpec) -> Measurement:
    """Return the multiply-adds of a network at its own resolution."""
    return Measurement(count(spec).macs, "multiply-adds", 0.0, 1, "formula")


COSTS.register("macs", Cost("multiply-adds", of_spec=macs))
