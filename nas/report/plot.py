"""The picture of a search: accuracy against measured step time."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure

from nas.front import front, shown
from nas.objective import pareto
from nas.report.front import front_of
from nas.report.read import RunView
from nas.runs import write_bytes


def write_plot(view: RunView, path: Path) -> None:
    """Draw every trained network by relative step time and accuracy, the front and the finalists, as a PNG.

    A run that looked for a front has a picture for each of its costs, with the members measured again and the knee.

    Raises:
        RunError: the file cannot be written.
    """
    if view.costs:
        _save(_front_figure(view), path)
        return
    figure = Figure(figsize=(7.5, 4.8), dpi=130, layout="constrained")
    axes = figure.subplots()
    candidates = view.candidates()
    pruned = view.trials[view.trials["kind"] == "pruned"]
    if len(pruned):
        axes.scatter(
            pruned["step_time_ms"] / pruned["ref_step_time_ms"],
            pruned["val_accuracy"],
            s=14,
            color="0.8",
            label=f"stopped early ({len(pruned)})",
        )
    times = [item.relative_time for item in candidates]
    axes.errorbar(
        times,
        [item.val_accuracy for item in candidates],
        yerr=[item.val_error for item in candidates],
        fmt="o",
        ms=4,
        lw=0.6,
        color="#4878a8",
        alpha=0.7,
        label=f"trained ({len(candidates)})",
    )
    front = pareto(candidates)
    axes.step(
        [item.relative_time for item in front],
        [item.val_accuracy for item in front],
        where="post",
        color="#4878a8",
        lw=1,
        label="front",
    )
    for place, finalist in enumerate(item for item in view.finalists if item["accuracies"]):
        ratio = sum(finalist["step_time_ms"]) / sum(finalist["ref_step_time_ms"])
        axes.errorbar(
            [ratio],
            [finalist["accuracy"]],
            yerr=[finalist["accuracy_error"]],
            fmt="*" if place == 0 else "D",
            ms=13 if place == 0 else 6,
            color="#c8503c",
            label="winner, fresh seeds" if place == 0 else "other finalists" if place == 1 else None,
        )
    manifest = view.run.manifest
    axes.set_xscale("log")
    axes.set_xlabel(f"training step time, relative to {manifest['baseline']['name']}")
    axes.set_ylabel("validation accuracy of the proxy")
    axes.set_title(_title(view), fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    _save(figure, path)


def _front_figure(view: RunView) -> Figure:
    figure = Figure(figsize=(7.5 * len(view.costs), 4.8), dpi=130, layout="constrained")
    points = view.points()
    best, fresh = [points[place] for place in front(points)], front_of(view)
    kept = [item for item in fresh if not item.verdict.startswith("beaten")]
    for number, (cost, axes) in enumerate(
        zip(view.costs, figure.subplots(1, len(view.costs), squeeze=False)[0], strict=True)
    ):
        for label, seen, colour in (
            (f"trained ({len(points)})", points, "0.75"),
            (f"front as the search saw it ({len(best)})", best, "#4878a8"),
        ):
            axes.plot(
                [item[number + 1] for item in seen], [item[0] for item in seen], "o", ms=4, color=colour, label=label
            )
        beaten = [item for item in fresh if item not in kept]
        for label, members, mark, size, colour in (
            (f"front, fresh seeds ({len(kept)})", kept, "D", 5, "#c8503c"),
            (f"beaten when measured again ({len(beaten)})", beaten, "x", 6, "0.3"),
            ("knee", [item for item in kept if item.verdict == "knee"], "*", 15, "#c8503c"),
        ):
            if members:
                axes.errorbar(
                    [item.costs[number] for item in members],
                    [item.accuracy for item in members],
                    xerr=[item.cost_errors[number] for item in members],
                    yerr=[item.accuracy_error for item in members],
                    fmt=mark,
                    ms=size,
                    lw=0.8,
                    color=colour,
                    label=label,
                )
        if len(view.costs) == 1 and kept:  # with two costs a front is no line
            line = sorted(kept, key=lambda item: item.costs)
            axes.step(
                [item.costs[0] for item in line], [item.accuracy for item in line], where="post", color="#c8503c", lw=1
            )
        axes.set_xscale("log")
        axes.set_xlabel(shown(cost))
        axes.set_ylabel("validation accuracy of the proxy")
        axes.set_title(_title(view), fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="lower right")
    return figure


def _title(view: RunView) -> str:
    manifest = view.run.manifest
    return f"{manifest['space']} on {manifest['data']['name']}, {manifest['device']['name']}"


def _save(figure: Figure, path: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_bytes(path, picture.getvalue())
