"""Devices by name: which there are, what step times depend on, and the name of each one's lane."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from nas.errors import DeviceError


def pick_device(name: str) -> torch.device:
    """Return a device: `cpu`, `cuda`, `cuda:1`, or `auto` for a CUDA device where there is one.

    Raises:
        DeviceError: the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(
            f"--devices: found {name!r}; allowed: auto, cpu, cpu:2, cuda, cuda:0, cuda:0,cuda:1, ..."
        ) from None
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise DeviceError(f"--devices: found {name!r}; step times are measured on cpu and cuda devices only.")
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = device.index or 0
    if index >= there:
        raise DeviceError(
            f"--devices: {name} is not there ({there} CUDA devices found). Use --devices cpu, or install a CUDA torch."
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def lane_name(device: torch.device) -> str:
    """Return the name of a device's lane: of a CUDA device its own identity, whatever number it is seen under."""
    if device.type == "cuda":
        return f"cuda-{torch.cuda.get_device_properties(device).uuid}"
    return "cpu"


def pick_devices(names: str) -> tuple[torch.device, ...]:
    """Return the devices of a list such as `cuda:0,cuda:1`; `cpu:2` is the CPU twice, for two workers.

    Raises:
        DeviceError: a device is not there, or the devices differ, so that their step times would not compare.
    """
    found: list[torch.device] = []
    for name in names.split(","):
        kind, _, number = name.strip().partition(":")
        if kind == "cpu" and number:
            if not number.isdecimal() or not 1 <= int(number) <= 256:
                raise DeviceError(f"--devices: found {name.strip()!r}; cpu:N is N workers on the CPU, 1 to 256.")
            found += [pick_device("cpu")] * int(number)
        else:
            found.append(pick_device(name.strip()))
    kinds = {device: describe_device(device, threads=1) for device in found}
    first = kinds[found[0]]
    for device, facts in kinds.items():
        if facts != first:
            raise DeviceError(
                f"--devices: {found[0]} is {first['name']}, {device} is {facts['name']}; step times compare only between "
                "devices of one kind. Search on one kind at a time."
            )
    return tuple(found)


def describe_device(device: torch.device, threads: int | None = None, steps: str = "eager") -> dict[str, Any]:
    """Return what step times depend on: device, its name, threads (this process's unless given) and precision.

    Args:
        steps: How training steps are done; it is told where they are not done kernel by kernel (`eager`).
    """
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return {
            "type": "cuda",
            "name": properties.name,
            "memory_mib": properties.total_memory // 2**20,
            "precision": "bfloat16 autocast",
            "layout": "channels_last",
            **({} if steps == "eager" else {"steps": steps}),
        }
    return {
        "type": "cpu",
        "name": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": threads or torch.get_num_threads(),
        "precision": "float32",
        "layout": "channels_last",
    }


_MEMORY_WORDS = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Return whether torch failed because the memory of the device or of the host is full."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _MEMORY_WORDS)


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
