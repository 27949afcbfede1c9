"""What a run would have ranked with other exponents or limits, from the raw values it stored. Nothing is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nas.errors import RunError, UsageError
from nas.objective import Reward, ranked, score_of, slacks
from nas.report.read import RunView
from nas.space import Limit, format_count

OPTIONS = {
    "num_params": "--max-params",
    "macs": "--max-macs",
    "step_time_ms": "--max-step-time",
    "latency_ms": "--max-latency",
    "peak_memory_mib": "--max-memory",
}
"""The option that bounds a cost, for messages."""


@dataclass(frozen=True)
class Reranking:
    """The networks of a run in a new order.

    Args:
        own: The run's own score. reward: The score of this order.
        table: A row for each network within the limits, the best first: `rank`, `old_rank` (among all trained),
            `reward`, `old_reward`, `val_accuracy`, `val_error`, `step_time_ms`, `relative_time` (to the baseline, measured
            together), `num_params`, `macs`, `arch`, `arch_hash`, `number` (of the trial).
        trained: Networks trained to the end. pruned: Networks stopped early, whose accuracy is that of an earlier phase,
            so that they have no rank.
        tau: Kendall's tau between the old and the new order of the table: 1 is the same order, -1 the reverse.
        old_first: Hash of the network that the run's own score puts first, within the limits or not.
    """

    own: Reward
    reward: Reward
    table: pd.DataFrame
    trained: int
    pruned: int
    tau: float
    old_first: str

    @property
    def first_changed(self) -> bool:
        """Whether another network is first now."""
        return bool(self.table["arch_hash"].iloc[0] != self.old_first)

    def not_told_apart(self) -> int:
        """Return how many networks the errors of their accuracies leave undecided with the first, itself not counted.

        Those whose reward is less than two standard errors of the difference below the first's. All networks are scored
        on the same images, so the true error of a difference is no larger.
        """
        reward = self.table["reward"].to_numpy()
        error = reward * (self.table["val_error"] / self.table["val_accuracy"].clip(lower=1e-9)).to_numpy()
        return int((reward[0] - reward[1:] < 2 * np.hypot(error[0], error[1:])).sum())

    def first_gap(self) -> tuple[float, float]:
        """Return how far the second reward is below the first, and the standard error that accuracies put on that."""
        first, second = (self.table.iloc[place] for place in (0, 1))
        errors = [row["reward"] * row["val_error"] / max(row["val_accuracy"], 1e-9) for row in (first, second)]
        return float(first["reward"] - second["reward"]), math.hypot(*errors)


def rerank(view: RunView, reward: Reward | None = None, limits: Sequence[Limit] = ()) -> Reranking:
    """Rank the trained networks of a run again.

    Args:
        view: The run; it may still go on.
        reward: The score; the run's own unless given.
        limits: Networks beyond one are left out. `step_time_ms` bounds the step time as it was measured.

    Raises:
        RunError: no network has been trained to the end.
        UsageError: a limit on what the run did not measure, or one that no network is within.
    """
    rows = view.trained().drop_duplicates("arch_hash", keep="last").set_index("arch_hash", drop=False)
    if rows.empty:
        raise RunError(f"{view.run.folder}: no network has been trained to the end in it yet. Let the search go on.")
    reward = reward or view.reward
    own = _ranks(view, view.reward)
    within = rows[_within(view, rows, limits)]
    if within.empty:
        nearest = ", ".join(f"{OPTIONS[limit.cost]} (the least is {_least(rows, limit.cost)})" for limit in limits)
        raise UsageError(f"none of the {len(rows)} trained networks is within: {nearest}. Widen the limits.")
    candidates = {item.arch_hash: item for item in view.candidates()}
    order = [item.arch_hash for item in ranked([candidates[name] for name in within.index], reward)]
    table = within.loc[order, ["val_accuracy", "val_error", "step_time_ms", "num_params", "macs", "arch", "arch_hash"]]
    table = table.assign(
        rank=range(1, len(order) + 1),
        old_rank=[own[name] for name in order],
        reward=[score_of(candidates[name], reward) for name in order],
        old_reward=[score_of(candidates[name], view.reward) for name in order],
        relative_time=[candidates[name].relative_time for name in order],
        number=within.loc[order, "number"],
    )
    columns = ["rank", "old_rank", "reward", "old_reward", "val_accuracy", "val_error", "step_time_ms", "relative_time"]
    return Reranking(
        own=view.reward,
        reward=reward,
        table=table[[*columns, "num_params", "macs", "arch", "arch_hash", "number"]].reset_index(drop=True),
        trained=len(rows),
        pruned=int((view.trials["kind"] == "pruned").sum()),
        tau=kendall_tau([own[name] for name in order]),
        old_first=next(name for name, rank in own.items() if rank == 1),
    )


def kendall_tau(ranks: Sequence[float]) -> float:
    """Return Kendall's tau of distinct numbers against their present order: pairs that rise less those that fall, over all.

    Of fewer than two it is 1: nothing can have moved. Source: Kendall 1938, Biometrika 30(1-2).
    """
    values = np.asarray(ranks)
    if len(values) < 2:
        return 1.0
    rises = np.sign(values[None, :] - values[:, None])[np.triu_indices(len(values), 1)]
    return float(rises.mean())


def _ranks(view: RunView, reward: Reward) -> dict[str, int]:
    unique = {item.arch_hash: item for item in view.candidates()}
    return {item.arch_hash: rank for rank, item in enumerate(ranked(list(unique.values()), reward), 1)}


def _least(rows: pd.DataFrame, cost: str) -> str:
    least = float(rows[cost].min())
    unit = {"step_time_ms": "ms", "latency_ms": "ms", "peak_memory_mib": "MiB"}.get(cost)
    return format_count(least) if unit is None else f"{least:.2f} {unit}"


def _within(view: RunView, rows: pd.DataFrame, limits: Sequence[Limit]) -> list[bool]:
    for limit in limits:
        # The tables of the first runs have no column for what was not measured then.
        absent = int(rows[limit.cost].isna().sum()) if limit.cost in rows else len(rows)
        if absent:
            device = view.run.manifest["device"]["type"]
            if limit.cost == "latency_ms":
                why = "it is measured in searches with a limit on it only"
            else:
                why = (
                    f"a run on {device}; it is measured on CUDA devices only" if device != "cuda" else "see trials.csv"
                )
            raise UsageError(
                f"{OPTIONS[limit.cost]}: {absent} of {len(rows)} trained networks have no {limit.cost} ({why}). "
                "Leave the option out."
            )
    costs = [{limit.cost: float(row[limit.cost]) for limit in limits} for _, row in rows.iterrows()]
    return [max(slacks(known, limits).values(), default=0.0) <= 0 for known in costs]
