"""What a search takes from the machine that it runs on: workers, precision and layout that pay on its CPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from nas.devices import pick_devices
from nas.errors import NasError
from nas.search.config import SearchConfig
from nas.train.probe import DEFAULT, WORKERS, probed, settled
from nas.train.recipes import Recipe


def on_this_cpu(
    config: SearchConfig, recipe: Recipe, say: Callable[[str], None], waiting: Callable[[], None]
) -> tuple[SearchConfig, Recipe]:
    """Return settings and recipe with what pays on this CPU where they leave it open; unchanged on a GPU or a cluster.

    Where that cannot be measured it is said, and what is usual is taken.

    Raises:
        DeviceError: no such devices.
    """
    if config.engine != "local":
        return config, recipe
    many = config.devices == WORKERS
    if not many and pick_devices(config.devices)[0].type != "cpu":
        return config, recipe
    try:
        probe = probed(say, waiting)
    except NasError as error:
        say(f"{error} Until then: one worker, float32, channels last.")
        probe = DEFAULT
    devices = f"cpu:{probe.workers}" if probe.workers > 1 else "cpu"
    return replace(config, devices=devices if many else config.devices), settled(recipe, probe)


def too_many(asked: str, devices: Sequence[torch.device]) -> list[str]:
    """Say where more workers were asked for than the CPU has cores."""
    cores = len(os.sched_getaffinity(0))
    if devices[0].type != "cpu" or len(devices) <= cores:
        return []
    return [
        f"--devices {asked}: {len(devices)} workers share {cores} usable core{'s' * (cores > 1)}, so that step times "
        f"scatter and nothing is faster. Give cpu:{cores} at most."
    ]
