"""From accuracy and costs to one score, and limits as slacks. Pure arithmetic on raw measurements.

Raw values are what a run stores; scores are computed from them, so that exponents and limits can be changed afterwards.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nas.space import Limit


@dataclass(frozen=True)
class Reward:
    """The exponents of the score, and what its ratios are relative to.

    Args:
        w: Exponent of the step time. v: Exponent of the parameters. Both are negative or 0.
        ref_params: Parameters of the baseline network.
    """

    w: float
    v: float
    ref_params: float

    def score(self, accuracy: float, *, step_time_ms: float, ref_step_time_ms: float, num_params: float) -> float:
        """Return accuracy * (step time / baseline's)^w * (parameters / baseline's)^v.

        The two step times belong to one measurement, so that a drift of the machine's speed cancels.
        Source: Tan & Le 2021 (EfficientNetV2), arXiv:2104.00298, section 3.2: A * S^w * P^v, w = -0.07, v = -0.05.
        """
        time_ratio, params_ratio = step_time_ms / ref_step_time_ms, num_params / self.ref_params
        return float(accuracy * time_ratio**self.w * params_ratio**self.v)


def slacks(costs: Mapping[str, float], limits: Sequence[Limit]) -> dict[str, float]:
    """Return how far each known cost is beyond its limits, as a share of the limit; 0 or less is within.

    Keys are `num_params.max` and the like; a cost that is not known yet has no slack.
    """
    found = {}
    for limit in limits:
        if limit.cost not in costs:
            continue
        if limit.max is not None:
            found[f"{limit.cost}.max"] = costs[limit.cost] / limit.max - 1
        if limit.min is not None:
            found[f"{limit.cost}.min"] = 1 - costs[limit.cost] / limit.min
    return found


def tightest(first: Sequence[Limit], second: Sequence[Limit]) -> tuple[Limit, ...]:
    """Join two sets of limits; where both bound a cost, the tighter bound holds."""
    joined: dict[str, Limit] = {}
    for limit in (*first, *second):
        old = joined.get(limit.cost, Limit(limit.cost))
        highs = [bound for bound in (old.max, limit.max) if bound is not None]
        lows = [bound for bound in (old.min, limit.min) if bound is not None]
        joined[limit.cost] = Limit(limit.cost, max=min(highs, default=None), min=max(lows, default=None))
    return tuple(joined.values())


@dataclass(frozen=True)
class Candidate:
    """The raw values of one trained network, as a run stores them."""

    arch_hash: str
    val_accuracy: float
    val_error: float
    step_time_ms: float
    ref_step_time_ms: float
    num_params: float

    @property
    def relative_time(self) -> float:
        """Step time over the baseline's, measured together."""
        return self.step_time_ms / self.ref_step_time_ms


def score_of(candidate: Candidate, reward: Reward) -> float:
    """Return the score of stored raw values."""
    return reward.score(
        candidate.val_accuracy,
        step_time_ms=candidate.step_time_ms,
        ref_step_time_ms=candidate.ref_step_time_ms,
        num_params=candidate.num_params,
    )


def ranked(candidates: Sequence[Candidate], reward: Reward) -> list[Candidate]:
    """Return candidates by falling score; ties go to the smaller network."""
    return sorted(candidates, key=lambda item: (-score_of(item, reward), item.num_params, item.arch_hash))


def pareto(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that no other beats in both accuracy and relative step time, by rising time."""
    front: list[Candidate] = []
    for item in sorted(candidates, key=lambda item: (item.relative_time, -item.val_accuracy)):
        if not front or item.val_accuracy > front[-1].val_accuracy:
            front.append(item)
    return front


def cost_factor(candidate: Candidate, reward: Reward) -> float:
    """Return what the costs alone make of a score: the score over the accuracy."""
    return score_of(candidate, reward) / candidate.val_accuracy if candidate.val_accuracy else 0.0


FEW_VAL_IMAGES = 500
"""With fewer, accuracies near 0.8 that differ by 5 %, the price of twice the step time, lie within twice their error."""


def few_images(used: int, there: int) -> list[str]:
    """Say where validation images are too few to tell networks apart by accuracy.

    Args:
        used: Validation images that accuracies are counted on. there: Those that the data has.
    """
    if used >= FEW_VAL_IMAGES:
        return []
    error = (0.8 * 0.2 / used) ** 0.5
    remedy = (
        f"The data has {there}: raise val_images of the recipe."
        if used < there
        else "Add validation images to the data."
    )
    return [
        f"An accuracy is counted on {used} validation image{'s' * (used > 1)}: it moves in steps of {1 / used:.3f}, and "
        f"one near 0.8 is known to ± {error:.3f} only (standard error). Networks that differ by less than "
        f"{2 * 2**0.5 * error:.2f} cannot be told apart, and the winner may be luck. {remedy}"
    ]


def guessing(accuracy: float, error: float, classes: int) -> list[str]:
    """Say where the best network is not known to be better than one that guesses: nothing was learnt, and nothing is compared.

    Args:
        accuracy, error: Of the best network, with its standard error. classes: Number of classes.
    """
    if accuracy - 2 * error > 1 / classes:
        return []
    return [
        f"The best accuracy, {accuracy:.4f} ± {error:.4f}, is not better than guessing among {classes} classes "
        f"({1 / classes:.4f}): so short a training learnt nothing, and the choice is luck. Give --recipe a file with more "
        "epochs, or more images."
    ]


def indistinct(candidates: Sequence[Candidate]) -> list[str]:
    """Say where accuracies differ little more than one of them may be off by."""
    if len(candidates) < 10:
        return []
    spread = statistics.stdev(item.val_accuracy for item in candidates)
    error = statistics.fmean(item.val_error for item in candidates)
    if spread >= 1.5 * error:
        return []
    return [
        f"The accuracies of the trained networks spread (standard deviation {spread:.4f}) little more than one accuracy "
        f"may be off by (error {error:.4f}): costs and luck may have decided this ranking. A longer recipe or more "
        "validation images would let accuracy count."
    ]


def warnings(candidates: Sequence[Candidate], reward: Reward, top: int = 5) -> list[str]:
    """Say where the score itself, not the networks, decided: the cheapest corner, noise, or a choice of exponents.

    With w = -0.07 a network ten times faster is worth 17 %: more than accuracy differs in many spaces.
    """
    if len(candidates) < 10:
        return []
    found = []
    best = ranked(candidates, reward)
    factors = sorted((cost_factor(item, reward) for item in candidates), reverse=True)
    cheap = factors[max(0, len(factors) // 10 - 1)]
    in_corner = sum(cost_factor(item, reward) >= cheap for item in best[:top])
    if in_corner > top // 2:
        found.append(
            f"{in_corner} of the best {top} are among the cheapest tenth of all networks: with w = {reward.w:g} and "
            f"v = {reward.v:g} cost outweighs accuracy here. Try weaker exponents (--w {reward.w / 2:g} --v "
            f"{reward.v / 2:g}), a space with larger networks, or limits in their place."
        )
    found += indistinct(candidates)
    for name, factor in (("half as strong", 0.5), ("twice as strong", 2.0)):
        other = Reward(reward.w * factor, reward.v * factor, reward.ref_params)
        rival = ranked(candidates, other)[0]
        if rival.arch_hash != best[0].arch_hash:
            gap = score_of(best[0], other) / score_of(rival, other) - 1
            error = best[0].val_error / best[0].val_accuracy
            if abs(gap) > error:
                found.append(
                    f"With exponents {name} (w {other.w:g}, v {other.v:g}) another network is first in the search: "
                    f"{rival.arch_hash} (accuracy {rival.val_accuracy:.3f}, {rival.relative_time:.2f} x the baseline's step "
                    "time)."
                )
    return found
