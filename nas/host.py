"""This machine, for a process: the cores and the memory that it may use, and what it does with memory that is free."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def usable_cores() -> int:
    """Return the cores that this process may use at a time: by affinity, and by the quota of a container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def cpu_quota(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float | None:
    """Return the cores that the control group of this process may use, or None without a quota.

    Version 2 keeps `cpu.max` in every group from the own one up to the root, and the smallest holds; version 1 keeps
    two files. Source: the kernel's Documentation/admin-guide/cgroup-v2.rst, section CPU.
    """
    lines = [line.split(":", 2) for line in own.read_text().splitlines()] if own.is_file() else []
    quotas = []
    for number, controllers, group in (line for line in lines if len(line) == 3):
        if number == "0":
            place = cgroups / group.lstrip("/")
            chain = [place, *(parent for parent in place.parents if parent.is_relative_to(cgroups))]
            pairs = [_words(folder / "cpu.max") for folder in chain]
        elif "cpu" in controllers.split(","):
            base = cgroups / "cpu"
            folders = (base / group.lstrip("/"), base)
            pairs = [_words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us") for folder in folders]
        else:
            continue
        quotas += [int(pair[0]) / int(pair[1]) for pair in pairs if len(pair) == 2 and pair[0] not in ("max", "-1")]
    return min(quotas, default=None)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def memory_available(source: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes of main memory that programs can still have, in this machine and this container.

    Raises:
        OSError: the kernel does not say.
    """
    lines = dict(line.split(":", 1) for line in source.read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    most, used = _words(group / "memory.max"), _words(group / "memory.current")
    if most and used and most[0] != "max":
        free = min(free, int(most[0]) - int(used[0]))
    return free


def keep_freed_memory() -> bool:
    """Have this process keep the memory that tensors on the CPU free, and return whether the C library could be told so.

    glibc gives large blocks back to the system at once, and each training step then waits for the same pages to be mapped
    and zeroed again: thousands of page faults on the networks of `v2_tiny` (`benchmarks.cpu_path`).
    The process is changed until it ends: it holds on to the most memory that it has had, and to what lies between its
    pieces (after ten networks of `v2_tiny` 686 MiB in place of 586).
    Source: mallopt(3), M_MMAP_MAX, M_TRIM_THRESHOLD and M_TOP_PAD.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library, such as musl
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 64 * 2**20}
    return all(mallopt(name, value) == 1 for name, value in settings.items())
