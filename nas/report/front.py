"""The front of a search with `--objective pareto`: its networks measured again, judged by that, and the knee among them.

A front of noisy accuracies is made of networks that were lucky. So its members are trained again, and who beats whom is judged by
the fresh values alone, with their errors.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from nas.front import STEP_TIME, Point, beats, front, hypervolume, knee, shown
from nas.report.read import RunView

VERDICTS = ("knee", "front", "beaten", "beaten beyond error")


@dataclass(frozen=True)
class Member:
    """A network that was measured again.

    Args:
        place: Among the finalists of the run. number, arch_hash, arch: Of its trial.
        accuracy, accuracy_error: Mean over fresh seeds, with its standard error. search_accuracy: What the search saw.
        costs, cost_errors: In the order of the run's costs; what is counted has no error, nor has a memory.
        verdict: `knee`, `front`, `beaten` (another one is no worse in anything), `beaten beyond error` (and more accurate by
            twice the error of the difference or more).
        beaten_by: Trial of the most accurate one that beats it.
    """

    place: int
    number: int
    arch_hash: str
    arch: str
    accuracy: float
    accuracy_error: float
    search_accuracy: float
    costs: tuple[float, ...]
    cost_errors: tuple[float, ...]
    verdict: str = ""
    beaten_by: int | None = None

    @property
    def point(self) -> Point:
        """Accuracy and costs."""
        return (self.accuracy, *self.costs)

    @property
    def name(self) -> str:
        """What its file is called; `nas export --trial` takes the number."""
        return f"trial-{self.number}"


def members(finalists: Sequence[Mapping[str, Any]], costs: Sequence[str]) -> tuple[Member, ...]:
    """Judge the networks of a front by their fresh values.

    Args:
        finalists: As stored in `finalists.json`; those of which a fresh training failed are left out. costs: Of the run.

    Returns:
        The knee, the others of the front by rising first cost, then those that are beaten.
    """
    found = [_member(place, item, costs) for place, item in enumerate(finalists) if item.get("outcome", "ok") == "ok"]
    if not found:
        return ()
    places = front([item.point for item in found])
    best = places[knee([found[place].point for place in places])]
    judged = [_judged(item, found, place == best, place in places) for place, item in enumerate(found)]
    return tuple(sorted(judged, key=lambda item: (VERDICTS.index(item.verdict), item.costs, item.number)))


def _member(place: int, item: Mapping[str, Any], costs: Sequence[str]) -> Member:
    record = item["record"]
    values = [_cost(item, cost) for cost in costs]
    return Member(
        place=place,
        number=int(record["number"]),
        arch_hash=record["arch_hash"],
        arch=record["arch"],
        accuracy=item["accuracy"],
        accuracy_error=item["accuracy_error"],
        search_accuracy=record["val_accuracy"],
        costs=tuple(value for value, _ in values),
        cost_errors=tuple(error for _, error in values),
    )


def _cost(item: Mapping[str, Any], cost: str) -> tuple[float, float]:
    """Return a cost and its standard error: between fresh seeds, or with one seed the spread of its samples, which is more."""
    if cost == STEP_TIME:
        times, spreads, refs = item["step_time_ms"], item["step_time_mad_ms"], item["ref_step_time_ms"]
        seen = [time / ref for time, ref in zip(times, refs, strict=True)]
        value, spread = sum(times) / sum(refs), spreads[0] / refs[0]
    elif cost == "latency_ms":
        seen = list(item["latency_ms"])
        value, spread = statistics.fmean(seen), item["latency_mad_ms"][0]
    else:
        return float(item["record"][cost]), 0.0
    return value, statistics.stdev(seen) / math.sqrt(len(seen)) if len(seen) > 1 else spread


def _judged(item: Member, others: Sequence[Member], is_knee: bool, on_front: bool) -> Member:
    better = [other for other in others if beats(other.point, item.point)]
    verdict = "knee" if is_knee else "front" if on_front else "beaten"
    if not better:
        return replace(item, verdict=verdict)
    best = max(better, key=lambda other: other.accuracy)
    error = math.hypot(best.accuracy_error, item.accuracy_error)
    if best.accuracy - item.accuracy >= 2 * error:
        verdict = "beaten beyond error"
    return replace(item, verdict=verdict, beaten_by=best.number)


def front_of(view: RunView) -> tuple[Member, ...]:
    """Return the members of a run's front, the knee first; empty while the search goes on."""
    return members(view.finalists, view.costs)


def reference(view: RunView) -> Point:
    """Return what hypervolumes of a run are taken against: the accuracy of guessing, and the highest costs that it trained.

    Two runs compare only under one reference; take the worse of both for each coordinate.
    """
    _, *costs = zip(*view.points(), strict=True)
    return (1 / view.run.manifest["data"]["classes"], *map(max, costs))


def volumes(view: RunView) -> tuple[float, float | None]:
    """Return the hypervolume of the front as the search saw it, and of its members measured again, where they are."""
    worst, fresh = reference(view), front_of(view)
    return hypervolume(view.points(), worst), hypervolume([item.point for item in fresh], worst) if fresh else None


def front_table(view: RunView) -> pd.DataFrame:
    """Return the members of a run's front as a table, a row each; what is measured has its standard error beside it."""
    rows = []
    for item in front_of(view):
        row: dict[str, Any] = {"trial": item.number, "verdict": item.verdict, "beaten_by": item.beaten_by}
        row |= {"val_accuracy": item.accuracy, "val_accuracy_error": item.accuracy_error}
        for cost, value, error in zip(view.costs, item.costs, item.cost_errors, strict=True):
            name = "relative_step_time" if cost == STEP_TIME else cost
            row |= {name: value} | ({f"{name}_error": error} if cost in (STEP_TIME, "latency_ms") else {})
        finalist = view.finalists[item.place]
        row |= {"step_time_ms": statistics.fmean(finalist["step_time_ms"])}
        row |= {name: finalist["record"][name] for name in ("num_params", "macs")}
        rows.append(row | {"arch_hash": item.arch_hash, "arch": item.arch, "search_accuracy": item.search_accuracy})
    return pd.DataFrame(rows).astype({"beaten_by": "Int64"}) if rows else pd.DataFrame()


def named(costs: Sequence[str]) -> str:
    """Return the costs of a run in words."""
    return " and ".join(shown(cost) for cost in costs)
