"""Under what a time was measured: clock, power and throttling of a GPU; what else ran on a CPU.

A watch is asked after every turn of a measurement (a block of each network) and says what it saw in that turn. Turns
that were disturbed are rejected and repeated (`nas.cost.step_time`); what was seen travels with the measurement.
"""

from __future__ import annotations

import functools
import operator
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

CLOCK = 0.03
"""How far the clock of a turn may be from the measurement's median, as a share of it."""

FOREIGN = 0.15
"""How much other processes may run during a turn, as a share of the machine's cores: 0.3 of a core of two."""

THROTTLED = 0xEC
"""Bits of NVML that slow a GPU down: power cap 0x4, hardware 0x8, heat 0x20 and 0x40, power brake 0x80.
The others (idle, a clock that somebody has set) are no disturbance."""

STAT = Path("/proc/stat")
TICKS = 5
"""The kernel counts a core's time in ticks; what fewer than so many can tell is noise."""


@dataclass(frozen=True)
class Seen:
    """What a watch saw in one turn; None is what it cannot see.

    Args:
        clock_mhz, power_w, temperature_c: Of the GPU, at the turn's end. throttle: Bits of NVML.
        foreign_load: Cores that others kept busy; time that the host took from a virtual machine counts too.
        absent: Why something is not there.
    """

    clock_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    throttle: int | None = None
    foreign_load: float | None = None
    absent: str = ""


@dataclass(frozen=True)
class Conditions:
    """Under what a measurement was taken.

    Args:
        clock_mhz, power_w, temperature_c, foreign_load: Medians over its turns, see `Seen`.
        throttled: Share of turns in which the GPU was slowed down. throttle: Their bits, of `THROTTLED`.
        turns, rejected: Turns taken, and how many of these were thrown away.
        note: What is wrong with the measurement, where something is. absent: Why something is not there.
    """

    clock_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    throttled: float | None = None
    throttle: int | None = None
    foreign_load: float | None = None
    turns: int = 0
    rejected: int = 0
    note: str = ""
    absent: str = ""

    @property
    def remarks(self) -> str:
        """What a reader of the measurement should know, in words."""
        return "; ".join(filter(None, (self.note, self.absent)))


Watch = Callable[[], Seen | None]
"""Says what was seen since it was made or last said something; None: too little to tell, ask again. Costs microseconds."""


def watch(device: torch.device) -> Watch:
    """Return the watch of a device; where it cannot see, it says why."""
    if device.type == "cuda":
        return _gpu(torch.cuda.get_device_properties(device).uuid)
    if _busy_s() is None:
        blind = Seen(absent=f"no foreign load: {STAT} does not count on this system")
        return lambda: blind
    return _Cpu()


def told(seen: Sequence[Seen | None]) -> list[Seen]:
    """Return what was seen in each turn, where one that was too short to tell has what is told with a later one."""
    found: list[Seen] = []
    later = Seen(absent="no foreign load: the turns were too short to tell")
    for item in reversed(seen):
        later = item or later
        found.append(later)
    return found[::-1]


def disturbed(seen: Sequence[Seen]) -> list[bool]:
    """Return for each turn whether the clock was off its median, or others ran."""
    clocks = [item.clock_mhz for item in seen if item.clock_mhz]
    usual = statistics.median(clocks) if clocks else 0.0
    most = FOREIGN * (os.cpu_count() or 1)
    return [
        abs((item.clock_mhz or usual) - usual) > CLOCK * usual or (item.foreign_load or 0.0) > most for item in seen
    ]


def conditions(seen: Sequence[Seen], *, rejected: int, kept: int) -> Conditions:
    """Return what was seen during a measurement.

    Args:
        rejected: Turns thrown away. kept: Turns that are part of it though they were disturbed.
    """
    slowed = [item.throttle & THROTTLED for item in seen if item.throttle is not None]
    why = "while the GPU's clock changed" if any(item.clock_mhz for item in seen) else "on a busy machine"
    return Conditions(
        clock_mhz=_median(seen, "clock_mhz"),
        power_w=_median(seen, "power_w"),
        temperature_c=_median(seen, "temperature_c"),
        throttled=sum(map(bool, slowed)) / len(slowed) if slowed else None,
        throttle=functools.reduce(operator.or_, slowed) if slowed else None,
        foreign_load=_median(seen, "foreign_load"),
        turns=len(seen),
        rejected=rejected,
        note=f"measured {why}" if kept else "",
        absent=next((item.absent for item in seen if item.absent), ""),
    )


def _median(seen: Sequence[Seen], name: str) -> float | None:
    values = [value for item in seen if (value := getattr(item, name)) is not None]
    return round(statistics.median(values), 3) if values else None


# --- the CPU ----------------------------------------------------------------------------------------------


class _Cpu:
    """Compares the time that all cores were busy with the time that this process ran.

    Nobody else of a run works while the lane is held alone, so all the rest is foreign. A turn that is too short for the
    kernel's ticks is told together with the next.
    """

    def __init__(self) -> None:
        self._tick = 1 / os.sysconf("SC_CLK_TCK")
        self._last = self._now()

    def _now(self) -> tuple[float, float, float]:
        return time.perf_counter(), _busy_s() or 0.0, time.process_time()

    def __call__(self) -> Seen | None:
        now = self._now()
        wall, busy, own = (b - a for a, b in zip(self._last, now, strict=True))
        if wall < TICKS * self._tick:
            return None
        self._last = now
        return Seen(foreign_load=max(0.0, busy - own - self._tick) / wall)


def _busy_s() -> float | None:
    """Return the seconds that all cores of the machine have been busy since it started; None where nobody counts."""
    try:
        first = STAT.read_text(encoding="ascii").partition("\n")[0].split()
        user, nice, system, _, _, irq, softirq, steal = map(int, first[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK") or None


# --- CUDA -------------------------------------------------------------------------------------------------


def _gpu(uuid: Any) -> Watch:
    """Return the watch of a CUDA device, found by its identity: NVML numbers devices in an order of its own."""
    try:
        import pynvml as nvml
    except ImportError:
        return _blind("no GPU clocks: nvidia-ml-py is not installed (pip install nvidia-ml-py)")
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except nvml.NVMLError as error:
        return _blind(f"no GPU clocks: NVML says {error}")

    def read(call: Callable[..., float], *arguments: Any) -> float | None:
        try:
            return call(handle, *arguments)
        except nvml.NVMLError:  # not every device tells everything
            return None

    def look() -> Seen:
        clock = read(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM)
        power = read(nvml.nvmlDeviceGetPowerUsage)  # milliwatts
        bits = read(nvml.nvmlDeviceGetCurrentClocksEventReasons)
        return Seen(
            clock_mhz=clock,
            power_w=None if power is None else power / 1e3,
            temperature_c=read(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
            throttle=None if bits is None else int(bits),
            absent="" if clock else "no GPU clocks: NVML does not tell them for this device",
        )

    return look


def _blind(why: str) -> Watch:
    return lambda: Seen(absent=why)
