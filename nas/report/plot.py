"""The picture of a search: accuracy against measured step time."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure

from nas.objective import pareto
from nas.report.read import RunView
from nas.runs import write_bytes


def write_plot(view: RunView, path: Path) -> None:
    """Draw every trained network by relative step time and accuracy, the front and the finalists, as a PNG.

    Raises:
        RunError: the file cannot be written.
    """
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
    axes.set_title(f"{manifest['space']} on {manifest['data']['name']}, {manifest['device']['name']}", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_bytes(path, picture.getvalue())
