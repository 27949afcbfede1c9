"""One epoch of a full training, readable from top to bottom: batches, steps, averaged weights, and the score after it.

Seeds: everything of an epoch (order, augmentation, dropout, drop path) is drawn from generators seeded by (seed, epoch), and
by the process where several train together. So an epoch that is begun again from its start state is the same epoch, bit for
bit where the arithmetic is: on a CPU with one number of threads. Convolutions on CUDA are not bit-reproducible.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from nas.data.augment import erase, mix_and_cut
from nas.devices import out_of_memory
from nas.errors import DeviceError
from nas.models import Network
from nas.train.distributed import Group
from nas.train.ema import Ema
from nas.train.feed import feed
from nas.train.full_recipes import FullRecipe
from nas.train.loop import DeviceData, Diverged, augmented, batches, correct
from nas.train.optimizers import make_optimizer, set_rate
from nas.train.schedule import Phase

ORDER, DATA, MODEL = range(3)
"""What random numbers are for: the order of the images, their augmentation, and dropout and drop path."""


@dataclass
class Training:
    """A network in training, and what goes with it.

    Args:
        network: What is trained, saved and scored. module: What a step runs: the network itself, or wrapped for several
            processes, or compiled.
        micro_batch: Images of one forward pass of this process at most; a larger batch is split.
        score_batch: Images that are scored at a time, at most.
        steps: Optimiser steps done.
    """

    network: Network
    module: nn.Module
    optimizer: torch.optim.Optimizer
    ema: Ema | None
    recipe: FullRecipe
    seed: int
    device: torch.device
    group: Group
    compiled: bool
    micro_batch: int
    score_batch: int = 250
    steps: int = 0


@dataclass(frozen=True)
class EpochTraining:
    """What training for one epoch showed.

    Args:
        train_loss: Mean over the epoch. learning_rate: Of its last step. images: That all processes have seen.
        seconds: Wall time, without the score.
    """

    train_loss: float
    learning_rate: float
    images: int
    seconds: float


def begin(
    network: Network,
    recipe: FullRecipe,
    *,
    seed: int,
    device: torch.device,
    group: Group | None = None,
    compiled: bool = False,
) -> Training:
    """Make a network ready to be trained: on its device, with its optimiser and its averaged weights.

    Several CUDA processes synchronise batch norm; on CPUs each normalises by its own images, for torch has it on CUDA only.
    """
    group = group or Group()
    if recipe.drop_path is not None:
        network.set_drop_path(recipe.drop_path)
    if group.size > 1 and device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    network = network.to(device=device)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # absent from the stubs
    return Training(
        network=network,
        module=network,
        optimizer=make_optimizer(network, recipe),
        ema=Ema(network, recipe.ema_decay, warmup=recipe.ema_warmup) if recipe.ema_decay else None,
        recipe=recipe,
        seed=seed,
        device=device,
        group=group,
        compiled=compiled,
        micro_batch=len(group.part(recipe.batch_size)),
    )


def epoch_steps(images: int, recipe: FullRecipe) -> int:
    """Return the optimiser steps of an epoch."""
    return max(1, round(images / recipe.batch_size))


def train_epoch(
    training: Training,
    data: DeviceData,
    phase: Phase,
    epoch: int,
    between: Callable[[int, int], None] = lambda done, steps: None,
) -> EpochTraining:
    """Train one epoch.

    Args:
        epoch: From 1. between: Called with the steps done and those of the epoch, after every ten and after the last;
            may take its time.

    Raises:
        Diverged: the loss is not finite.
        DeviceError: the step cannot be compiled.
        torch.OutOfMemoryError: the device's memory is full; the state is then of no use.
    """
    began = time.perf_counter()
    recipe, group, device = training.recipe, training.group, training.device
    steps = epoch_steps(len(data.train_labels), recipe)
    parts = batch_parts(training)
    total = torch.zeros((), device=device)
    rate = 0.0
    with _compiling(training), _seeded(training.seed, epoch, group.rank, device) as (order, draws):
        _prepare(training, phase, epoch)
        mine = group.part(recipe.batch_size)
        rows = torch.stack(list(batches(len(data.train_labels), recipe.batch_size, steps, order)))[
            :, mine.start : mine.stop
        ]
        # All indices of an epoch go to the device at once: one copy a step would wait for the steps before it.
        on_device = rows.to(device)
        labels = data.train_labels[on_device]
        index = on_device if data.train_images.pixels.device == device else rows
        fed = feed((piece for row in index for piece in row.tensor_split(parts)), data.train_images)
        for step in range(steps):
            rate = recipe.rate_at(epoch - 1 + (step + 0.5) / steps)  # that of the middle of a step: no step has 0
            set_rate(training.optimizer, rate)
            for part, named in enumerate(labels[step].tensor_split(parts)):
                images, targets = make_batch(data, next(fed), named, recipe, phase, draws)
                with _talking(training, last=part == parts - 1):
                    total += backward(training, images, targets, share=len(named) / len(mine))
            _update(training)
            if step % 50 == 49:  # reading the loss waits for the device; now and then is enough
                _check(total)
            if step % 10 == 9 or step == steps - 1:
                between(step + 1, steps)
    loss = float(group.total(total)) / group.size / steps
    if not math.isfinite(loss):
        raise Diverged("the training loss is not finite")
    return EpochTraining(loss, rate, steps * recipe.batch_size, time.perf_counter() - began)


def batch_parts(training: Training) -> int:
    """Return how many forward passes this process makes of its share of a batch."""
    return -(-len(training.group.part(training.recipe.batch_size)) // training.micro_batch)


def smallest_part(images: int, micro_batch: int) -> int:
    """Return the images in the smallest part of some that are computed `micro_batch` at a time, at most."""
    return images // -(-images // micro_batch)


def make_batch(
    data: DeviceData, pixels: Tensor, labels: Tensor, recipe: FullRecipe, phase: Phase, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return training images augmented, erased and mixed as a phase asks, and their targets.

    Args:
        pixels: uint8, (B, H, W, C), on the device. labels: int64, (B,), likewise.

    Returns:
        float32, (B, C, R, R), normalised; int64 (B,), or float32 (B, num_classes) where they are mixed.
    """
    images = augmented(pixels, data, recipe, phase, generator)
    if recipe.erasing:
        images = erase(images, recipe.erasing, generator)
    if not (phase.mixup or phase.cutmix):
        return images, labels
    return mix_and_cut(
        images,
        labels,
        num_classes=data.num_classes,
        mixup_alpha=phase.mixup,
        cutmix_alpha=phase.cutmix,
        generator=generator,
    )


def backward(training: Training, images: Tensor, targets: Tensor, share: float) -> Tensor:
    """Add the gradients of a part of a batch, and return its share of the loss without waiting for the device."""
    with torch.autocast(training.device.type, dtype=torch.bfloat16, enabled=training.device.type == "cuda"):
        scores = training.module(images)
        smoothing = training.recipe.label_smoothing
        loss = functional.cross_entropy(scores.float(), targets, label_smoothing=smoothing) * share
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def check_finite(training: Training, what: str) -> None:
    """Hold that the network's weights and statistics are finite, in every process.

    A loss may be finite while they are not: it is computed before the step, and a frozen or unused weight is not in it.

    Args:
        what: Which weights the network has now, for the message.

    Raises:
        Diverged: some of them are not.
    """
    tensors = [value for value in training.network.state_dict().values() if value.is_floating_point()]
    finite = torch.stack([value.isfinite().all() for value in tensors]).all()
    if training.group.any(not bool(finite)):
        raise Diverged(f"{what} are not finite")


def scores(training: Training, data: DeviceData, resolution: int) -> Tensor:
    """Score the network as it is on the validation images; each process does its part of them.

    Where memory does not suffice `score_batch` is halved: no image depends on those beside it when it is scored.

    Returns:
        int64, (num_classes, 2), on the CPU: images of each class, and how many of them are named right.

    Raises:
        Diverged: what the network says of an image is not finite.
        DeviceError: not even one image fits.
    """
    part = training.group.part(len(data.val_labels))
    # No gradients are kept, so twice the images of a training pass fit where they are not larger than those.
    training.score_batch = min(training.score_batch, 2 * training.micro_batch)
    while True:
        finite = [torch.ones((), dtype=torch.bool, device=training.device)]
        watched = training.network.register_forward_hook(lambda _, __, said: finite.append(said.isfinite().all()))  # noqa: B023
        try:
            right = correct(training.network, data, resolution, training.score_batch, part)
            break
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        finally:
            watched.remove()
        if training.score_batch == 1:
            raise DeviceError(
                f"{training.device}: out of memory while one image of {resolution} pixels is scored. Free memory of the "
                "device, or go on with another --device."
            )
        training.score_batch = -(-training.score_batch // 2)
        free(training.device)
    if training.group.any(not bool(torch.stack(finite).all())):
        raise Diverged("the scores of the validation images are not finite")
    labels = data.val_labels[part.start : part.stop]
    found = [torch.bincount(labels[rows], minlength=data.num_classes) for rows in (slice(None), right)]
    return training.group.total(torch.stack(found, 1)).cpu()


def free(device: torch.device) -> None:
    """Give back what a step or a score that failed held; to be called after its traceback is gone."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def averaged(training: Training) -> Iterator[Network]:
    """Yield the network with the weights that are to be scored and saved: the averaged ones where the recipe has them."""
    with training.ema.swapped(training.network) if training.ema else nullcontext():
        # Where batch norm is not synchronised, each process has statistics of its own: those of process 0 count.
        training.group.same(training.network)
        yield training.network


def _prepare(training: Training, phase: Phase, epoch: int) -> None:
    """Set modes, dropout and what is frozen, and wrap the network for the way it is run."""
    network, recipe = training.network, training.recipe
    network.train()
    network.dropout.p = phase.dropout
    frozen = epoch <= recipe.freeze_epochs
    last = network[-1]
    for part in network:
        part.requires_grad_(not frozen or part is last)
        if frozen and part is not last and part is not network.dropout:
            part.eval()  # a frozen backbone keeps its statistics too, and drops no path
    if recipe.freeze_norm:
        for norm in network.modules():
            if isinstance(norm, _BatchNorm):
                norm.eval()
    if training.module is network or epoch == recipe.freeze_epochs + 1:  # what trains has changed
        training.module = _wrapped(training)


def _wrapped(training: Training) -> nn.Module:
    """Return what a step runs: the network, with gradients averaged over the processes, compiled, or as it is."""
    module: nn.Module = training.network
    if training.group.size > 1:
        places = [training.device.index] if training.device.type == "cuda" else None
        module = DistributedDataParallel(module, device_ids=places)
    if not training.compiled:
        return module
    return cast(nn.Module, torch.compile(module, dynamic=False))


@contextmanager
def _compiling(training: Training) -> Iterator[None]:
    """Let a compiled step be compiled for each size and mode anew, and say so where that fails."""
    if not training.compiled:
        yield
        return
    from torch import _dynamo
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    try:
        # All trainings of a process share the code of `forward`, and each size counts as another compilation of it.
        with _dynamo.config.patch(recompile_limit=10_000, accumulated_recompile_limit=10_000):
            yield
    except (TorchDynamoException, FailOnRecompileLimitHit) as error:
        if out_of_memory(error):
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise DeviceError(
            f"--compile: torch.compile failed: {reason}. On CUDA it needs Triton and a C compiler, on a CPU a C++ compiler. "
            "Install them, or give --no-compile."
        ) from error


def _talking(training: Training, *, last: bool) -> AbstractContextManager[None]:
    """Return a context in which gradients are averaged over the processes with the last part of a batch alone."""
    module = getattr(training.module, "_orig_mod", training.module)
    return nullcontext() if last or not isinstance(module, DistributedDataParallel) else module.no_sync()


def _update(training: Training) -> None:
    """Do one optimiser step with the gradients that are there."""
    if training.recipe.clip_norm:
        parameters = training.network.parameters()
        torch.nn.utils.clip_grad_norm_(parameters, training.recipe.clip_norm, foreach=True)
    training.optimizer.step()
    training.optimizer.zero_grad(set_to_none=True)
    training.steps += 1
    if training.ema:
        training.ema.update(training.network, training.steps)


def _check(total: Tensor) -> None:
    if not math.isfinite(float(total)):
        raise Diverged("the training loss is not finite")


def seed_of(seed: int, epoch: int, purpose: int, rank: int = 0) -> int:
    """Return the seed of one purpose in one epoch, such that no two of them are near each other."""
    return int(np.random.SeedSequence((seed, epoch, purpose, rank)).generate_state(1, np.uint32)[0])


@contextmanager
def _seeded(
    seed: int, epoch: int, rank: int, device: torch.device
) -> Iterator[tuple[torch.Generator, torch.Generator]]:
    """Seed dropout and drop path (torch's global generators, restored afterwards); yield generators of order and augmentation.

    The order is drawn on the CPU, by the seed alone: it is the same in all processes.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed_of(seed, epoch, MODEL, rank))
        yield (
            torch.Generator().manual_seed(seed_of(seed, epoch, ORDER)),
            torch.Generator(device=device).manual_seed(seed_of(seed, epoch, DATA, rank)),
        )
