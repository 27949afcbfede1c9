"""What the trainings of an audit say, as plain data: how far readings of the same networks agree on their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean, median
from typing import Any

import pandas as pd

from nas import runs
from nas.audit.plan import OWN, Arm
from nas.errors import RunError
from nas.report import RunView
from nas.report.agreement import Floats, agreement, spearman, tau_b

Raw = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Raw values of trainings by the name of the arm, and then by `<arch_hash>-<seed>`."""

CONDITIONS = ("space_hash", *runs.SAME_RESULTS, "reward", "limits")
"""What two runs must share to be compared."""

Readings = list[float]


def fidelity(
    rows: pd.DataFrame, networks: Sequence[str], raw: Raw, long: Arm, *, times: float, seed: int, far: int
) -> dict[str, Any]:
    """Return how far the proxy orders networks as the long training does, and as itself with another seed.

    The search's own reading of a network and the fresh one are two readings by the proxy; each is held against the long one, and
    the mean is taken. `change` is by how much the fresh accuracy is above the search's, on average over the networks of either
    half: luck alone makes the better half lose and the other gain, another seed for all moves both.

    Args:
        rows: The run's trained networks, by falling reward. networks: Those of the audit, likewise.
        times: How many times as long it is. seed: Of the fresh training by the proxy. far: Of the long one.
    """
    sound = [
        name
        for name in networks
        if _accuracy(raw, OWN, name, seed) is not None and _accuracy(raw, long.name, name, far) is not None
    ]
    of = rows.drop_duplicates("arch_hash").set_index("arch_hash")
    better = set(of.index[: (len(of) + 1) // 2])
    accuracies = dict(zip(of.index, of["val_accuracy"].astype(float), strict=True))
    factors = dict(zip(of.index, (of["reward"] / of["val_accuracy"].clip(lower=1e-9)).astype(float), strict=True))
    found: dict[str, Any] = {"networks": len(sound), "long": times}
    for order in ("accuracy", "reward"):
        # With other accuracies the costs of a network stay what they are, and the reward is proportional.
        factor = [1.0 if order == "accuracy" else factors[name] for name in sound]
        search = [accuracies[name] * by for name, by in zip(sound, factor, strict=True)]
        again, truth = (
            [float(_accuracy(raw, arm, name, own) or 0.0) * by for name, by in zip(sound, factor, strict=True)]
            for arm, own in ((OWN, seed), (long.name, far))
        )
        upper = [place for place, name in enumerate(sound) if name in better]
        if order == "accuracy" and upper and len(upper) < len(sound):
            changes = [fresh - old for fresh, old in zip(again, search, strict=True)]
            lower = [place for place in range(len(sound)) if place not in upper]
            found["change"] = {
                half: fmean(changes[place] for place in places)
                for half, places in (("better", upper), ("worse", lower))
            }
        found[order] = {
            "long": _orders([(search, truth), (again, truth)], upper),
            "again": _orders([(search, again)], upper),
        }
    return found


def _accuracy(raw: Raw, arm: str, arch_hash: str, seed: int) -> float | None:
    item = raw.get(arm, {}).get(f"{arch_hash}-{seed}")
    return None if item is None or item["outcome"] != "ok" else float(item["val_accuracy"])


def _orders(pairs: Sequence[tuple[Readings, Readings]], upper: Sequence[int]) -> dict[str, Any] | None:
    if (tau := _agreed(pairs, tau_b)) is None:
        return None
    half = [([one[place] for place in upper], [other[place] for place in upper]) for one, other in pairs]
    return {"tau": tau, "spearman": _agreed(pairs, spearman), "tau_upper": _agreed(half, tau_b)}


def _agreed(
    pairs: Sequence[tuple[Readings, Readings]], how: Callable[[Floats, Floats], Floats]
) -> dict[str, Any] | None:
    found = agreement(pairs, how)
    return None if found is None else asdict(found)


def tuning(
    found: Sequence[Arm], networks: Sequence[str], raw: Raw, long: Arm, *, threshold: float, seed: int, far: int
) -> dict[str, Any]:
    """Return what each recipe costs and how far it orders networks as the long one does; the cheapest that suffices is `chosen`.

    One training by each recipe is held against the long one, the run's own recipe likewise. The cost is the median over networks
    of the measured time of training beside that by the run's own recipe, each in steps of the baseline, which were timed right
    before it: recipes come one after the other, and the machine's speed may not stay what it was.
    """
    candidates: list[dict[str, Any]] = []
    for arm in found:
        if arm.name == long.name:
            continue
        sound = [
            name
            for name in networks
            if all(
                _accuracy(raw, *key) is not None
                for key in ((arm.name, name, seed), (OWN, name, seed), (long.name, name, far))
            )
        ]
        short, truth = (
            [float(_accuracy(raw, name_of, name, own) or 0.0) for name in sound]
            for name_of, own in ((arm.name, seed), (long.name, far))
        )
        tau = _agreed([(short, truth)], tau_b)
        if tau is None:
            continue
        ratios = [_trained(raw[arm.name], name, seed) / _trained(raw[OWN], name, seed) for name in sound]
        candidates.append(
            {
                "name": arm.name,
                "words": arm.words,
                "epochs": arm.recipe.epochs,
                "train_images": arm.recipe.train_images,
                "phases": arm.recipe.progressive.phases,
                "cost": median(ratios),
                "tau": tau,
            }
        )
    candidates.sort(key=lambda item: item["cost"])
    enough = [item["name"] for item in candidates if item["tau"]["value"] >= threshold]
    return {"threshold": threshold, "candidates": candidates, "chosen": enough[0] if enough else None}


def _trained(stored: Mapping[str, Mapping[str, Any]], arch_hash: str, seed: int) -> float:
    """Return how long a training took, in steps of the baseline (and a factor that is the same for all)."""
    item = stored[f"{arch_hash}-{seed}"]
    return max(1e-9, float(item["seconds"]) - float(item["timing_seconds"])) / float(item["ref_step_time_ms"])


def compared(view: RunView, other: RunView) -> dict[str, Any]:
    """Return how the winner of a run compares with that of another run under the same conditions, such as a random search.

    Raises:
        RunError: other conditions, or one of the two has no winner yet.
    """
    runs.check_same(view.run, other.run.manifest, CONDITIONS, f"compared with {other.run.folder}")
    for item in (view, other):
        if not item.finalists:
            raise RunError(f"{item.run.folder}: has no winner yet. Continue it: nas search --resume {item.run.folder}")
    mine, theirs = view.finalists[0], other.finalists[0]
    errors = [item["reward"] * item["accuracy_error"] / max(item["accuracy"], 1e-9) for item in (mine, theirs)]
    best = float(other.trained()["reward"].iloc[0])
    rewards = _by_budget(view)
    reached = [spent for spent, reward in enumerate(rewards, 1) if reward is not None and reward >= best]
    return {
        "name": other.run.folder.name,
        "sampler": other.run.manifest["sampler"],
        "budget": len(rewards),
        "budget_other": len(_by_budget(other)),
        "reward": mine["reward"],
        "reward_other": theirs["reward"],
        "gap": mine["reward"] - theirs["reward"],
        "error": (errors[0] ** 2 + errors[1] ** 2) ** 0.5,
        "matched_after": reached[0] if reached else None,
    }


def _by_budget(view: RunView) -> list[float | None]:
    """Return the rewards of the networks that cost budget, in the order of trials; None of those stopped early."""
    rows = view.trials[view.trials["kind"].isin(["trained", "pruned"])].sort_values("number")
    if "origin" in rows:
        rows = rows[rows["origin"].isna() | (rows["origin"] == "")]
    return [float(row["reward"]) if row["kind"] == "trained" else None for _, row in rows.iterrows()]
