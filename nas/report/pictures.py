"""The pictures of `report.html`: the front, the progress, the effects, and where the time went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pandas as pd
from markupsafe import Markup

from nas.front import STEP_TIME, Point, front, hypervolume, shown
from nas.objective import pareto
from nas.report.chance import chance, expected_best
from nas.report.effects import SHOWN, Effects, percent
from nas.report.front import front_of, named, reference
from nas.report.read import RunView
from nas.report.spent import Spent
from nas.report.svg import Axis, Mark, Row, Series, chart, intervals, pages
from nas.space import format_count

ACCURACY = Axis("validation accuracy of the proxy")


def front_pictures(view: RunView) -> Markup:
    """Return accuracy against the step time, or against each cost of a run that looked for a front."""
    baseline = view.run.manifest["baseline"]["name"]
    if view.costs:
        return Markup("").join(_cost_picture(view, number, baseline) for number in range(len(view.costs)))
    series = [*reward_series(view), *_finalist_series(view)]
    return chart(
        "Accuracy against step time",
        f"{len(view.trained())} trained networks; the tables below hold the finalists and the front.",
        Axis(f"training step time, relative to {baseline}", log=True),
        ACCURACY,
        series,
        upright=(1.0, baseline),
    )


def reward_series(view: RunView) -> list[Series]:
    """Return the networks of a run by relative step time: stopped early, trained, and the front of these."""
    rows = {str(row["arch_hash"]): row for row in view.trained()[::-1].to_dict("records")}
    best = pareto(view.candidates())
    stopped = view.trials[view.trials["kind"] == "pruned"].dropna(subset=["step_time_ms", "val_accuracy"])
    on_front = {item.arch_hash for item in best}
    others = [row for name, row in rows.items() if name not in on_front]
    return [
        Series(f"stopped early ({len(stopped)})", tuple(map(_mark, stopped.to_dict("records"))), "faint", aside=True),
        Series(f"trained ({len(rows)})", tuple(map(_mark, others)), "c1"),
        Series(
            f"front as the search saw it ({len(best)})",
            tuple(_mark(rows[item.arch_hash]) for item in best),
            "c1",
            "square",
            "steps",
        ),
    ]


def _mark(row: Mapping[Any, Any]) -> Mark:
    return Mark(row["step_time_ms"] / row["ref_step_time_ms"], row["val_accuracy"], trial_said(row))


def trial_said(row: Mapping[Any, Any]) -> tuple[str, ...]:
    """Return what is shown when a trial of the search is pointed at."""
    return (
        f"trial {row['number']}, {str(row['arch_hash'])[:8]}" + (", stopped early" if row["kind"] == "pruned" else ""),
        f"accuracy {row['val_accuracy']:.4f} ± {row['val_error']:.4f}",
        f"step time {row['step_time_ms']:.2f} ± {row['step_time_mad_ms']:.2f} ms, "
        f"{row['step_time_ms'] / row['ref_step_time_ms']:.2f} x the baseline's",
        f"{format_count(row['num_params'])} parameters, {format_count(row['macs'])} MACs",
        f"reward {row['reward']:.4f}",
    )


def _finalist_series(view: RunView) -> list[Series]:
    marks = [finalist_mark(item) for item in view.finalists if item["accuracies"]]
    return [
        Series("other finalists, fresh seeds", tuple(marks[1:]), "c2", "diamond"),
        Series("winner, fresh seeds", tuple(marks[:1]), "c2", "star"),
    ]


def finalist_mark(item: Mapping[str, Any]) -> Mark:
    """Return a finalist as it was measured again, by relative step time."""
    record, ratio = item["record"], sum(item["step_time_ms"]) / sum(item["ref_step_time_ms"])
    seeds = len(item["accuracies"])
    said = (
        f"{record['arch_hash'][:8]}, {seeds} fresh seed{'s' * (seeds != 1)}",
        f"accuracy {item['accuracy']:.4f} ± {item['accuracy_error']:.4f}",
        f"step time {fmean(item['step_time_ms']):.2f} ms (MAD {max(item['step_time_mad_ms']):.2f}), "
        f"{ratio:.2f} x the baseline's",
        f"{format_count(record['num_params'])} parameters, {format_count(record['macs'])} MACs",
        f"reward {item['reward']:.4f}, in the search {record['reward']:.4f}",
    )
    return Mark(ratio, item["accuracy"], said, y_error=item["accuracy_error"])


def _cost_picture(view: RunView, number: int, baseline: str) -> Markup:
    cost = view.costs[number]
    series = cost_series(view, number)
    axis = Axis(f"training step time, relative to {baseline}" if cost == STEP_TIME else cost, True, _tick(cost))
    return chart(
        f"Accuracy against {shown(cost)}",
        f"{len(view.trained())} trained networks; the tables below hold the front.",
        axis,
        ACCURACY,
        series,
        upright=(1.0, baseline) if cost == STEP_TIME else None,
    )


def _tick(cost: str) -> Any:
    return format_count if cost in ("num_params", "macs") else "{:g}".format


def cost_series(view: RunView, number: int) -> list[Series]:
    """Return the networks of a run that looked for a front, by one of its costs, with the members measured again."""
    rows, points = view.trained().to_dict("records"), view.points()
    seen = front(points)
    fresh = [
        (
            item.verdict,
            Mark(
                item.costs[number],
                item.accuracy,
                (
                    f"trial {item.number}, {item.arch_hash[:8]}: {item.verdict}",
                    f"accuracy {item.accuracy:.4f} ± {item.accuracy_error:.4f} with fresh seeds",
                    *(
                        f"{shown(name)} {format_count(value)}"
                        for name, value in zip(view.costs, item.costs, strict=True)
                    ),
                ),
                item.cost_errors[number],
                item.accuracy_error,
            ),
        )
        for item in front_of(view)
    ]

    def marks(places: Sequence[int]) -> tuple[Mark, ...]:
        return tuple(Mark(points[place][number + 1], points[place][0], trial_said(rows[place])) for place in places)

    def kept(*verdicts: str) -> tuple[Mark, ...]:
        return tuple(mark for verdict, mark in fresh if verdict in verdicts)

    others = [place for place in range(len(points)) if place not in seen]
    return [
        Series(f"trained ({len(points)})", marks(others), "faint"),
        Series(
            f"front as the search saw it ({len(seen)})", marks(seen), "c1", "square", "steps" * (len(view.costs) == 1)
        ),
        Series("beaten when measured again", kept("beaten", "beaten beyond error"), "c3", "cross"),
        Series("front, fresh seeds", kept("front"), "c2", "diamond"),
        Series("knee, fresh seeds", kept("knee"), "c2", "star"),
    ]


def progress(view: RunView) -> Markup:
    """Return the best so far by networks that cost budget, beside random draws where there are enough of them."""
    own = budgeted(view)
    if own.empty:
        return Markup("")
    if view.costs:
        return _volume_progress(view, own)
    series = progress_series(own)
    found = None if view.run.manifest["sampler"] == "random" else chance(view)
    if found is not None:
        number = len(found.random)
        expected = tuple(Mark(count, expected_best(found.random, count)) for count in range(1, number + 1))
        series.append(Series(f"expected best of random draws (of this run's {number})", expected, "c3", "", "dashed"))
    return chart(
        "Best reward so far",
        f"After {len(own)} networks the best reward is {own['reward'].where(own['kind'] == 'trained').max():.4f}.",
        Axis("networks that cost budget"),
        Axis("reward"),
        series,
    )


def budgeted(view: RunView) -> pd.DataFrame:
    """Return the trials of a run that cost budget, in their order, with their place as `spent`."""
    own = view.trials[view.trials["kind"].isin(["trained", "pruned"])].sort_values("number", kind="stable")
    if "origin" in own:
        own = own[own["origin"].isna() | (own["origin"] == "")]
    return own.assign(spent=range(1, len(own) + 1))


def progress_series(own: pd.DataFrame, name: str = "best so far", colour: str = "c1") -> list[Series]:
    """Return the rewards of networks trained to the end, and the best of them so far."""
    rows = own[own["kind"] == "trained"].to_dict("records")
    if not rows:
        return []
    steps = list[Mark]()
    for row in rows:
        if not steps or row["reward"] > steps[-1].y:
            steps.append(Mark(row["spent"], row["reward"]))
    steps.append(Mark(len(own), steps[-1].y))
    each = tuple(Mark(row["spent"], row["reward"], trial_said(row)) for row in rows)
    return [Series("", each, f"{colour} light"), Series(name, tuple(steps), colour, "", "steps")]


def _volume_progress(view: RunView, own: pd.DataFrame) -> Markup:
    by_hash = dict(zip(view.trained()["arch_hash"], view.points(), strict=True))
    worst, kept, steps = reference(view) if by_hash else (), list[Point](), list[Mark]()
    for row in own.to_dict("records"):
        if row["kind"] != "trained":
            continue
        kept = [*kept, by_hash[row["arch_hash"]]]
        kept = [kept[place] for place in front(kept)]
        steps.append(Mark(row["spent"], hypervolume(kept, worst), trial_said(row)))
    return chart(
        "Hypervolume of the front so far",
        f"Accuracy against {named(view.costs)}.",
        Axis("networks that cost budget"),
        Axis("hypervolume (accuracy x ln cost)"),
        [Series("front so far", tuple(steps), "c1", "dot", "steps")],
    )


def effect_pictures(found: Effects) -> Markup:
    """Return the largest effects on reward, accuracy and step time with their intervals."""
    shown_ = found.effects[:SHOWN]
    said = f"The {len(shown_)} largest of {len(found.effects)} effects with 95 % intervals; grey is not told from 0."
    parts = []
    for name, spans, text in (
        ("reward", [item.reward for item in shown_], "{:+.4g}".format),
        ("accuracy", [item.accuracy for item in shown_], "{:+.4g}".format),
        ("step time, %", [percent(item.log_time) for item in shown_], "{:+.3g}".format),
    ):
        rows = [
            Row(f"{item.name}: {item.words}", span.value, span.half, span.seen)
            for item, span in zip(shown_, spans, strict=True)
        ]
        parts.append(intervals(f"Effect on {name}", said, rows, text))
    return Markup('<div class="grid-of-3 picture">{}</div><p class="fine">{}</p>').format(Markup("").join(parts), said)


@dataclass(frozen=True)
class Piece:
    """A piece of the bar of time."""

    name: str
    minutes: float
    share: float
    colour: str


def time_picture(found: Spent) -> Markup:
    """Return where the minutes of a run went as one bar, largest first; nothing of a run that took none."""
    shares = [item for item in found.rows if item.what != "all"]
    timing = sum(item.timing or 0.0 for item in shares)
    parts = [("timing", timing)]
    parts += [(_PIECES.get(item.what, item.what), item.seconds - (item.timing or 0.0)) for item in shares]
    total = sum(seconds for _, seconds in parts)
    if total <= 0:
        return Markup("")
    parts = sorted(((name, seconds) for name, seconds in parts if seconds > 0.0005 * total), key=lambda part: -part[1])
    pieces = [
        Piece(name, seconds / 60, seconds / total, f"c{number % 6 + 1}") for number, (name, seconds) in enumerate(parts)
    ]
    return Markup(pages.get_template("time.svg").render(pieces=pieces, minutes=total / 60))


_PIECES = {"trained": "networks trained to the end", "pruned": "networks stopped early"}
