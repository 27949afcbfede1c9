"""What `report.md` says of a front: its members measured again, the knee, what it holds, and how the search saw it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from statistics import fmean

from nas.front import STEP_TIME, front, shown
from nas.report.front import Member, front_of, named, reference, volumes
from nas.report.markdown import table
from nas.report.read import RunView
from nas.space import format_count


def head(view: RunView) -> list[str]:
    """Return the sections that take the winner's place."""
    found = front_of(view)
    if not found:
        return ["The search has not ended; its front has not been measured again yet.", ""]
    first = found[0]
    record = view.finalists[first.place]["record"]
    seeds = len(view.finalists[first.place]["accuracies"])
    folder = shlex.quote(str(view.run.folder))
    lines = [
        "## Front, measured again",
        "",
        f"Accuracy against {named(view.costs)}, over {seeds} fresh seed{'s' * (seeds != 1)}. {_kept(found)} The knee, from "
        "which more accuracy costs most and a lower cost loses most, is the winner.",
        "",
        *table(_heads(view.costs), [_row(item, view.costs) for item in found]),
        "",
        f"Knee: trial {first.number}, `{first.arch_hash}` `{first.arch}`: accuracy {first.accuracy:.4f} ± "
        f"{first.accuracy_error:.4f}, {_costs(first, view.costs)}; {format_count(record['num_params'])} parameters, "
        f"{format_count(record['macs'])} MACs.",
        "",
        *_doubts(found),
        _flattered(found),
        "",
        *_volumes(view),
        f"Each is in `front/trial-N.yaml`, all are in `front.csv`. Hand one over: `nas export {folder} --trial "
        f"{found[-1].number}`; train one: `nas train {folder}/front/{found[-1].name}.yaml`.",
        "",
    ]
    return lines


def believed(view: RunView) -> str:
    """Return in a few words how far a front is to be believed."""
    found = front_of(view)
    return f"{_kept(found)} {_flattered(found)}" if found else "None of its networks has been measured again yet."


def _kept(found: Sequence[Member]) -> str:
    kept = sum(not item.verdict.startswith("beaten") for item in found)
    return f"Of {len(found)} networks measured again {kept} {'is' if kept == 1 else 'are'} beaten by none."


def _flattered(found: Sequence[Member]) -> str:
    optimism = fmean(item.search_accuracy - item.accuracy for item in found)
    return f"On average the search saw these accuracies {optimism:+.4f} higher: a front of noisy values is made of the lucky."


def _heads(costs: Sequence[str]) -> list[str]:
    return ["trial", "network", "verdict", "accuracy, fresh", "in the search", *map(shown, costs)]


def _row(item: Member, costs: Sequence[str]) -> list[str]:
    verdict = item.verdict
    if item.beaten_by is not None:
        verdict = verdict.replace("beaten", f"beaten by {item.beaten_by}", 1)
    return [
        str(item.number),
        f"`{item.arch_hash}`",
        verdict,
        f"{item.accuracy:.4f} ± {item.accuracy_error:.4f}",
        f"{item.search_accuracy:.4f}",
        *(_cost(*cell) for cell in zip(costs, item.costs, item.cost_errors, strict=True)),
    ]


def _cost(cost: str, value: float, error: float) -> str:
    if cost == STEP_TIME:
        return f"{value:.3f} ± {error:.3f}"
    if cost == "latency_ms":
        return f"{value:.3g} ± {error:.2g}"
    return f"{value:.0f}" if cost == "peak_memory_mib" else format_count(value)


def _costs(item: Member, costs: Sequence[str]) -> str:
    return ", ".join(
        f"{shown(cost)} {_cost(cost, value, error)}"
        for cost, value, error in zip(costs, item.costs, item.cost_errors, strict=True)
    )


def _doubts(found: Sequence[Member]) -> list[str]:
    beaten = [item for item in found if item.verdict == "beaten"]
    if not beaten:
        return []
    several = len(beaten) != 1
    return [
        f"{len(beaten)} {'are' if several else 'is'} beaten by less than twice the error of the difference in accuracy: "
        f"{'they' if several else 'it'} may belong to the front all the same.",
        "",
    ]


def _volumes(view: RunView) -> list[str]:
    seen, fresh = volumes(view)
    accuracy, *costs = reference(view)
    worst = ", ".join(f"{shown(cost)} {_plain(cost, value)}" for cost, value in zip(view.costs, costs, strict=True))
    again = "" if fresh is None else f"{fresh:.4f} measured again (of the members above), "
    return [
        f"Hypervolume (accuracy x ln cost): {again}{seen:.4f} as the search saw its whole front; against the reference accuracy "
        f"{accuracy:.4f} (guessing), {worst} (the dearest trained here).",
        "",
    ]


def _plain(cost: str, value: float) -> str:
    return f"{value:.3f}" if cost == STEP_TIME else f"{value:.3g}" if cost == "latency_ms" else _cost(cost, value, 0.0)


def body(view: RunView) -> list[str]:
    """Return the section on the front as the search saw it."""
    if view.trained().empty:
        return []
    points = view.points()
    counted = [cost for cost in ("num_params", "macs") if cost not in view.costs]
    places, rows = front(points), []
    for place, row in zip(places, view.trained().iloc[places].to_dict("records"), strict=True):
        _, *costs = points[place]
        rows.append(
            [
                str(row["number"]),
                f"`{row['arch_hash']}`",
                f"{row['val_accuracy']:.4f} ± {row['val_error']:.4f}",
                *(_plain(cost, value) for cost, value in zip(view.costs, costs, strict=True)),
                *(format_count(row[cost]) for cost in counted),
                f"`{row['arch']}`",
            ]
        )
    heads = ["trial", "network", "accuracy", *map(shown, view.costs), *counted, "stages"]
    return ["## Front as the search saw it", "", *table(heads, rows), ""]
