"""What a search writes down before it begins: everything that its numbers will depend on."""

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
from nas.evaluate import Setup
from nas.objective import Reward
from nas.search.config import SearchConfig
from nas.search.database import new_name, redacted
from nas.space import SearchSpace
from nas.train.recipes import Recipe


def manifest(
    config: SearchConfig,
    space: SearchSpace,
    setup: Setup,
    data: Dataset,
    device: Mapping[str, Any],
    reward: Reward,
) -> dict[str, Any]:
    """Return what the manifest says of a run before any network is trained."""
    recipe = setup.recipe
    return {
        "space": space.name,
        "space_hash": space.space_hash,
        "study": f"search-{space.name}" if config.storage is None else new_name(space.name),
        "baseline": {
            "name": setup.baseline.name,
            "num_params": reward.ref_params,
            "hash": setup.baseline.arch_hash,
        },
        "config": config.document(),
        "recipe": recipe.document(),
        "reward": {"w": reward.w, "v": reward.v},
        "costs": list(config.cost_names()),
        "limits": [vars(limit) for limit in setup.limits],
        "sampler": config.sampler,
        "pruner": config.pruner,
        "seed": config.seed,
        "data": used_images(data, recipe),
        "device": dict(device),
        **software(),
    }


def used_images(data: Dataset, recipe: Recipe) -> dict[str, Any]:
    """Return what a manifest says of the images, and of those that a recipe uses."""
    used = {
        "train": min(len(data.train.labels), recipe.train_images),
        "val": min(len(data.val.labels), recipe.val_images),
    }
    return {
        "name": data.name,
        "fingerprint": data.fingerprint,
        "classes": data.num_classes,
        "channels": data.in_channels,
        "class_names": list(data.class_names),
        "mean": list(data.mean),
        "std": list(data.std),
        "stored_size": data.size,
        "train_images": len(data.train.labels),
        "val_images": len(data.val.labels),
        "used_train_images": used["train"],
        "used_val_images": used["val"],
        "train_share": round(used["train"] / len(data.train.labels), 4),
        "notes": list(data.notes),
    }


def software() -> dict[str, Any]:
    """Return what a manifest says of the programs, and of the command that began the run."""
    return {
        "torch": torch.__version__,
        "versions": {
            "phinas": nas.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "optuna", "numpy", "pandas")},
        },
        "command": redacted(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]])),
    }
