"""The worker of a Ray cluster: an actor, which is a process that runs phases and keeps trainings in memory."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
import torch

from nas.data import Dataset
from nas.data.parcel import Parcel, Part, opened, received
from nas.devices import describe_device, pick_device
from nas.engine import checkpoints
from nas.engine._base import Job
from nas.engine._worker import PhaseRunner, Worker
from nas.errors import DeviceError, NasError

Start = Callable[[torch.device, Dataset | None, Callable[[], None]], PhaseRunner]
"""Makes what a worker runs phases with, on a device and with images; pickled to the worker."""

Answer = tuple[str, Any]


class RayWorker:
    """Runs phases on a node. Checkpoints come from the owner of the run and go to it: no folder is shared.

    Args:
        device_type: `cpu` or `cuda`; Ray shows a worker the GPU that it has. threads: CPU threads.
    """

    def __init__(self, device_type: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._device, self._threads = torch.device(device_type), threads
        self._worker: Worker | None = None

    def look(self) -> dict[str, Any]:
        """Return what step times depend on here, and the versions.

        Raises:
            DeviceError: the device is not there.
        """
        from nas.engine.ray_cluster import versions

        self._device = pick_device(self._device.type)
        return {"device": describe_device(self._device, self._threads), "versions": versions()}

    def call(self, function: Callable[..., Any], *arguments: Any) -> Answer:
        """Run a function on this device."""
        try:
            return "done", function(self._device, *arguments)
        except NasError as error:
            return "error", error

    def start(self, start: Start, sent: Parcel | None, parts: Sequence[Any] | None, keep: bool) -> Answer:
        """Make what runs phases.

        Args:
            sent: What is told of the images. parts: References to them, in parts. keep: Whether checkpoints are made.

        Returns:
            `ready`; `absent` where the images are not here and no parts were given; `error` with what a user can mend.
        """

        def fetched() -> Iterator[Part]:
            for part in parts or ():
                yield ray.get(part)

        try:
            data = None if sent is None else opened(sent)
            if sent is not None and data is None:
                if parts is None:
                    return "absent", None
                data = received(sent, fetched)
            self._folder = Path(tempfile.mkdtemp(prefix="nas-")) if keep else None
            self._worker = Worker(start(self._device, data, lambda: None), self._folder)
            return "ready", None
        except NasError as error:
            return "error", error
        except Exception as error:
            return "error", DeviceError(
                f"{self._device}: its worker failed to start ({error!r}).\n{traceback.format_exc()}"
            )

    def run(self, job: Job, checkpoint: bytes | None) -> tuple[str, Any, bytes | None]:
        """Run a phase.

        Args:
            checkpoint: That of the phase before, where this worker does not have the training in memory.

        Returns:
            `done`, the result and the new checkpoint; `bug` with the error and its traceback; `error`.
        """
        assert self._worker is not None
        path = None if self._folder is None else checkpoints.path_of(self._folder, job.key)
        try:
            if path is not None and checkpoint is not None:
                path.write_bytes(checkpoint)
            result = self._worker.run(job)
            made = path.read_bytes() if path is not None and path.exists() else None
            return "done", result, made
        except NasError as error:
            return "error", error, None
        except Exception as error:
            return "bug", (repr(error), traceback.format_exc()), None
        finally:
            if path is not None:  # the owner has it, or has the one of the phase before
                with suppress(OSError):
                    path.unlink(missing_ok=True)

    def drop(self, key: str) -> None:
        """Forget a training."""
        if self._worker is not None:
            self._worker.drop(key)
