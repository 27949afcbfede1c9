"""The training loop: one phase of one network, readable from top to bottom.

Seeds: a phase draws its order, augmentation, dropout and drop path from generators seeded by (seed, phase), so every
network of a search sees the same images in the same order, and a trial that continues from a checkpoint repeats what
it would have seen. Sums on several threads, and on CUDA also convolutions, are not bit-reproducible.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from nas.data import Dataset, Split
from nas.data.augment import Augment, eval_batch, mix, train_batch
from nas.models import Network, build
from nas.spec import ArchSpec
from nas.train.full_recipes import FullRecipe
from nas.train.recipes import Recipe
from nas.train.schedule import Phase, learning_rate

Bits = npt.NDArray[np.bool_]


class Diverged(Exception):
    """The loss stopped being a number."""


class Timeout(Exception):
    """A phase took longer than it may."""


@dataclass(frozen=True)
class Images:
    """The images that a recipe uses, read by index: uint8, (N, H, W, C).

    Args:
        pixels: Some or all images of the data: on the device where they fit, else on the host, where they may be mapped from
            a file that is larger than memory; then each batch is copied.
        rows: int64, (N,): which of `pixels` are used; None is all of them.
        device: Where a batch is wanted.
    """

    pixels: Tensor
    rows: Tensor | None
    device: torch.device

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """Return a batch on the device: uint8, (B, H, W, C)."""
        if self.rows is not None:
            index = self.rows[index.cpu() if isinstance(index, Tensor) else index]
        elif isinstance(index, Tensor):
            index = index.to(self.pixels.device)
        return self.pixels[index].to(self.device)


@dataclass(frozen=True)
class DeviceData:
    """Images and labels where the network is.

    Args:
        train_images, val_images: uint8, (N, H, W, C). train_labels, val_labels: int64, (N,).
        mean, std: float32, (C,), in 0..1. num_classes: Number of classes.
    """

    train_images: Images
    train_labels: Tensor
    val_images: Images
    val_labels: Tensor
    mean: Tensor
    std: Tensor
    num_classes: int

    @property
    def device(self) -> torch.device:
        """Where everything lies."""
        return self.mean.device


def to_device(data: Dataset, recipe: Recipe | None, device: torch.device) -> DeviceData:
    """Bring the images that a recipe uses to a device, as uint8; all images where there is no recipe.

    Where the data has more than the recipe uses, a sample with a fixed seed is taken, the same for every network. Images that
    would fill a CUDA device stay on the host; on a CPU none is copied at all.
    """
    train_images, train_labels = _sample(data.train, recipe.train_images if recipe else len(data.train), device)
    val_images, val_labels = _sample(data.val, recipe.val_images if recipe else len(data.val), device)
    return DeviceData(
        train_images=train_images,
        train_labels=train_labels,
        val_images=val_images,
        val_labels=val_labels,
        mean=torch.tensor(data.mean, dtype=torch.float32, device=device),
        std=torch.tensor(data.std, dtype=torch.float32, device=device),
        num_classes=data.num_classes,
    )


def sample(images: int, most: int) -> Tensor:
    """Return the indices of the images that a recipe uses: all of them, or a sample with a fixed seed; ascending."""
    return torch.randperm(images, generator=torch.Generator().manual_seed(0))[:most].sort().values


DEVICE_SHARE = 0.4
"""Share of a CUDA device's free memory that images may take; the rest belongs to networks."""


def _sample(split: Split, most: int, device: torch.device) -> tuple[Images, Tensor]:
    with warnings.catch_warnings():  # torch warns of pages that cannot be written; nobody writes to images
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        pixels, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels)
    rows = sample(len(labels), most) if len(labels) > most else None
    if rows is not None:
        labels = labels[rows]
    need = len(labels) * pixels[0].numel()
    if device.type == "cuda" and need < DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
        pixels, rows = (pixels if rows is None else pixels[rows]).to(device), None
    return Images(pixels, rows, device), labels.to(device)


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
) -> PhaseTraining:
    """Train one phase and score it on the validation images at the phase's resolution.

    Args:
        between: Called after every ten steps and before scoring; may take its time, or raise `Timeout`.

    Raises:
        Diverged: the loss is not finite.
        torch.OutOfMemoryError: the device's memory is full.
    """
    began = time.perf_counter()
    steps = phase_steps(len(data.train_labels), recipe, phase)
    total = torch.zeros((), device=state.device)
    with _seeded(state.seed, phase.number, state.device) as generator:
        state.network.train()
        state.network.dropout.p = phase.dropout
        order = batches(len(data.train_labels), recipe.batch_size, steps, generator)
        for step, index in enumerate(order):
            images, targets = make_batch(data, index, recipe, phase, generator)
            for group in state.optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, recipe.learning_rate, recipe.warmup)
            total += train_step(state, images, targets, recipe)
            if step % 50 == 49:  # reading the loss waits for the device; now and then is enough
                _check(total)
            if step % 10 == 9:
                between()
        _check(total)
    between()
    trained = time.perf_counter()
    right = correct(state.network, data, phase.resolution, low=recipe.is_low(state.device.type))
    k, n = int(right.sum()), len(right)
    state.phases_done = phase.number
    return PhaseTraining(
        train_loss=float(total) / steps,
        val_accuracy=k / n,
        val_error=proportion_error(k, n),
        steps=steps,
        train_seconds=trained - began,
        val_seconds=time.perf_counter() - trained,
        val_right=right_bits(right),
    )


def right_bits(right: Tensor) -> str:
    """Return booleans (N,) as hexadecimal digits, eight in two digits, the first the highest bit."""
    return np.packbits(right.cpu().numpy()).tobytes().hex()


def from_bits(digits: str, images: int) -> Bits:
    """Return the booleans (N,) that `right_bits` wrote down."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(digits), dtype=np.uint8), count=images).astype(np.bool_)


def make_batch(
    data: DeviceData, index: Tensor, recipe: Recipe, phase: Phase, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the training images at some indices, augmented and mixed as a phase asks, and their targets.

    Returns:
        float32, (B, C, R, R), normalised; int64 (B,), or float32 (B, num_classes) where they are mixed.
    """
    images = augmented(data.train_images[index], data, recipe, phase, generator)
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
    with torch.autocast(state.device.type, dtype=torch.bfloat16, enabled=recipe.is_low(state.device.type)):
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


def timing_step(state: TrainState, data: DeviceData, recipe: Recipe, resolution: int) -> Callable[[], Tensor]:
    """Return the training step that step time is measured on: one real, augmented batch, used again and again.

    It is the loop's own step at the learning rate 0, in the loop's precision and layout.
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
    return lambda: train_step(state, images, targets, recipe)


def phase_steps(images: int, recipe: Recipe, phase: Phase) -> int:
    """Return the optimiser steps of a phase."""
    return max(1, round(images * phase.epochs / recipe.batch_size))


def batches(images: int, batch_size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the indices of `steps` batches, epoch after epoch in a new order; the remainder opens the next epoch."""
    order = torch.empty(0, dtype=torch.int64, device=generator.device)
    for _ in range(steps):
        while len(order) < batch_size:
            order = torch.cat([order, torch.randperm(images, generator=generator, device=generator.device)])
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
