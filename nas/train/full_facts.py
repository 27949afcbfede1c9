"""What a training writes down before it begins, and what a reader of its accuracy should know."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import nas
from nas.data import Dataset
from nas.devices import describe_device
from nas.objective import FEW_VAL_IMAGES
from nas.runs import Run
from nas.spec import ArchSpec, summary
from nas.train.config import TrainConfig
from nas.train.full_loop import epoch_steps
from nas.train.full_recipes import FullRecipe


def manifest(
    spec: ArchSpec,
    config: TrainConfig,
    recipe: FullRecipe,
    data: Dataset,
    *,
    device: torch.device,
    processes: int,
    named: Mapping[str, Any],
    resolution: int,
    test_resolution: int,
) -> dict[str, Any]:
    """Return what the manifest says of a training before its first step.

    Args:
        spec: The network as it is trained. named: What the user named (`source`, `phi`).
        resolution: Of the last phase, and `test_resolution` of the images that are scored (pixels).
    """
    return {
        "arch": {"name": spec.name, "hash": spec.arch_hash, "summary": summary(spec), **named},
        "config": config.document(),
        "recipe": recipe.document(),
        "seed": config.seed,
        "data": {
            "name": data.name,
            "fingerprint": data.fingerprint,
            "classes": data.num_classes,
            "channels": data.in_channels,
            "class_names": list(data.class_names),
            "mean": list(data.mean),
            "std": list(data.std),
            "stored_size": data.size,
            "train_images": len(data.train),
            "val_images": len(data.val),
            "notes": list(data.notes),
        },
        "resolution": resolution,
        "test_resolution": test_resolution,
        "device": describe_device(device) | {"processes": processes},
        "torch": torch.__version__,
        "versions": {
            "phinas": nas.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy")},
        },
        "command": " ".join(Path(item).name if index == 0 else item for index, item in enumerate(sys.argv)),
    }


FEW_STEPS = 10
"""An epoch of fewer steps is remarked upon."""


def remarks(recipe: FullRecipe, data: Dataset) -> list[str]:
    """Say what about the images a reader of the accuracy should know."""
    said, images = list(data.notes), len(data.val)
    if images < FEW_VAL_IMAGES:
        said.append(
            f"The accuracy is counted on {images} validation image{'s' * (images > 1)}: one near 0.8 is known to "
            f"± {(0.8 * 0.2 / images) ** 0.5:.3f} only (standard error)."
        )
    steps = epoch_steps(len(data.train), recipe)
    if recipe.batch_size > len(data.train):
        said.append(
            f"A batch of {recipe.batch_size} is more than the {len(data.train)} training images: each step sees some of them "
            "several times. Give a smaller --batch-size."
        )
    elif steps < FEW_STEPS:
        said.append(
            f"An epoch of {len(data.train)} images has {steps} step{'s' * (steps > 1)} of {recipe.batch_size} images only: a "
            "network learns by steps. Give a smaller --batch-size, or more --epochs."
        )
    every = steps * recipe.epochs
    # After n steps the average holds decay ^ n of its initial weights: 5 % after 3 / (1 - decay) of them.
    if recipe.ema_decay and not recipe.ema_warmup and every < 3 / (1 - recipe.ema_decay):
        said.append(
            f"The averaged weights, which are scored and kept, still hold {recipe.ema_decay**every:.0%} of the initial ones "
            f"after all {every} steps (ema_decay {recipe.ema_decay:g}, no ema_warmup). Set ema_warmup: true in the recipe, or "
            "a lower ema_decay."
        )
    return said


def changed(run: Run, now: Mapping[str, Any], epoch: int) -> tuple[str, ...]:
    """Say where a training goes on from an epoch under other conditions than it began with."""
    before = run.manifest
    differs = [key for key in ("device", "torch") if before[key] != now[key]]
    differs += ["compile"] if before["config"]["compile"] != now["config"]["compile"] else []
    if not differs:
        return ()
    then, here = (f"{device_name(facts['device'])} with torch {facts['torch']}" for facts in (before, now))
    return (
        f"From epoch {epoch} on the training went on under other conditions ({', '.join(differs)}): on {here}, after it began on "
        f"{then}. It stays sound, but is not the same to the last bit as without the break.",
    )


def device_name(device: Mapping[str, Any]) -> str:
    """Return what a manifest's device is called, with the number of processes where there are several."""
    processes = device.get("processes", 1)
    return f"{device['name']}" + (f", {processes} processes" if processes > 1 else "")
