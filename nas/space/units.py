"""Quantities with units, as people write them: `24M` parameters, `9G` multiply-adds, `12ms`, `2GiB`."""

from __future__ import annotations

import math
import re

COST_UNITS: dict[str, dict[str, float]] = {
    "num_params": {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9},
    "macs": {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12},
    "step_time_ms": {"ms": 1.0, "us": 1e-3, "s": 1e3},
    "latency_ms": {"ms": 1.0, "us": 1e-3, "s": 1e3},
    "peak_memory_mib": {"mib": 1.0, "gib": 1024.0, "mb": 1e6 / 2**20, "gb": 1e9 / 2**20},
}
"""The costs a limit can name, and the factor of each unit. A time or a memory without a unit is refused."""


def parse_quantity(text: str | int | float, cost: str) -> float:
    """Return a quantity in the unit of its cost's name.

    Raises:
        ValueError: not a positive number with a unit of this cost.
    """
    units = COST_UNITS[cost]
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)\s*", str(text))
    examples = {
        "num_params": "5M",
        "macs": "600M",
        "step_time_ms": "12ms",
        "latency_ms": "5ms",
        "peak_memory_mib": "2GiB",
    }
    if match is None or match[2].lower() not in units or not 0 < float(match[1]) < math.inf:
        allowed = ", ".join(unit or "none" for unit in units)
        raise ValueError(
            f"found {text!r}; allowed: a positive number with a unit ({allowed}), such as {examples[cost]}"
        )
    return float(match[1]) * units[match[2].lower()]


def format_count(number: float) -> str:
    """Write a count for people: 5288548 is `5.29M`."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if abs(number) >= 0.9995 * size:  # 999,600 is 1M to three digits
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"
