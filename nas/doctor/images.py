"""The images of `--data`, and whether reading or training is the slower part of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nas.doctor._check import Check, Level
from nas.objective import few_images

if TYPE_CHECKING:
    import torch

    from nas.cost import Measurement
    from nas.data import Dataset
    from nas.spec import ArchSpec
    from nas.train.loop import DeviceData
    from nas.train.recipes import Recipe
    from nas.train.schedule import Phase

FEW_PER_CLASS = 20
LONG_SEARCH_S = 24 * 3600.0
MUCH_INPUT = 0.25
"""Share of a training step from which its input is worth a warning."""


def described(data: Dataset, recipe: Recipe) -> Iterator[Check]:
    """Yield what the images are, and what in them would make a search say little."""
    yield Check("data", "name", "ok", f"{data.name}, fingerprint {data.fingerprint}", values={"hash": data.fingerprint})
    yield _classes(data)
    colours = {1: "grey", 3: "RGB"}.get(data.in_channels, f"{data.in_channels} channels")
    mean, std = (" ".join(f"{value:.3f}" for value in values) for values in (data.mean, data.std))
    stored = f"stored at {data.size} x {data.size} pixels, {colours}; mean {mean}, std {std} (0 to 1)"
    yield Check("data", "images", "ok", stored, values={"size": data.size, "mean": data.mean, "std": data.std})
    yield _splits(data, recipe)
    for note in data.notes:
        yield Check("data", "note", "ok", note)


def _classes(data: Dataset) -> Check:
    import numpy as np

    counts = np.bincount(np.concatenate([data.train.labels, data.val.labels]), minlength=data.num_classes)
    least, most = int(np.argmin(counts)), int(np.argmax(counts))
    low, high, median = int(counts[least]), int(counts[most]), int(np.median(counts))
    values = {"classes": data.num_classes, "min": low, "median": median, "max": high}
    if low == high:
        found = f"{data.num_classes}, {low} images each"
    else:
        found = (
            f"{data.num_classes}, with {low} ({data.class_names[least]!r}) to {high} ({data.class_names[most]!r}) images, "
            f"median {median}"
        )
    if low < FEW_PER_CLASS:
        advice = f"Fewer than {FEW_PER_CLASS} images of a class teach and show little: add some, or leave it out."
        return Check("data", "classes", "warning", found, advice, values)
    return Check("data", "classes", "ok", found, values=values)


def _splits(data: Dataset, recipe: Recipe) -> Check:
    train, val = len(data.train), len(data.val)
    used = {"train": min(train, recipe.train_images), "val": min(val, recipe.val_images)}
    found = f"{train} training and {val} validation images; recipe {recipe.name} uses {used['train']} and {used['val']} of them"
    advice = few_images(used["val"], val)
    if used["train"] < recipe.batch_size:
        advice.append(f"Fewer training images than a batch of {recipe.batch_size}: give a recipe with a smaller one.")
    return Check("data", "splits", "warning" if advice else "ok", found, " ".join(advice), {**used})


@dataclass(frozen=True)
class Throughput:
    """What a step's two parts take.

    Args:
        batch: Making a batch: picking, augmenting, resizing, mixing. step: The training step. Both in ms, by blocks in turns.
        batch_size: Images in both. resolution: In pixels.
        steps: Steps in one training of this network by the recipe.
    """

    batch: Measurement
    step: Measurement
    batch_size: int
    resolution: int
    steps: int

    @property
    def input_share(self) -> float:
        """The share of a whole step, batch and training, that making the batch takes: one follows the other."""
        return self.batch.value / (self.batch.value + self.step.value)


def throughput(
    data: Dataset, spec: ArchSpec, recipe: Recipe, device: torch.device, waiting: Callable[[], None] | None = None
) -> Throughput:
    """Time the making of a batch and the training step on it, side by side, alone in the lane of the device.

    Both at the network's resolution and with the augmentation of the recipe's last phase, which is its strongest.

    Raises:
        torch.OutOfMemoryError: a step does not fit.
    """
    from nas.cost.step_time import Protocol, step_times
    from nas.devices import lane_name
    from nas.lane import lane
    from nas.train import loop
    from nas.train.schedule import phases

    plan = phases(recipe.progressive, spec.resolved().resolution, recipe.epochs)
    there = loop.to_device(data, recipe, device)
    step = loop.timing_step(loop.start(spec, recipe, device, seed=0), there, recipe, plan[-1].resolution)
    protocol = Protocol(
        warmup_steps=2, settle=0.0, min_blocks=9, max_blocks=30, at_cap=3, block_s=0.05, target=0.01, cap_s=4.0
    )
    with lane(lane_name(device), alone=True, waiting=waiting):
        batch, training = step_times([_batch(there, recipe, plan[-1]), step], device, protocol)
    steps = sum(loop.phase_steps(len(there.train_labels), recipe, phase) for phase in plan)
    return Throughput(batch, training, recipe.batch_size, plan[-1].resolution, steps)


def _batch(data: DeviceData, recipe: Recipe, phase: Phase) -> Callable[[], object]:
    """Return the making of one batch, as the training loop does it."""
    import torch

    from nas.train.loop import make_batch

    generator = torch.Generator(device=data.device).manual_seed(0)
    shape = (recipe.batch_size,)

    def make() -> object:
        index = torch.randint(len(data.train_labels), shape, generator=generator, device=data.device)
        return make_batch(data, index, recipe, phase, generator)

    return make


def told(found: Throughput, spec: ArchSpec) -> Iterator[Check]:
    """Yield what a throughput means."""
    at = f"{found.resolution} pixels"
    for name, part, what in (
        (
            "input",
            found.batch,
            f"to make a batch of {found.batch_size} at {at}, augmented as in the recipe's last phase",
        ),
        ("training", found.step, f"for the training step of {spec.name} on it"),
    ):
        rate = found.batch_size / part.value * 1e3
        words = f"{rate:,.0f} images/s: {part.value:.2f} ms ± {part.spread:.2f} (MAD, n {part.n}) {what}"
        values = {"images_per_s": rate, "ms": part.value, "mad_ms": part.spread, "n": part.n}
        yield Check("speed", name, "ok", words, values=values)
    share = found.input_share
    slower = "the input pipeline" if share > 0.5 else "the training step"
    level: Level = "warning" if share > MUCH_INPUT else "ok"
    advice = (
        "A recipe with less augmentation (crop_scale: 1, magnitude: [0, 0]) or a lower resolution makes it cheaper."
    )
    words = f"{slower}; making the batch takes {share:.1%} of a step with its input"
    yield Check("speed", "bottleneck", level, words, advice if level == "warning" else "", {"input_share": share})
    seconds = found.steps * (found.batch.value + found.step.value) / 1e3
    words = (
        f"one training of {spec.name} is {found.steps} steps: {_duration(seconds)} at most (earlier phases have smaller "
        f"images), 50 like it {_duration(50 * seconds)}"
    )
    long = 50 * seconds > LONG_SEARCH_S
    advice = "Search a smaller space (v2_tiny), give a shorter recipe (--recipe quick), or use a GPU." if long else ""
    values = {"steps": found.steps, "seconds": seconds}
    yield Check("speed", "estimate", "warning" if long else "ok", words, advice, values)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
