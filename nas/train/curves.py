"""The picture of a training: loss, accuracy and learning rate by epoch, with the steps of the image size."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nas.runs import write_bytes
from nas.train.watch import EpochRow


def write_curves(history: Sequence[EpochRow], path: Path, title: str) -> None:
    """Draw the learning curves of a training as a PNG; the band is twice the accuracy's standard error each way.

    Raises:
        RunError: the file cannot be written.
    """
    figure = Figure(figsize=(7.5, 7), dpi=130, layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1.3])
    epochs = [row.epoch for row in history]
    marks = {"marker": "." if len(history) < 40 else "", "lw": 1.2}
    top.plot(epochs, [row.train_loss for row in history], color="#4878a8", **marks)
    top.set_ylabel("training loss")
    top.set_title(title, fontsize=10, parse_math=False)
    accuracy = [row.val_accuracy for row in history]
    middle.plot(epochs, accuracy, color="#c8503c", **marks)
    middle.fill_between(
        epochs,
        [row.val_accuracy - row.val_error for row in history],
        [row.val_accuracy + row.val_error for row in history],
        color="#c8503c",
        alpha=0.18,
        lw=0,
    )
    middle.set_ylabel("validation accuracy")
    bottom.plot(epochs, [row.learning_rate for row in history], color="0.35", **marks)
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("epoch")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    bottom.set_xlim(0.5, len(history) + 0.5)
    for axes in (top, middle, bottom):
        axes.grid(alpha=0.3)
        _mark_sizes(axes, history, named=axes is top)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_bytes(path, picture.getvalue())


def _mark_sizes(axes: Axes, history: Sequence[EpochRow], named: bool) -> None:
    """Draw a line where the image size steps up, and name the sizes along the top."""
    before = None
    for row in history:
        if row.resolution != before:
            if before is not None:
                axes.axvline(row.epoch - 0.5, color="0.6", lw=0.8, ls=":")
            if named:
                place = (row.epoch - 0.5 + 0.008 * len(history), 0.97)
                axes.text(
                    *place,
                    f"{row.resolution} px",
                    transform=axes.get_xaxis_transform(),
                    fontsize=7,
                    va="top",
                    color="0.35",
                )
        before = row.resolution
