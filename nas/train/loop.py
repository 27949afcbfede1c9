"""The training loop: one phase of one network, readable from top to bottom.

Seeds: a phase draws its order, augmentation, dropout and drop path from generators seeded by (seed, phase), so every
network of a search sees the same images in the same order, and a trial that continues from a checkpoint repeats what
it would have seen. Sums on several threads, and on CUDA also convolutions, are not bit-reproducible.

A step is done in one of two ways. The plain one is the reference: a batch is made, a rate is set, a step is done. The other
one finds its batch, its rate and its sum at fixed places on the device, so that it can be captured in a CUDA graph. Both see
the same images, rates and random numbers in the same order; a test holds them equal to the bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from nas.data.augment import Augment, eval_batch, mix, train_batch
from nas.models import Network, build
from nas.spec import ArchSpec
from nas.train.full_recipes import FullRecipe
from nas.train.graphs import Replayer, Work
from nas.train.images import DeviceData as DeviceData  # what a network is trained on goes with its training
from nas.train.images import Images as Images
from nas.train.images import sample as sample
from nas.train.images import to_device as to_device
from nas.train.places import Places, rate_at
from nas.train.recipes import Recipe
from nas.train.schedule import Phase, learning_rate

Bits = npt.NDArray[np.bool_]


class Diverged(Exception):
    """The loss stopped being a number."""


class Timeout(Exception):
    """A phase took longer than it may."""


@dataclass
class TrainState:
    """A network in training: what a worker holds between the phases of a trial."""

    network: Network
    optimizer: torch.optim.Optimizer
    seed: int
    device: torch.device
    phases_done: int = 0


@dataclass(frozen=True)
class PhaseTraining:
    """What one phase of training showed.

    Args:
        train_loss: Mean over the phase. val_accuracy: 0..1, at the phase's resolution. val_error: Its standard error.
        steps: Optimiser steps. train_seconds, val_seconds: Wall time.
        val_right: Which validation images were named rightly, a bit each, as hexadecimal digits (`right_bits`); with it two
            networks can be compared image for image.
    """

    train_loss: float
    val_accuracy: float
    val_error: float
    steps: int
    train_seconds: float
    val_seconds: float
    val_right: str = ""


def start(spec: ArchSpec, recipe: Recipe, device: torch.device, seed: int) -> TrainState:
    """Build a network with fresh weights, and its optimiser. Norms and biases have no weight decay."""
    network = build(spec, seed=seed).to(device=device)
    layout = torch.contiguous_format if recipe.layout == "contiguous" else torch.channels_last
    network = network.to(memory_format=layout)  # type: ignore[call-overload]  # absent from the stubs
    decayed = [p for p in network.parameters() if p.ndim > 1]
    free = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=recipe.betas, fused=True)
    return TrainState(network, optimizer, seed, device)


def snapshot(state: TrainState, *, last: bool = False) -> dict[str, Any]:
    """Return what a checkpoint holds of a network in training: tensors and plain values.

    Args:
        last: No phase follows, so the optimiser's part (twice the weights) is left out.

    Generators are not in it: a phase seeds its own.
    """
    return {
        "network": state.network.state_dict(),
        "optimizer": None if last else state.optimizer.state_dict(),
        "phases_done": state.phases_done,
    }


def restore(spec: ArchSpec, recipe: Recipe, device: torch.device, seed: int, stored: dict[str, Any]) -> TrainState:
    """Return the network in training that a snapshot was taken of."""
    state = start(spec, recipe, device, seed)
    state.network.load_state_dict(stored["network"])
    if stored["optimizer"] is not None:
        state.optimizer.load_state_dict(stored["optimizer"])
    state.phases_done = stored["phases_done"]
    return state


def train_phase(
    state: TrainState,
    data: DeviceData,
    recipe: Recipe,
    phase: Phase,
    between: Callable[[], None] = lambda: None,
    graphs: Replayer | None = None,
) -> PhaseTraining:
    """Train one phase and score it on the validation images at the phase's resolution.

    Args:
        between: Called after every ten steps and before scoring; may take its time, or raise `Timeout`.
        graphs: Captures the step; None does it kernel by kernel.

    Raises:
        Diverged: the loss is not finite.
        torch.OutOfMemoryError: the device's memory is full.
    """
    began = time.perf_counter()
    with stepping(state, data, recipe, phase, graphs) as (order, step, total):
        for number, index in enumerate(order):
            step(number, index)
            if number % 50 == 49:  # reading the loss waits for the device; now and then is enough
                _check(total)
            if number % 10 == 9:
                between()
        _check(total)
    between()
    trained = time.perf_counter()
    right = correct(state.network, data, phase.resolution, low=recipe.is_low(state.device.type))
    k, n = int(right.sum()), len(right)
    state.phases_done = phase.number
    steps = phase_steps(len(data.train_labels), recipe, phase)
    return PhaseTraining(
        train_loss=float(total) / steps,
        val_accuracy=k / n,
        val_error=proportion_error(k, n),
        steps=steps,
        train_seconds=trained - began,
        val_seconds=time.perf_counter() - trained,
        val_right=right_bits(right),
    )


Step = Callable[[int, Tensor], None]
"""Does a step, given its number from 0 and the indices of its images."""


@contextmanager
def stepping(
    state: TrainState, data: DeviceData, recipe: Recipe, phase: Phase, graphs: Replayer | None = None
) -> Iterator[tuple[Iterator[Tensor], Step, Tensor]]:
    """Make a network ready for a phase, and yield the batches' indices, what does a step, and the sum of the losses."""
    steps = phase_steps(len(data.train_labels), recipe, phase)
    rates = [learning_rate(step, steps, recipe.learning_rate, recipe.warmup) for step in range(steps)]
    with _seeded(state.seed, phase.number, state.device) as generator:
        state.network.train()
        state.network.dropout.p = phase.dropout
        place = data.train_images.pixels.device
        order = batches(len(data.train_labels), recipe.batch_size, steps, generator, place)
        if graphs is None:
            total = torch.zeros((), device=state.device)
            yield order, _plain_step(state, data, recipe, phase, generator, rates, total), total
            return
        at = Places.of(data, recipe, rates)
        work = Work(_placed_step(state, data, recipe, phase, generator, at), state.optimizer, (generator,), places=at)
        with rate_at(state.optimizer, at.rate), graphs.stepping(work) as placed:

            def step(number: int, index: Tensor) -> None:
                at.put(data, index)
                placed()

            yield order, step, at.total


def _plain_step(
    state: TrainState,
    data: DeviceData,
    recipe: Recipe,
    phase: Phase,
    generator: torch.Generator,
    rates: Sequence[float],
    total: Tensor,
) -> Step:
    def step(number: int, index: Tensor) -> None:
        images, targets = make_batch(data, index, recipe, phase, generator)
        for group in state.optimizer.param_groups:
            group["lr"] = rates[number]
        total.add_(train_step(state, images, targets, recipe))

    return step


def _placed_step(
    state: TrainState, data: DeviceData, recipe: Recipe, phase: Phase, generator: torch.Generator, at: Places
) -> Callable[[], Tensor]:
    def step() -> Tensor:
        torch.index_select(at.rates, 0, at.done, out=at.rate)
        at.done.add_(1)
        images, targets = make_batch(data, at.index, recipe, phase, generator, at.pixels)
        return at.total.add_(train_step(state, images, targets, recipe))

    return step


def right_bits(right: Tensor) -> str:
    """Return booleans (N,) as hexadecimal digits, eight in two digits, the first the highest bit."""
    return np.packbits(right.cpu().numpy()).tobytes().hex()


def from_bits(digits: str, images: int) -> Bits:
    """Return the booleans (N,) that `right_bits` wrote down."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(digits), dtype=np.uint8), count=images).astype(np.bool_)


def make_batch(
    data: DeviceData,
    index: Tensor,
    recipe: Recipe,
    phase: Phase,
    generator: torch.Generator,
    pixels: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the training images at some indices, augmented and mixed as a phase asks, and their targets.

    Args:
        pixels: Those images, uint8, (B, H, W, C), where they have been gathered already.

    Returns:
        float32, (B, C, R, R), normalised; int64 (B,), or float32 (B, num_classes) where they are mixed.
    """
    images = augmented(data.train_images[index] if pixels is None else pixels, data, recipe, phase, generator)
    targets = data.train_labels[index]
    if phase.mixup == 0:
        return images, targets
    return mix(images, targets, num_classes=data.num_classes, alpha=phase.mixup, generator=generator)


def augmented(
    pixels: Tensor, data: DeviceData, recipe: Recipe | FullRecipe, phase: Phase, generator: torch.Generator
) -> Tensor:
    """Return training images (uint8, (B, H, W, C)) augmented as a phase asks: float32, (B, C, R, R), normalised."""
    augment = Augment(
        flip=recipe.flip, crop_padding=recipe.crop_padding, scale=recipe.crop_scale, magnitude=phase.magnitude
    )
    return train_batch(
        pixels,
        resolution=phase.resolution,
        mean=data.mean,
        std=data.std,
        augment=augment,
        generator=generator,
    )


def train_step(state: TrainState, images: Tensor, targets: Tensor, recipe: Recipe) -> Tensor:
    """Do one optimiser step and return its loss, without waiting for the device.

    Args:
        images: float32, (B, C, R, R), normalised, channels last. targets: int64 (B,), or float32 (B, num_classes).
    """
    if recipe.layout == "contiguous":
        images = images.contiguous()
    low = recipe.is_low(state.device.type)
    # No weight is used twice, and a copy that was kept from before a capture would go stale in its graph.
    with torch.autocast(state.device.type, dtype=torch.bfloat16, enabled=low, cache_enabled=False):
        scores = state.network(images)
        loss = functional.cross_entropy(scores.float(), targets, label_smoothing=recipe.label_smoothing)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(state.network.parameters(), recipe.clip_norm, foreach=True)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def evaluate(network: Network, data: DeviceData, resolution: int) -> tuple[float, float]:
    """Return accuracy (0..1) on the validation images and its standard error."""
    right = correct(network, data, resolution)
    k, n = int(right.sum()), len(right)
    return k / n, proportion_error(k, n)


def proportion_error(k: int, n: int) -> float:
    """Return the standard error of the proportion k / n; it is above 0 also where k is 0 or n.

    Of the plain sqrt(a (1 - a) / n) a perfect score on ten images would be known exactly. One success and one failure are
    added, as for a difference of two proportions, which is what networks are compared by.
    Source: Agresti & Caffo 2000, The American Statistician 54(4), section 2: p = (k + 1) / (n + 2), sqrt(p (1 - p) / (n + 2)).
    """
    p = (k + 1) / (n + 2)
    return math.sqrt(p * (1 - p) / (n + 2))


@torch.no_grad()
def correct(
    network: Network,
    data: DeviceData,
    resolution: int,
    batch_size: int = 250,
    part: range | None = None,
    low: bool | None = None,
) -> Tensor:
    """Return for each validation image whether the network names its class: bool, (N,), on the device.

    Args:
        part: Rows of the validation images to look at, in place of all: neighbours, in order.
        low: Whether to score in bfloat16; None is on CUDA only.
    """
    network.eval()
    device = data.device
    low = device.type == "cuda" if low is None else low
    found = []
    rows = range(len(data.val_labels)) if part is None else part
    for first in range(rows.start, rows.stop, batch_size):
        here = slice(first, min(first + batch_size, rows.stop))
        images, labels = data.val_images[here], data.val_labels[here]
        x = eval_batch(images, resolution=resolution, mean=data.mean, std=data.std)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=low):
            scores = network(x)
        found.append(scores.argmax(1) == labels)
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.bool, device=device)


def timing_step(state: TrainState, data: DeviceData, recipe: Recipe, resolution: int) -> Work:
    """Return the training step that step time is measured on: one real, augmented batch, used again and again.

    It is the loop's own step at the learning rate 0, in the loop's precision and layout. It can be captured.
    """
    generator = torch.Generator(device=state.device).manual_seed(0)
    index = torch.arange(recipe.batch_size, device=state.device) % len(data.train_labels)
    augment = Augment(flip=recipe.flip, crop_padding=recipe.crop_padding, scale=1.0, magnitude=0.0)
    images = train_batch(
        data.train_images[index],
        resolution=resolution,
        mean=data.mean,
        std=data.std,
        augment=augment,
        generator=generator,
    )
    targets = data.train_labels[index]
    for group in state.optimizer.param_groups:
        group["lr"] = 0.0
    state.network.train()
    return Work(lambda: train_step(state, images, targets, recipe), state.optimizer)


def phase_steps(images: int, recipe: Recipe, phase: Phase) -> int:
    """Return the optimiser steps of a phase."""
    return max(1, round(images * phase.epochs / recipe.batch_size))


def batches(
    images: int, batch_size: int, steps: int, generator: torch.Generator, place: torch.device | None = None
) -> Iterator[Tensor]:
    """Yield the indices of `steps` batches, epoch after epoch in a new order; the remainder opens the next epoch.

    Args:
        place: Where they are wanted, if not where they are drawn; an epoch's indices are brought there at once.
    """
    device = generator.device
    order = torch.empty(0, dtype=torch.int64, device=place or device)
    for _ in range(steps):
        while len(order) < batch_size:
            drawn = torch.randperm(images, generator=generator, device=device)
            order = torch.cat([order, drawn.to(order.device)])
        yield order[:batch_size]
        order = order[batch_size:]


@contextmanager
def _seeded(seed: int, phase: int, device: torch.device) -> Iterator[torch.Generator]:
    """Seed dropout and drop path (torch's global generators, restored afterwards), and yield one for the data."""
    mixed = seed * 1_000_003 + phase
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(mixed)
        yield torch.Generator(device=device).manual_seed(mixed + 1)


def _check(total: Tensor) -> None:
    if not math.isfinite(float(total)):
        raise Diverged("the training loss is not finite")
