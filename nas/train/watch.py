"""What a training tells whoever watches it, epoch by epoch, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nas.runs import Run


@dataclass(frozen=True)
class EpochRow:
    """One epoch: a row of `history.csv`.

    Args:
        epoch: From 1. phase: From 1. resolution: Of the training images (pixels). learning_rate: Of the last step.
        train_loss: Mean over the epoch, with label smoothing and on mixed images where the recipe has them.
        val_accuracy: 0..1, at the test resolution, of the averaged weights where the recipe has them. val_error: Its
            standard error. seconds: Wall time, with the score. images_per_second: Of training alone.
        micro_batch: Images of one forward pass at most; below the batch where memory did not suffice. device: Where it was
            trained, by name: a training may go on elsewhere.
    """

    epoch: int
    phase: int
    resolution: int
    learning_rate: float
    train_loss: float
    val_accuracy: float
    val_error: float
    seconds: float
    images_per_second: float
    micro_batch: int
    device: str

    def document(self) -> dict[str, Any]:
        """Return the row as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class TrainResult:
    """What a training left behind.

    Args:
        run: Its folder: `weights.safetensors` are the best weights, `arch.yaml` the network, `report.md` the report.
        val_accuracy: Of the best epoch, 0..1. val_error: Its standard error. best_epoch: From 1.
        history: Every epoch. summary: What `result.json` holds.
    """

    run: Run
    val_accuracy: float
    val_error: float
    best_epoch: int
    history: tuple[EpochRow, ...]
    summary: Mapping[str, Any]


class Watcher:
    """Whoever wants to see a training go on overrides what interests them; the command line draws its progress so."""

    def packing(self, done: int, total: int) -> None:
        """Images have been decoded."""

    def opened(self, run: Run) -> None:
        """The run has its folder: from now on it can be continued."""

    def started(self, run: Run, history: Sequence[EpochRow], remarks: Sequence[str]) -> None:
        """The training begins, with the epochs that are done already, and sentences on what one should know of it."""

    def note(self, sentence: str) -> None:
        """Something happened that the user should know."""

    def waiting(self) -> None:
        """Another run holds the device."""

    def stepped(self, epoch: int, resolution: int, done: int, steps: int) -> None:
        """Some steps of an epoch are done."""

    def epoch(self, row: EpochRow, best: bool) -> None:
        """An epoch has ended, and is on the disk. `best`: no epoch before was as accurate."""
