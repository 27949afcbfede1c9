"""`step_time_ms`: the time of one training step (forward, backward, optimiser) on a real batch.

Two protocols. In a search, samples are taken until the median is known well enough for the score, under a cap of
seconds. For published figures, blocks of the network and of a reference alternate, after a warm-up that ends when
the block medians agree. The caller holds the device's lane alone (`nas.lane`). `latency_ms` is sampled by the same code.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from nas.cost._base import COSTS, Cost, Measurement, Step


@dataclass(frozen=True)
class Protocol:
    """How long and how often to measure.

    Args:
        warmup_steps: Steps thrown away first; a first step plans its kernels and allocates its memory.
        settle: Go on warming up until three block medians agree within this share (0 = do not check).
        min_blocks, max_blocks: Blocks of steps; a block lasts at least `block_s` seconds.
        at_cap: Blocks that are taken even beyond the cap.
        target: Stop when the relative standard errors of the medians, taken together, are below this.
        cap_s: Stop after this many seconds in any case (warm-up apart, which has the same cap).
    """

    warmup_steps: int
    settle: float
    min_blocks: int
    max_blocks: int
    at_cap: int
    block_s: float
    target: float
    cap_s: float


SEARCH = Protocol(
    warmup_steps=2, settle=0.0, min_blocks=5, max_blocks=200, at_cap=3, block_s=0.0, target=0.02, cap_s=2.0
)
FULL = Protocol(
    warmup_steps=5, settle=0.02, min_blocks=9, max_blocks=30, at_cap=9, block_s=0.05, target=0.005, cap_s=8.0
)


Block = Callable[[Step, int, torch.device], list[float]]
"""Takes a step so many times in a row and returns the block's samples: milliseconds per step."""


def step_times(steps: Sequence[Step], device: torch.device, protocol: Protocol) -> tuple[Measurement, ...]:
    """Time several training steps side by side, in alternating blocks, and return a measurement for each.

    Args:
        steps: One callable for each network.
    """

    def block(step: Step, count: int, device: torch.device) -> list[float]:
        return [elapsed(step, count, device)]

    return tuple(measurement(times, taken, device) for times, taken in samples(steps, device, protocol, block))


def samples(
    steps: Sequence[Step], device: torch.device, protocol: Protocol, block: Block
) -> list[tuple[list[float], int]]:
    """Sample several steps side by side; return for each its samples (ms) and how many steps they hold.

    Blocks alternate, which makes the *ratio* of two networks hold on a machine whose speed drifts: both see the same drift.

    Args:
        steps: One callable for each network.
        block: How a block is taken.
    """
    for step in steps:
        for _ in range(protocol.warmup_steps):
            step()
    repeats = [_repeats(step, device, protocol.block_s) for step in steps]
    if protocol.settle:
        _settle(steps[0], repeats[0], device, protocol)
    found: list[list[float]] = [[] for _ in steps]
    medians: list[list[float]] = [[] for _ in steps]
    start = time.perf_counter()
    while len(medians[0]) < protocol.max_blocks:
        for index, (step, count) in enumerate(zip(steps, repeats, strict=True)):
            times = block(step, count, device)
            found[index] += times
            medians[index].append(statistics.median(times))
        blocks = len(medians[0])
        if time.perf_counter() - start > protocol.cap_s and blocks >= protocol.at_cap:
            break
        # What is used is a ratio of two medians, so the errors of all of them count.
        if blocks >= protocol.min_blocks and math.hypot(*map(_relative_error, medians)) < protocol.target:
            break
    return [(times, len(medians[0]) * count) for times, count in zip(found, repeats, strict=True)]


def step_time(step: Step, device: torch.device) -> Measurement:
    """Time one training step by the search's protocol."""
    return step_times([step], device, SEARCH)[0]


def search_target(accuracy: float, accuracy_error: float, w: float) -> float:
    """Return how well a step time must be known, as a relative standard error.

    The score is proportional to time^w, so a relative time error e moves it by |w| * e; that may be a quarter of what
    the accuracy's own standard error moves it by.
    """
    if w == 0:
        return 0.1
    return min(0.1, 0.25 * accuracy_error / max(accuracy, 1e-9) / abs(w))


def elapsed(step: Step, count: int, device: torch.device) -> float:
    """Take so many steps, wait for the last, and return milliseconds per step."""
    if device.type == "cuda":
        first, last = _event(), _event()
        first.record()
        for _ in range(count):
            step()
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last)) / count
    start = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - start) * 1e3 / count


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _repeats(step: Step, device: torch.device, block_s: float) -> int:
    if not block_s:
        return 1
    once = elapsed(step, 1, device)
    return max(1, math.ceil(block_s * 1e3 / once)) if once > 0 else 1


def _settle(step: Step, count: int, device: torch.device, protocol: Protocol) -> None:
    recent: list[float] = []
    start = time.perf_counter()
    while time.perf_counter() - start < protocol.cap_s:
        recent = [*recent[-2:], elapsed(step, count, device)]
        if len(recent) == 3 and max(recent) <= min(recent) * (1 + protocol.settle):
            return


def _relative_error(times: Sequence[float]) -> float:
    """Return the relative standard error of the median: 1.2533 * sigma / sqrt(n), with sigma = 1.4826 * MAD."""
    median = statistics.median(times)
    if median <= 0:  # a clock too coarse for one step: sample on, and let the measurement refuse a zero
        return math.inf
    return 1.2533 * 1.4826 * _mad(times) / math.sqrt(len(times)) / median


def _mad(times: Sequence[float]) -> float:
    median = statistics.median(times)
    return statistics.median(abs(value - median) for value in times)


def measurement(times: Sequence[float], n: int, device: torch.device) -> Measurement:
    """Return median and spread of samples (ms) that hold `n` steps."""
    return Measurement(statistics.median(times), "ms", _mad(times), n, str(device))


COSTS.register("step_time_ms", Cost("ms", of_step=step_time))
