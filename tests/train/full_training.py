"""A full training that is small enough to be done, stopped and done again in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tiny import TINY_NETWORK, write_images

from nas import catalog
from nas.spec import ArchSpec
from nas.train.session import train_network
from nas.train.watch import EpochRow, TrainResult, Watcher

RECIPE = """
extends: short
epochs: 4
batch_size: 16
progressive: {phases: 2, size: [0.5, 1], magnitude: [2, 5], mixup: [0, 0.2], dropout: [0.1, 0.3], multiple: 4}
cutmix: [0, 0.5]
erasing: 0.2
drop_path: 0.2
ema_decay: 0.9
"""


class Place:
    """A network, images and a recipe in a folder; trainings of them."""

    def __init__(self, folder: Path, recipe: str = RECIPE, per_class: int = 24) -> None:
        self.folder = folder
        self.arch, self.recipe = folder / "net.yaml", folder / "recipe.yaml"
        self.arch.write_text(TINY_NETWORK)
        self.recipe.write_text(recipe)
        self.data = write_images(folder / "images", per_class)

    @property
    def spec(self) -> ArchSpec:
        return catalog.load_arch(self.arch)

    def train(self, out: str, watcher: Watcher | None = None, **settings: Any) -> TrainResult:
        """Train into a folder beside the others."""
        given: dict[str, Any] = {"recipe": str(self.recipe), "data": str(self.data), "device": "cpu", **settings}
        return train_network(self.spec, out=self.folder / out, watcher=watcher, **given)


class StopAt(Watcher):
    """Stops a training: as Ctrl-C does, in an epoch or at its end."""

    def __init__(self, epoch: int, *, within: bool = False) -> None:
        self._epoch, self._within = epoch, within

    def stepped(self, epoch: int, resolution: int, done: int, steps: int) -> None:
        if self._within and epoch == self._epoch:
            raise KeyboardInterrupt

    def epoch(self, row: EpochRow, best: bool) -> None:
        if not self._within and row.epoch == self._epoch:
            raise KeyboardInterrupt


class Notes(Watcher):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, sentence: str) -> None:
        self.said.append(sentence)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "weights.safetensors")


def last(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run / "last.pt", weights_only=True)
    return content


def assert_same(first: Any, second: Any) -> None:
    """Hold that two checkpoints are the same, to the last bit."""
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert list(first) == list(second)
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, list | tuple):
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            assert_same(a, b)
    else:
        assert first == second


def assert_same_training(first: Path, second: Path) -> None:
    """Hold that two runs ended with the same weights, averages, optimiser and accuracies."""
    one, two = last(first), last(second)
    one.pop("facts"), two.pop("facts")  # they hold times
    assert_same(one, two)
    assert_same(weights(first), weights(second))
    timeless = [0, 1, 2, 3, 4, 5, 6, 9]
    rows = [
        [[line.split(",")[place] for place in timeless] for line in (run / "history.csv").read_text().splitlines()]
        for run in (first, second)
    ]
    assert rows[0] == rows[1]
