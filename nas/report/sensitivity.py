"""Whether another network would have won with other exponents of the reward, from stored values."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from nas.objective import Reward
from nas.report.ranking import rerank
from nas.report.read import RunView

FACTORS = (0.0, 0.5, 1.0, 2.0)
"""What both exponents are multiplied by: what the reward would be without them, with half, and with twice their weight."""


@dataclass(frozen=True)
class Cell:
    """What comes first with one pair of exponents.

    Args:
        gap: How far the named network's reward is below the first's. error: The standard error of that by both accuracies.
    """

    reward: Reward
    first: str
    gap: float
    error: float

    @property
    def within(self) -> bool:
        """Whether the named network is not known to be worse than the first."""
        return self.gap < 2 * self.error or self.gap == 0


@dataclass(frozen=True)
class Sensitivity:
    """Which networks come first with other exponents.

    Args:
        named: Hash of the network that is held against them: the run's winner, or the first in the search.
        cells: One for each pair of exponents, by w and then v.
    """

    named: str
    cells: tuple[Cell, ...]

    @property
    def firsts(self) -> int:
        """How many different networks come first."""
        return len({cell.first for cell in self.cells})

    @property
    def within(self) -> int:
        """With how many pairs the named network is first, or not known to be worse."""
        return sum(cell.within for cell in self.cells)


def sensitivity(view: RunView) -> Sensitivity | None:
    """Return what comes first with each exponent at 0, half, the same and double; None of fewer than two networks.

    Raises:
        RunError: no network was trained to the end.
    """
    own = view.reward
    order = rerank(view).table
    if len(order) < 2 or not (own.w or own.v):
        return None
    named = str(view.finalists[0]["record"]["arch_hash"]) if view.finalists else str(order["arch_hash"].iloc[0])
    cells = []
    for w in dict.fromkeys(own.w * factor for factor in FACTORS):
        for v in dict.fromkeys(own.v * factor for factor in FACTORS):
            reward = replace(own, w=w + 0.0, v=v + 0.0)  # + 0.0: no minus before a zero
            table = rerank(view, reward).table
            if named not in set(table["arch_hash"]):
                return None  # a finalist of which no row was stored
            first, mine = table.iloc[0], table[table["arch_hash"] == named].iloc[0]
            errors = [row["reward"] * row["val_error"] / max(row["val_accuracy"], 1e-9) for row in (first, mine)]
            gap = float(first["reward"] - mine["reward"])
            cells.append(Cell(reward, str(first["arch_hash"]), gap, math.hypot(*errors)))
    return Sensitivity(named, tuple(cells))
