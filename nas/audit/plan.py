"""What an audit trains: which networks, by which recipes, with which seeds, and about how long that takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from nas.train.recipes import Recipe
from nas.train.schedule import phases

OWN = "own"
"""The run's own recipe."""

FAR = 101
"""The seed of long trainings, beyond the run's: another one than any short training has, for one order of the same images and
one set of first weights would let the two agree more than they would."""


@dataclass(frozen=True)
class Arm:
    """One recipe of an audit.

    Args:
        name: In the files; `own`, `long-5`, or what differs from the run's recipe. words: The same for people.
        cost: Steps times pixels beside the run's recipe: how much longer a training should take.
    """

    name: str
    words: str
    recipe: Recipe
    cost: float


@dataclass(frozen=True)
class Training:
    """One training of an audit: a recipe, a network by its hash, and a seed."""

    arm: Arm
    arch_hash: str
    seed: int


def picked(ranked: Sequence[str], number: int) -> list[str]:
    """Return networks from all of a ranking, half of them, or one more, of its better half; first and last are among them.

    Args:
        ranked: Hashes by falling reward.
    """
    if len(ranked) <= number:
        return list(ranked)
    middle = (len(ranked) + 1) // 2
    better, worse = ranked[:middle], ranked[middle:]
    high = min(len(better), (number + 1) // 2)
    low = min(len(worse), number - high)
    first = [place * (len(better) - 1) // max(1, high - 1) for place in range(high)]
    last = [(place + 1) * len(worse) // low - 1 for place in range(low)]
    return [better[place] for place in first] + [worse[place] for place in last]


def arms(recipe: Recipe, long: float, tune_proxy: bool, train_images: int, resolution: int) -> list[Arm]:
    """Return the recipes of an audit: the run's own, the long one, and with `tune_proxy` others, each with one thing changed.

    Args:
        train_images: That the data has. resolution: Of the networks, in pixels, for the costs.
    """
    used = min(recipe.train_images, train_images)
    found = [
        (OWN, "the run's own", recipe),
        (f"long-{long:g}", f"{long:g} times the epochs", replace(recipe, epochs=recipe.epochs * long)),
    ]
    if tune_proxy:
        found += [
            ("epochs-half", "half the epochs", replace(recipe, epochs=recipe.epochs / 2)),
            ("epochs-twice", "twice the epochs", replace(recipe, epochs=recipe.epochs * 2)),
            ("images-half", "half the training images", replace(recipe, train_images=max(1, used // 2))),
        ]
        if train_images >= 1.5 * used:
            more = min(train_images, 2 * used)
            found.append((f"images-{more}", f"{more} training images", replace(recipe, train_images=more)))
        if recipe.batch_size >= 16:
            small, rate = recipe.batch_size // 2, recipe.learning_rate / math.sqrt(2)  # AdamW's rate goes with the root
            found.append(
                (f"batch-{small}", f"batches of {small}", replace(recipe, batch_size=small, learning_rate=rate))
            )
        if recipe.progressive.phases > 1:
            whole = replace(recipe.progressive, phases=1, size=(1.0, 1.0))
            found.append(("full-size", "full resolution from the start", replace(recipe, progressive=whole)))
    own = _work(recipe, train_images, resolution)
    return [
        Arm(name, words, replace(item, name=recipe.name if name == OWN else f"{recipe.name}-{name}"),
            _work(item, train_images, resolution) / own)
        for name, words, item in found
    ]  # fmt: skip


def _work(recipe: Recipe, train_images: int, resolution: int) -> float:
    images = min(recipe.train_images, train_images)
    return sum(
        images * part.epochs * part.resolution**2 for part in phases(recipe.progressive, resolution, recipe.epochs)
    )


def trainings(found: Sequence[Arm], networks: Sequence[str], seeds: int, seed: int) -> list[Training]:
    """Return the trainings of an audit, arm by arm.

    Args:
        networks: By falling reward. seeds: Of the best, the middle and the worst by the run's own recipe. seed: The run's.
    """
    ends = {networks[0], networks[len(networks) // 2], networks[-1]}
    wanted = []
    for arm in found:
        long = arm.name.startswith("long-")
        first = seed + (FAR if long else 1)
        for arch_hash in networks:
            more = seeds if arm.name == OWN and arch_hash in ends else 1
            wanted += [Training(arm, arch_hash, first + number) for number in range(more)]
    return wanted


def minutes(wanted: Sequence[Training], rows: pd.DataFrame, workers: int) -> float:
    """Return about how long trainings take, from what the same networks took in the search; not a number where it kept nothing.

    Args:
        rows: The run's trained networks.
    """
    taken = {str(row["arch_hash"]): _seconds(row) for _, row in rows.iterrows()}
    found = [taken[item.arch_hash] for item in wanted]
    if any(math.isnan(timing + training) for timing, training in found):
        return math.nan
    whole = sum(timing + training * item.arm.cost for item, (timing, training) in zip(wanted, found, strict=True))
    return whole / 60 / workers


def _seconds(row: pd.Series) -> tuple[float, float]:
    """Return the seconds of timing and of training; the first runs kept their sum alone, which is taken for training."""
    cell = row.get("phase_seconds")
    if isinstance(cell, str) and len(cell.split()) > 1:
        first, *rest = map(float, cell.split())
        return first, sum(rest)
    return 0.0, float(row["seconds"])
