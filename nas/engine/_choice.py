"""Which engine some devices ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from nas.data import Dataset
from nas.engine._base import Engine
from nas.engine.inline import InlineEngine
from nas.engine.local import LocalEngine
from nas.evaluate import Setup


def engine_for(
    setup: Setup,
    data: Dataset,
    devices: Sequence[torch.device],
    *,
    asked: str,
    threads: int,
    checkpoints: Path,
    say: Callable[[str], None],
    waiting: Callable[[], None],
) -> Engine:
    """Return the engine that the devices ask for: this process for one, and else a process for each.

    Args:
        data: The images, for an engine in this process. asked: The devices as they were named; `cpu:2` asks for workers.
        threads: CPU threads of each worker. checkpoints: Folder of the checkpoints.
        say: Called with a sentence when a worker was replaced. waiting: Called when another run holds the device.
    """
    if len(devices) == 1 and "cpu:" not in asked:
        return InlineEngine(setup.evaluator(devices[0], data, waiting), checkpoints)
    return LocalEngine(setup.start, devices, threads=threads, checkpoints=checkpoints, say=say, waiting=waiting)
