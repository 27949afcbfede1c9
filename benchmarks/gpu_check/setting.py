"""What the sections share: where they run, on what, and a training step to time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from nas.cost import Measurement
from nas.data import BUILTIN
from nas.data.noise import noise
from nas.runs import write_text
from nas.spec import ArchSpec
from nas.train import loop
from nas.train.recipes import RECIPES, Recipe


@dataclass(frozen=True)
class Setting:
    """Where a section runs, and on what.

    Args:
        small: Whether it is the small version, for a CPU: it tries the code, and its figures are of no interest.
        folder: Of the device's results; a section may keep files of its own there, to go on from.
        network: What is trained, scaled and trained progressively.
        data: Images; None is the built-in ones, in the small version a few random ones.
        epochs: Of `training`; None is as many as there is time for, up to the recipe's. seeds: Of `training`.
        limit_s: Seconds that a section has at most.
    """

    device: torch.device
    small: bool
    folder: Path
    network: ArchSpec
    data: str | None = None
    epochs: int | None = None
    seeds: int = 3
    limit_s: float = 120.0

    def source(self) -> str:
        """Return the images as `nas.data` names them."""
        if self.data is not None or not self.small:
            return self.data or BUILTIN
        path = self.folder / "images.npz"
        if not path.exists():
            rng = np.random.default_rng(0)
            arrays: dict[str, Any] = {}
            for part, count in (("train", 80), ("val", 40)):
                arrays[f"{part}_images"] = rng.integers(0, 256, (count, 16, 16, 1), dtype=np.uint8)
                arrays[f"{part}_labels"] = np.arange(count) % 10
            np.savez(path, **arrays)
        return str(path)

    def network_file(self) -> Path:
        """Return a file of the network, for what takes a name."""
        path = self.folder / f"network-{self.network.arch_hash[:8]}.yaml"
        write_text(path, yaml.safe_dump(self.network.document(), sort_keys=False))
        return path


def plain(item: Measurement) -> dict[str, Any]:
    """Return a time as plain data."""
    return {"ms": item.value, "mad_ms": item.spread, "n": item.n}


def timed_step(
    spec: ArchSpec, setting: Setting, batch: int, contiguous: bool = False, autocast: bool | None = None
) -> Callable[[], Any]:
    """Return the search's training step on random images; with `autocast` given, one in that precision and layout."""
    recipe: Recipe = replace(RECIPES["standard"], batch_size=batch)
    data = loop.to_device(noise(spec, batch), recipe, setting.device)
    state = loop.start(spec, recipe, setting.device, seed=0)
    usual = loop.timing_step(state, data, recipe, spec.resolution)
    if autocast is None:
        return usual
    layout = torch.contiguous_format if contiguous else torch.channels_last
    state.network.to(memory_format=layout)
    images = torch.randn(batch, spec.in_channels, spec.resolution, spec.resolution, device=setting.device)
    images = images.to(memory_format=layout)
    labels = torch.arange(batch, device=setting.device) % spec.num_classes

    def forced() -> None:
        with torch.autocast(setting.device.type, dtype=torch.bfloat16, enabled=autocast):
            loss = torch.nn.functional.cross_entropy(state.network(images).float(), labels)
        loss.backward()
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)

    return forced
