"""A training's run folder made by hand: the files that its network is read back from, with random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save
from tiny import TINY_NETWORK

from nas import runs
from nas.catalog import load_arch
from nas.data import Dataset, load
from nas.models import build
from nas.spec import summary

CLASSES = ("blue", "green", "red")


def write_photos(root: Path, split: str, per_class: int, seed: int) -> Path:
    """Photographs of several sizes and formats, that have to be cut and resized."""
    rng = np.random.default_rng(seed)
    for channel, name in enumerate(reversed(CLASSES)):
        folder = root / split / name
        folder.mkdir(parents=True)
        for number in range(per_class):
            pixels = rng.integers(0, 150, (int(rng.integers(20, 90)), int(rng.integers(20, 90)), 3)).astype(np.uint8)
            pixels[:, :, channel] += int(rng.integers(0, 100))
            Image.fromarray(pixels).save(folder / f"{number}.{'jpg' if number % 2 else 'png'}")
    return root


def make(folder: Path, photos: Path, *, resolution: int = 16, test_resolution: int = 20) -> tuple[Path, Dataset]:
    """Return the folder of a training on some photographs, and their data as it was packed."""
    data = load(str(photos), resolution=max(resolution, test_resolution))
    file = folder.with_suffix(".yaml")
    file.write_text(TINY_NETWORK)
    spec = replace(load_arch(file), num_classes=data.num_classes, in_channels=data.in_channels, resolution=resolution)
    network = build(spec, seed=0)
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():  # otherwise a random network answers all images alike
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.01, 0.05, generator=generator)
    folder.mkdir()
    run = runs.create(folder, "train", facts(spec, data, photos, resolution, test_resolution))
    runs.write_text(run.path("arch.yaml"), yaml.safe_dump(spec.document(), sort_keys=False))
    header = {"arch_hash": spec.arch_hash, "epoch": "3", "val_accuracy": "0.5"}
    runs.write_bytes(run.path("weights.safetensors"), save(dict(network.state_dict()), header))
    return folder, data


def facts(spec: Any, data: Dataset, photos: Path, resolution: int, test_resolution: int) -> dict[str, Any]:
    return {
        "arch": {"name": spec.name, "hash": spec.arch_hash, "summary": summary(spec), "source": "net.yaml", "phi": 2},
        "config": {"recipe": "standard", "data": str(photos), "seed": 0, "skip_broken": False},
        "recipe": {"name": "standard", "epochs": 4, "batch_size": 16},
        "seed": 0,
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
        "device": {"type": "cpu", "name": "a CPU", "cores": 1},
        "torch": torch.__version__,
        "versions": {},
        "command": "nas train",
    }
