"""`step_time_ms`: the time of one training step (forward, backward, optimiser) on a real batch.

Two protocols. In a search, samples are taken until the median is known well enough for the score, under a cap of
seconds. For published figures, blocks of the network and of a reference alternate, after a warm-up that ends when
the block medians agree. The caller holds the device's lane alone (`nas.lane`). `latency_ms` is sampled by the same code.

The lane keeps other trainings of this package away, not other programs. Against these: turns in which others ran, or in
which the GPU's clock was off, are rejected and repeated (`nas.cost._conditions`); on one CPU thread a step's time is the time
that the process ran, which is the wall time of a machine that has nothing else to do; and a network is compared with the
reference turn by turn (`step_times`).
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from nas.cost._base import COSTS, Cost, Measurement, Step
from nas.cost._conditions import Conditions, Seen, Watch, conditions, disturbed, told
from nas.cost._conditions import watch as watch_of


@dataclass(frozen=True)
class Protocol:
    """How long and how often to measure.

    Args:
        warmup_steps: Steps thrown away first; a first step plans its kernels and allocates its memory.
        settle: Go on warming up until three block medians agree within this share (0 = do not check).
        min_blocks, max_blocks: Blocks of steps; a block lasts at least `block_s` seconds. Turns that were
            disturbed are repeated, until `min_blocks` of them are more than there are others: then all count, with a note.
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
    warmup_steps=1, settle=0.0, min_blocks=3, max_blocks=200, at_cap=3, block_s=0.02, target=0.02, cap_s=2.0
)
FULL = Protocol(
    warmup_steps=5, settle=0.02, min_blocks=9, max_blocks=30, at_cap=9, block_s=0.05, target=0.005, cap_s=8.0
)


Block = Callable[[Step, int, torch.device], list[float]]
"""Takes a step so many times in a row and returns the block's samples: milliseconds per step."""

Rows = Sequence[Sequence[float]]
"""Of each network the medians of its blocks (ms), turn by turn."""


@dataclass(frozen=True)
class Samples:
    """What was sampled, in the turns that were kept.

    Args:
        times: Of each network the samples, in milliseconds. counts: How many steps they hold.
        conditions: Of all turns.
    """

    times: tuple[list[float], ...]
    counts: tuple[int, ...]
    conditions: Conditions


def step_times(
    steps: Sequence[Step], device: torch.device, protocol: Protocol, watch: Watch | None = None
) -> tuple[Measurement, ...]:
    """Time several training steps side by side, in alternating blocks, and return a measurement for each.

    The last one is the reference. Its value is its median; the value of each other is that times the median of the *ratios*
    of neighbouring blocks, and its spread that of these ratios. A machine that is slow for a while is slow for both
    blocks of a turn, while the two medians may come from different turns. The ratio of medians was off by
    up to a half more (docs/log.md).

    Args:
        steps: One callable for each network.
        watch: What sees disturbances; that of the device unless given.
    """
    timer = running if device.type == "cpu" and torch.get_num_threads() == 1 else elapsed

    def block(step: Step, count: int, device: torch.device) -> list[float]:
        return [timer(step, count, device)]

    taken = samples(steps, device, protocol, block, watch=watch, error=_ratio_error)
    reference = measurement(taken.times[-1], taken.counts[-1], device, taken.conditions)
    found = []
    for times, count in zip(taken.times[:-1], taken.counts[:-1], strict=True):
        ratios = _ratios(times, taken.times[-1])
        value, spread = statistics.median(ratios) * reference.value, _mad(ratios) * reference.value
        found.append(Measurement(value, "ms", spread, count, str(device), taken.conditions))
    return (*found, reference)


def samples(
    steps: Sequence[Step],
    device: torch.device,
    protocol: Protocol,
    block: Block,
    *,
    watch: Watch | None = None,
    error: Callable[[Rows], float] | None = None,
) -> Samples:
    """Sample several steps side by side, and throw away the turns that were disturbed.

    Blocks alternate, which makes the *ratio* of two networks hold on a machine whose speed drifts: both see the same drift.

    Args:
        steps: One callable for each network.
        block: How a block is taken.
        watch: What sees disturbances; that of the device unless given.
        error: The relative standard error of what is wanted; that of all medians together unless given.
    """
    repeats = []
    for step in steps:
        for _ in range(protocol.warmup_steps - 1):
            step()
        repeats.append(_repeats(step, device, protocol))
    if protocol.settle:
        _settle(steps[0], repeats[0], device, protocol)
    turns: list[list[list[float]]] = []
    seen: list[Seen | None] = []
    start = time.perf_counter()
    look = watch or watch_of(device)
    while True:
        turns.append([block(step, count, device) for step, count in zip(steps, repeats, strict=True)])
        seen.append(look())
        bad = disturbed(told(seen))
        # A machine that is always busy is not waited for: its turns are as good as it gets.
        least = protocol.min_blocks
        rejected = sum(bad) if sum(bad) < least or len(bad) - sum(bad) >= least else 0
        kept = [turn for turn, off in zip(turns, bad, strict=True) if not (off and rejected)]
        if len(kept) >= protocol.max_blocks or len(turns) >= 2 * protocol.max_blocks:
            break
        if time.perf_counter() - start > protocol.cap_s and len(kept) >= protocol.at_cap:
            break
        medians = [[statistics.median(turn[index]) for turn in kept] for index in range(len(steps))]
        if len(kept) >= protocol.min_blocks and (error or _all_errors)(medians) < protocol.target:
            break
    return Samples(
        tuple([value for turn in kept for value in turn[index]] for index in range(len(steps))),
        tuple(len(kept) * count for count in repeats),
        conditions(told(seen), rejected=rejected, kept=sum(bad) - rejected),
    )


def _all_errors(medians: Rows) -> float:
    return math.hypot(*map(_relative_error, medians))


def _ratio_error(medians: Rows) -> float:
    """Return the largest error of a ratio to the last network; of one network alone its own."""
    *others, last = medians
    return max((_relative_error(_ratios(own, last)) for own in others), default=_relative_error(last))


def _ratios(times: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Return the ratios of neighbouring blocks; a clock that stands still makes none that is a number."""
    return [own / other if other > 0 else math.nan for own, other in zip(times, reference, strict=True)]


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


def running(step: Step, count: int, device: torch.device) -> float:
    """Take so many steps on one CPU thread, and return milliseconds of this process's running time per step.

    A thread that waits for a core does not run, so a program beside it costs the step what it takes of caches and memory, and
    not the turns of the scheduler. With several threads this would not do: threads that wait for each other run, too.
    """
    start = time.process_time()
    for _ in range(count):
        step()
    return (time.process_time() - start) * 1e3 / count


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


COLD = 5
"""A first step, which plans and allocates, may take so many times as long as the next: one shorter than so many blocks says
nothing of how many steps make a block."""


def _repeats(step: Step, device: torch.device, protocol: Protocol) -> int:
    """Do the last step of the warm-up, and return how many steps make a block."""
    block_ms = protocol.block_s * 1e3
    once = elapsed(step, 1, device) if protocol.warmup_steps else 0.0
    if block_ms and once < COLD * block_ms:
        once = elapsed(step, 1, device)
    return max(1, math.ceil(block_ms / once)) if block_ms and once > 0 else 1


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


def measurement(
    times: Sequence[float], n: int, device: torch.device, conditions: Conditions | None = None
) -> Measurement:
    """Return median and spread of samples (ms) that hold `n` steps."""
    return Measurement(statistics.median(times), "ms", _mad(times), n, str(device), conditions)


COSTS.register("step_time_ms", Cost("ms", of_step=step_time))
