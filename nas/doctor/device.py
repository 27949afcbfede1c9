"""The device that would train: torch's build, GPUs, cores, load, memory, and the lane in which steps are timed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

from nas.doctor._check import Check, Level
from nas.errors import DeviceError
from nas.host import cpu_quota, memory_available

CUDA_TORCH = (
    "Install a CUDA build: pip install --force-reinstall torch (on Linux the package index has one; other CUDA versions: "
    "https://pytorch.org/get-started/locally/)."
)
LEAST_MEMORY_GIB = 2.0


def torch_build(wanted: str) -> Iterator[Check]:
    """Yield torch's build, and whether it sees the GPUs that the driver shows.

    Args:
        wanted: The `--device` asked for.
    """
    try:
        import torch
    except (ImportError, OSError) as error:
        advice = "Install it again: pip install --force-reinstall torch"
        yield Check("device", "torch", "problem", f"cannot be imported ({error})", advice)
        return
    built, seen, driver = torch.version.cuda, torch.cuda.is_available(), nvidia_smi()
    build = f"torch {torch.__version__}, " + (f"built for CUDA {built}" if built else "a build for CPUs only")
    values = {"torch": torch.__version__, "cuda": built, "available": seen, "driver": driver}
    idle = f"; the driver shows {', '.join(gpu for gpu, _ in driver)}" if driver else ""
    if seen or not driver or wanted == "cpu":
        yield Check("device", "torch", "ok", build, values=values)
    elif built is None:
        advice = f"A search would run on the CPU and leave the GPU idle. {CUDA_TORCH}"
        yield Check("device", "torch", "warning", build + idle, advice, values)
    else:
        advice = (
            f"torch cannot use the GPU: {_why_no_cuda()} The driver is {driver[0][1]}; install a newer driver, or a torch "
            "for an older CUDA (https://pytorch.org/get-started/locally/)."
        )
        yield Check("device", "torch", "warning", build + idle, advice, values)


def nvidia_smi() -> list[tuple[str, str]]:
    """Return name and driver version of each GPU that the NVIDIA driver shows; empty without a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    pairs = [line.rpartition(",") for line in done.stdout.splitlines() if "," in line]
    return [(name.strip(), driver.strip()) for name, _, driver in pairs]


def _why_no_cuda() -> str:
    import torch

    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return f"{str(error).splitlines()[0].rstrip('.')}."
    return "it gives no reason."


def chosen(wanted: str) -> Iterator[Check]:
    """Yield the device that a search would run on, with its memory.

    Raises:
        DeviceError: the device asked for is not there.
    """
    import torch

    from nas.devices import describe_device, pick_device

    device = pick_device(wanted)
    facts = describe_device(device)
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        found = f"{device}: {facts['name']}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, {facts['precision']}"
        yield Check("device", "device", "ok", found, values={**facts, "free_mib": free // 2**20})
        used = 1 - free / total
        if used > 0.1:
            advice = "Other programs hold it: step times will be noisy if they compute. See nvidia-smi."
            yield Check("device", "GPU memory", "warning", f"{used:.0%} of it is taken", advice, {"used": used})
    else:
        threads = f"{facts['threads']} thread" + ("s" if facts["threads"] != 1 else "")
        yield Check("device", "device", "ok", f"cpu: {facts['name']}, {threads}, {facts['precision']}", values=facts)


def cores() -> Iterator[Check]:
    """Yield cores, torch's threads, the quota of the container and the load: what makes step times on a CPU noisy."""
    import torch

    usable, machine, threads = len(os.sched_getaffinity(0)), os.cpu_count() or 1, torch.get_num_threads()
    quota, load = cpu_quota(), os.getloadavg()[0]
    values: dict[str, Any] = {"cores": usable, "threads": threads, "quota": quota, "load": load}
    found = f"{usable} of {machine} usable, torch threads {threads}, load {load:.1f}"
    found += "" if quota is None else f", a quota of {quota:.3g} cores"
    advice = []
    if quota is not None and threads > quota:
        few = max(1, int(quota))
        advice.append(f"More threads than the quota allows are stopped again and again: export OMP_NUM_THREADS={few}")
    if load > machine:  # the load is that of the whole machine
        advice.append("More work than cores: step times will be noisy. Wait until other programs have ended.")
    yield Check("device", "cores", "warning" if advice else "ok", found, " ".join(advice), values)


def memory() -> Iterator[Check]:
    """Yield the main memory that is available."""
    available = memory_available()
    level: Level = "warning" if available < LEAST_MEMORY_GIB * 2**30 else "ok"
    advice = (
        "Little for a search: the packed images and torch share it. End other programs." if level == "warning" else ""
    )
    yield Check("device", "memory", level, f"{available / 2**30:.1f} GiB available", advice, {"bytes": available})


class _HeldError(Exception):
    """Somebody else holds the lane."""


def timing_lane(wanted: str) -> Iterator[Check]:
    """Yield whether the lock of the timing lane can be made, and whether it is free.

    Raises:
        DeviceError: it cannot be made.
    """
    from nas.devices import lane_name, pick_device

    try:
        name = lane_name(pick_device(wanted))
    except DeviceError:
        return  # said of the device already
    if _free(name, alone=True):
        yield Check("device", "timing lane", "ok", "free: nobody trains or times on this device", values={"held": None})
        return
    held = "train" if _free(name, alone=False) else "time"
    found = (
        "another run trains on this device now" if held == "train" else "another run times a step on this device now"
    )
    advice = "Both would wait for each other's timings, and train at the same time. Let it end first."
    yield Check("device", "timing lane", "warning", found, advice, {"held": held})


def _free(name: str, *, alone: bool) -> bool:
    from nas.lane import lane

    def held() -> None:
        raise _HeldError

    try:
        with lane(name, alone=alone, waiting=held):
            return True
    except _HeldError:
        return False
