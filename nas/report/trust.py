"""How far a run is to be believed, in words and then in figures, from what it stored. Nothing is trained.

What takes trainings of its own, `nas audit` does; its findings are folded in where they are there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

import numpy as np

from nas.report.audited import against_said, fidelity_said, tuning_said
from nas.report.chance import chance, expected_best
from nas.report.effects import Effects, Span, parameters, percent
from nas.report.markdown import table
from nas.report.noise import LEAST_FREEDOM, Prior, Scatter, by_network, prior, scatter
from nas.report.ranking import rerank
from nas.report.read import RunView
from nas.report.sensitivity import sensitivity

LEAST = 10
"""Of fewer networks how rewards are spread is not known well enough to take luck off the best."""

FEW = 3
"""Of fewer networks there is nothing to doubt."""

LISTED = 10
"""Effects in the table, the largest first."""


def trust(view: RunView, found: Effects | None) -> list[str]:
    """Return the part of a report that says how far to believe the rest, as lines of Markdown; none of hardly any networks.

    Args:
        found: The main effects of the run (`nas.report.effects`).
    """
    if view.trained()["arch_hash"].nunique() < FEW:
        return []
    seeds = seed_scatter(view)
    return [
        "## How far to believe this",
        "",
        *_noise(view, seeds),
        *_curse(view, seeds),
        *fidelity_said(view.audit),
        *tuning_said(view.audit),
        *_random(view),
        *against_said(view.audit),
        *_exponents(view),
        *_choices(view, found),
    ]


def seed_scatter(view: RunView) -> Scatter | None:
    """Return how far the accuracy of the same network scatters over seeds, from finalists and audits; None where unknown."""
    trainings: Mapping[str, Mapping[str, Any]] = {**view.trainings, **view.audit.get("trainings", {})}
    return scatter(list(by_network(trainings).values()))


def believed(view: RunView) -> str:
    """Return in one sentence how far the order of a run's networks is to be believed."""
    number = view.trained()["arch_hash"].nunique()
    if number < FEW:
        return f"{_many(number, 'network')} trained to the end: too few to say how far to believe the first."
    return _verdict(view, seed_scatter(view))


def _verdict(view: RunView, seeds: Scatter | None) -> str:
    order = rerank(view)
    others = len(order.table) - 1
    alike = by_images = order.not_told_apart()
    if seeds is not None and seeds.freedom >= LEAST_FREEDOM:
        both = order.table.assign(val_error=np.hypot(order.table["val_error"], seeds.deviation))
        alike = replace(order, table=both).not_told_apart()
    if alike == 0:
        verdict = "The first network's reward is above that of every other by more than its noise."
    elif alike == others:
        verdict = "None of the other networks can be told from the first: the order is luck."
    else:
        verdict = f"{alike} of the other {others} networks cannot be told from the first by their accuracies."
    if alike != by_images:
        verdict += f" By the images alone it would be {by_images}: seeds scatter too."
    return verdict


def _noise(view: RunView, seeds: Scatter | None) -> list[str]:
    images = view.run.manifest["data"]["used_val_images"]
    error = float(view.trained()["val_error"].median())
    lines = [
        "### Noise",
        "",
        f"{_verdict(view, seeds)} An accuracy is known to ± {error:.4f} (standard error, {images} validation images).",
    ]
    if seeds is None:
        lines.append(
            "How far the same network scatters from seed to seed is not known: no network was trained with several fresh ones "
            "(`nas audit RUN` does)."
        )
    else:
        known = (
            f"95 % interval {seeds.low:.4f} to {seeds.high:.4f}" if seeds.freedom >= LEAST_FREEDOM else "hardly known"
        )
        lines.append(
            f"The same network, trained with another seed, scatters by {seeds.deviation:.4f} on the same images (standard "
            f"deviation, {known}; {seeds.networks + seeds.freedom} trainings of {_many(seeds.networks, 'network')})."
        )
    return [*lines, ""]


@dataclass(frozen=True)
class Luck:
    """How rewards are spread, and where the share of luck in that is from.

    Args:
        prior: See `nas.report.noise`. source: In words.
        lost: What the finalists lost on average when they were measured again; None without finalists.
        foreseen: What of that the scatter between seeds, or the error of an accuracy, explains.
        raised: Whether luck was taken to be larger than these, for what the finalists lost.
    """

    prior: Prior
    source: str
    lost: float | None = None
    foreseen: float = 0.0
    raised: bool = False


def luck_of(view: RunView, seeds: Scatter | None) -> Luck:
    """Return how the run's rewards are spread, and how much of that is luck.

    Luck is the scatter between seeds where it is known, else the error of an accuracy, either as it acts on the reward of a
    network of the better half. What the noise of step times adds is a tenth of it or less, and left out. Where finalists lost
    more than this explains, beyond twice its error, luck is as large as makes it the loss to be expected: what they lost is
    seen, and a scatter of three or four trainings is hardly known.
    """
    rows = view.trained().drop_duplicates("arch_hash")
    half = rows.head(max(1, len(rows) // 2))
    factor = median(half["reward"] / half["val_accuracy"].clip(lower=1e-9))
    if seeds is not None and seeds.freedom >= LEAST_FREEDOM:
        deviation, source = seeds.deviation, "the scatter between seeds"
    else:
        deviation, source = float(rows["val_error"].median()), "the error of an accuracy"
    found = prior(list(rows["reward"]), deviation * factor)
    sound = _sound(view)
    if not sound:
        return Luck(found, source)
    seen = fmean(item["record"]["reward"] for item in sound)
    lost = fmean(item["optimism"] for item in sound)
    expected, error, _ = found.shrunken(seen)
    readings = fmean(len(item["accuracies"]) for item in sound)
    doubt = math.sqrt((error**2 + found.noise**2 / readings) / len(sound))
    if lost - (seen - expected) > 2 * doubt and seen > found.centre:
        # Shrunk by the factor 1 - noise^2 / spread^2, what is above the centre loses noise^2 / spread^2 of itself.
        raised = replace(found, noise=found.spread * math.sqrt(min(1.0, lost / (seen - found.centre))))
        return Luck(raised, "what the finalists lost", lost, seen - expected, raised=True)
    return Luck(found, source, lost, seen - expected)


def _sound(view: RunView) -> list[Mapping[str, Any]]:
    return [item for item in view.finalists if item.get("outcome", "ok") == "ok"]


def _curse(view: RunView, seeds: Scatter | None) -> list[str]:
    rows = view.trained().drop_duplicates("arch_hash")
    head = ["### The best of many flatters itself", ""]
    if len(rows) < LEAST:
        return [*head, f"{len(rows)} networks are too few to say by how much; {LEAST} would do.", ""]
    luck = luck_of(view, seeds)
    spread, sound = luck.prior, _sound(view)
    best = rows.iloc[0]
    value, error, factor = spread.shrunken(float(best["reward"]))
    if spread.true_spread == 0:
        said = [
            f"Luck alone (± {spread.noise:.4f}) explains how far the better half of the rewards is spread "
            f"(± {spread.spread:.4f}): which of them came first in the search says nothing. A longer recipe or more validation "
            "images would."
        ]
    else:
        said = [
            f"The highest of {len(rows)} rewards, {best['reward']:.4f}, is high partly by luck; expect {value:.4f} ± "
            f"{error:.4f} of that network."
        ]
    if sound:
        own = _all_readings(sound[0], spread)
        said.append(
            f"Of the winner: {sound[0]['record']['reward']:.4f} in the search, {sound[0]['reward']:.4f} measured again, "
            f"{own[0]:.4f} ± {own[1]:.4f} expected from all its trainings."
        )
        said.append(
            f"Measured again, the finalists lost {luck.lost:.4f} on average, where {luck.foreseen:.4f} were to be expected"
            + (" by what is known of the noise: luck is taken to be as large as that says." if luck.raised else ".")
        )
    said.append(
        f"The estimate is the mean under a normal prior: what is above the median ({spread.centre:.4f}) is shrunk by the factor "
        f"{factor:.2f}, the share of the spread of the better half (± {spread.spread:.4f}) that luck (± {spread.noise:.4f}, from "
        f"{luck.source}) leaves. It holds for the highest of any number if the better half of the rewards scatters as a normal's."
    )
    lines = [*head, *said, ""]
    if len(sound) > 1:
        readings = [_all_readings(item, spread) for item in sound]
        cells = [
            [
                f"`{item['record']['arch_hash']}`",
                f"{item['record']['reward']:.4f}",
                f"{item['reward']:.4f}",
                f"{mean:.4f} ± {off:.4f}",
            ]
            for item, (mean, off, _) in zip(sound, readings, strict=True)
        ]
        lines += [*table(["finalist", "in the search", "measured again", "expected, from all"], cells), ""]
    return lines


def _all_readings(finalist: Mapping[str, Any], spread: Prior) -> tuple[float, float, float]:
    fresh: Sequence[float] = finalist.get("rewards") or [finalist["reward"]] * len(finalist["accuracies"])
    values = [finalist["record"]["reward"], *fresh]
    return spread.shrunken(sum(values) / len(values), len(values))


def _random(view: RunView) -> list[str]:
    head = ["### Beside random draws", ""]
    if view.run.manifest["sampler"] == "random":
        return [*head, "This run is a random search: every network was drawn at random.", ""]
    found = chance(view)
    whole = (
        "What a random search of the whole budget finds, only one can say: the same search with `--sampler random`, then "
        "`nas audit RUN --against` its folder."
    )
    if found is None:
        return [*head, f"Too few networks of this run are known to be drawn at random for a comparison. {whole}", ""]
    if found.low > 0.5:
        verdict = "The sampler's suggestions were better than random draws"
    elif found.high < 0.5:
        verdict = "The sampler's suggestions were **worse** than random draws"
    else:
        verdict = "The sampler's suggestions are not known to be better than random draws"
    numbers = sorted({number for number in (1, 5, 10, 20, 50, 100) if number < found.equal} | {found.equal})
    rows = [
        [str(number), f"{expected_best(found.random, number):.4f}", f"{expected_best(found.suggested, number):.4f}"]
        for number in numbers
    ]
    return [
        *head,
        f"{verdict}: one is better than the other in {found.better:.0%} of pairs (95 % interval {found.low:.0%} to "
        f"{found.high:.0%}; {len(found.suggested)} suggested, {len(found.random)} drawn at random, compared at the end of phase "
        f"{found.phase}). {whole}",
        "",
        *table(["networks", "expected best of so many random draws", "of so many suggestions"], rows),
        "",
    ]


def _exponents(view: RunView) -> list[str]:
    found = sensitivity(view)
    if found is None:
        return []
    number = len(found.cells)
    if found.firsts == 1:
        verdict = f"The same network comes first with all {number} pairs of exponents tried."
    else:
        verdict = f"{found.firsts} different networks come first with {number} pairs of exponents."
    whose = "The winner" if view.finalists else "The first of the run's own reward"
    beyond = f"`by`: the first is ahead of `{found.named[:8]}` by so much reward, more than twice the error."
    ws = list(dict.fromkeys(cell.reward.w for cell in found.cells))
    vs = list(dict.fromkeys(cell.reward.v for cell in found.cells))
    at = {(cell.reward.w, cell.reward.v): cell for cell in found.cells}
    rows = []
    for w in ws:
        cells = []
        for v in vs:
            cell = at[w, v]
            mark = "itself" if cell.first == found.named else f"`{cell.first[:8]}`"
            cells.append(mark + ("" if cell.within else f" by {cell.gap:.4f}"))
        rows.append([f"{w:g}", *cells])
    return [
        "### Exponents",
        "",
        f"{verdict} {whose} is first or not known to be worse with {found.within} of them (the exponents are the "
        "run's own times 0, 1/2, 1 and 2; raw values of the search).",
        "",
        *table(["w \\ v", *(f"{v:g}" for v in vs)], rows),
        "",
        *([beyond, ""] if found.within < number else []),
    ]


def _choices(view: RunView, found: Effects | None) -> list[str]:
    head = ["### Which choices mattered", ""]
    rows = view.trained()["arch_hash"].nunique()
    if found is None:
        needed = parameters(view)
        if not needed:
            return []
        return [*head, f"{rows} networks trained to the end are too few to say; {needed} may do.", ""]
    seen = found.seen()
    by_luck = 0.05 * len(found.effects)
    where = "in one stage, on average over the stages, " if found.pooled else ""
    if seen:
        first = seen[0]
        verdict = (
            f"Of {len(found.effects)} effects on the reward {len(seen)} can be told from 0 ({by_luck:.1f} would by luck alone). "
            f"The largest: {first.name} {first.words} {where}brings {_span(first.reward)}."
        )
    else:
        verdict = f"No choice can be seen to matter: all {len(found.effects)} intervals hold 0."
    lines = [
        *head,
        f"{verdict} Together they explain {found.fitted:.0%} of how rewards differ ({found.networks} networks, each effect "
        "beside all others, 95 % intervals; of the networks that this search trained to the end, which are no fair sample "
        "of the space).",
    ]
    if found.pooled:
        lines.append(f"By stage they could be told from {found.needed} networks on.")
    listed = found.effects[:LISTED]
    cells = [
        [
            item.name,
            item.words,
            _span(item.reward),
            _span(item.accuracy),
            "{0.value:+.1f} % ± {0.half:.1f}".format(percent(item.log_time)),
            f"{item.share:.0%}",
        ]
        for item in listed
    ]
    heads = ["choice", "what is compared", "reward", "accuracy", "step time", "of the reward's variance"]
    return [*lines, "", "![Main effects](effects.png)", "", *table(heads, cells), ""]


def _span(span: Span) -> str:
    return f"{span.value:+.4f} ± {span.half:.4f}"


def _many(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"
