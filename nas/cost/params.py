"""`num_params`: trainable parameters, counted from the formulas of the blocks."""

from __future__ import annotations

from nas.cost._base import COSTS, Cost, Measurement
from nas.cost._count import count
from nas.spec import ArchSpec


def num_params(spec: ArchSpec) -> Measurement:
    """Return the trainable parameters of a network."""
    return Measurement(count(spec).params, "parameters", 0.0, 1, "formula")


COSTS.register("num_params", Cost("parameters", of_spec=num_params))
