"""What a cost is, what a measurement carries, and the registry that the files of this folder fill."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from nas.cost._conditions import Conditions
from nas.errors import MeasurementError
from nas.registry import Registry
from nas.spec import ArchSpec


@dataclass(frozen=True)
class Measurement:
    """A number that was measured or counted here, and how well.

    Args:
        value: In the unit of the cost. spread: Median absolute deviation of the samples, in the same unit.
        n: Samples behind the value (1 for a count). device: Where it was measured.
        conditions: What was seen on the machine meanwhile; None of what is counted, and of what was stored without.

    Raises:
        MeasurementError: a value that is not positive and finite: a cost is measured, or the program refuses.
    """

    value: float
    unit: str
    spread: float
    n: int
    device: str
    conditions: Conditions | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value > 0 and math.isfinite(self.spread)):
            raise MeasurementError(
                f"measured {self.value} {self.unit} on {self.device}; a cost is positive and finite."
            )


def from_document(data: Mapping[str, Any]) -> Measurement:
    """Return the measurement that `dataclasses.asdict` made plain data of."""
    seen = data.get("conditions")
    return Measurement(**{**data, "conditions": None if seen is None else Conditions(**seen)})


Step = Callable[[], object]
"""One training step on a real batch: forward, backward, optimiser."""


@dataclass(frozen=True)
class Cost:
    """One cost: its unit, and how it is had from a spec or from a training step (exactly one of the two).

    `of_step` returns None where the device cannot tell, and then the reason is in `absent`.
    """

    unit: str
    of_spec: Callable[[ArchSpec], Measurement] | None = None
    of_step: Callable[[Step, torch.device], Measurement | None] | None = None
    absent: str = ""


COSTS: Registry[Cost] = Registry("cost")
