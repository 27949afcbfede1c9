"""What a scaling finds, and who may watch it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas.data import Dataset
from nas.runs import Run
from nas.scale.compound import Coefficients
from nas.scale.fit import Decision, Seen
from nas.scale.grid import Choice, Grid, Level
from nas.search.watcher import Watcher as SearchWatcher
from nas.spec import ArchSpec


@dataclass(frozen=True)
class Member:
    """A network of the family.

    Args:
        predicted: Multiples of the base's in theory: `num_params`, `macs`, `step_time_ms`, `peak_memory_mib`.
        built: The same, counted or measured; what could not be measured is absent.
        measured: Raw values of the timing; its `outcome` is `ok`, or why there is none.
    """

    phi: float
    spec: ArchSpec
    file: Path
    num_params: float
    macs: float
    predicted: Mapping[str, float]
    built: Mapping[str, float]
    measured: Mapping[str, Any]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Trained:
    """A network of the grid, or the base, and what its trainings showed."""

    level: Level
    kind: str
    spec: ArchSpec
    coefficients: Coefficients
    macs: float
    params: float
    seen: Seen


@dataclass(frozen=True)
class ScaleResult:
    """What a scaling found.

    Args:
        run: Its folder. base: The network that is scaled. coefficients: The choice. decision: How it came about; None where the
            coefficients were given. trained: The base first, then the networks of the grid.
        deviation: Of an accuracy over seeds, pooled.
        grid, choice: What the grid holds and which of it was trained; None likewise.
        ratios: Costs of points in the metric of the constraint, as multiples of the base's; only of those that are known.
        failed: Networks that could not be trained, with the reason. members: The family, by phi. warnings: What to know.
    """

    run: Run
    base: ArchSpec
    coefficients: Coefficients
    members: tuple[Member, ...]
    warnings: tuple[str, ...]
    decision: Decision | None = None
    deviation: float = 0.0
    trained: tuple[Trained, ...] = ()
    grid: Grid | None = None
    choice: Choice | None = None
    ratios: Mapping[Level, float] = field(default_factory=dict)
    failed: tuple[tuple[str, str], ...] = ()


class Watcher(SearchWatcher):
    """Whoever wants to see a scaling go on overrides what interests them, besides what a search shows."""

    def began(self, run: Run, base: ArchSpec, data: Dataset, notes: Sequence[str]) -> None:
        """The scaling begins."""

    def planned(self, found: Grid, choice: Choice, ratios: Mapping[Level, float], minutes: float) -> None:
        """The networks to be trained are known."""

    def timing(self, what: str) -> None:
        """A network is timed."""

    def training(self, label: str, seed: int, phase: int, done: int, total: int) -> None:
        """A phase of a training begins."""

    def trained(self, label: str, seed: int, values: Mapping[str, Any]) -> None:
        """A training has ended."""
