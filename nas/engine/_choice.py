"""Where a run's phases run: devices of this machine, or a cluster; and the engine that they ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from nas.data import Dataset
from nas.devices import describe_device, pick_devices
from nas.engine._base import Engine
from nas.engine.inline import InlineEngine
from nas.engine.local import LocalEngine
from nas.errors import UsageError
from nas.evaluate import Setup
from nas.spec import ArchSpec
from nas.train.graphs import Mode
from nas.train.preflight import step_mode
from nas.train.recipes import Recipe


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


class Place(Protocol):
    """Where a search runs. `devices` are of one kind; of a cluster one stands for all."""

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Those that time."""

    def steps(
        self,
        asked: str,
        before: Mapping[str, Any] | None,
        baseline: ArchSpec,
        recipe: Recipe,
        waiting: Callable[[], None],
    ) -> tuple[Mode, str]:
        """Return how steps are done there, and why not as graphs; see `nas.train.preflight.step_mode`."""

    def describe(self, steps: str) -> dict[str, Any]:
        """Return what step times depend on; see `nas.devices.describe_device`."""

    def engine(
        self,
        setup: Setup,
        data: Dataset,
        *,
        checkpoints: Path,
        say: Callable[[str], None],
        waiting: Callable[[], None],
    ) -> Engine:
        """Return the engine; see `engine_for`."""

    def close(self) -> None:
        """Let go of what is not here."""


@dataclass(frozen=True)
class Here:
    """Devices of this machine, as they were named in `asked`."""

    devices: tuple[torch.device, ...]
    asked: str
    threads: int

    def steps(
        self,
        asked: str,
        before: Mapping[str, Any] | None,
        baseline: ArchSpec,
        recipe: Recipe,
        waiting: Callable[[], None],
    ) -> tuple[Mode, str]:
        """Return how steps are done, found out on the first device."""
        return step_mode(asked, before, self.devices[0], baseline, recipe, waiting)

    def describe(self, steps: str) -> dict[str, Any]:
        """Return what step times depend on."""
        return describe_device(self.devices[0], self.threads, steps)

    def engine(
        self,
        setup: Setup,
        data: Dataset,
        *,
        checkpoints: Path,
        say: Callable[[str], None],
        waiting: Callable[[], None],
    ) -> Engine:
        """Return the engine of the devices."""
        return engine_for(
            setup,
            data,
            self.devices,
            asked=self.asked,
            threads=self.threads,
            checkpoints=checkpoints,
            say=say,
            waiting=waiting,
        )

    def close(self) -> None:
        """Nothing is held."""


def place_of(
    engine: str,
    devices: str,
    *,
    address: str,
    gpus_per_trial: float,
    before: Mapping[str, Any] | None,
    say: Callable[[str], None],
) -> Place:
    """Return the place of a search.

    Args:
        before: The manifest of the run, where it is continued.

    Raises:
        DeviceError: a device or the cluster is not there. UsageError: Ray is not installed.
    """
    if engine == "local":
        found = pick_devices(devices)
        return Here(found, devices, max(1, torch.get_num_threads() // len(found)))
    try:
        from nas.engine.ray_engine import RayPlace
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "ray":
            raise
        raise UsageError(
            "--engine: found ray, which is not installed. Install it: pip install 'phinas[ray]'"
        ) from error
    return RayPlace(address, devices, gpus_per_trial, before, say)
