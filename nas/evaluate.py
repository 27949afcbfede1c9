"""The waist: `Evaluator.run_phase` counts, times and trains one network, phase by phase. Nobody else trains proxies.

Phase 0 counts, checks limits and measures the step time; phases 1 to P train, each at its own resolution.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from nas.cost import COSTS, Measurement, count
from nas.cost.memory import peak_memory
from nas.cost.step_time import FULL, SEARCH, Protocol, search_target, step_times
from nas.data import Dataset, Split
from nas.errors import DeviceError, MeasurementError, UsageError
from nas.lane import lane
from nas.objective import slacks
from nas.space import Limit
from nas.spec import ArchSpec
from nas.train import loop
from nas.train.loop import PhaseTraining, TrainState
from nas.train.recipes import RECIPES, Recipe
from nas.train.schedule import phases

Outcome = Literal["ok", "infeasible", "out_of_memory", "diverged", "timeout"]


@dataclass(frozen=True)
class PhaseResult:
    """What one phase of one network showed.

    Args:
        outcome: `ok`, or why the trial ends here. reason: That in words.
        measurements: Costs by name; from phase 0, with `ref_step_time_ms` of the baseline beside `step_time_ms`.
        slacks: How far each limited cost is beyond its limit, as a share of it.
        training: What training showed; None in phase 0.
        seconds: Wall time of the phase.
        state: The network in training, for the next phase; it never leaves its process.
    """

    phase: int
    outcome: Outcome
    seconds: float
    reason: str = ""
    measurements: Mapping[str, Measurement] = field(default_factory=dict)
    slacks: Mapping[str, float] = field(default_factory=dict)
    training: PhaseTraining | None = None
    state: TrainState | None = field(default=None, repr=False, compare=False)


class Evaluator:
    """Evaluates networks on one device; holds what they share: the data there, and the baseline ready to be timed.

    Args:
        data: Images. recipe: How to train. device: Where.
        limits: Limits on costs. baseline: The network that step times are compared with.
        w: Exponent of the step time in the score; decides how exactly the time must be known.
        timeout_s: Seconds that a phase may take.
        waiting: Called when somebody else has the device's lane, before waiting for it.
    """

    def __init__(
        self,
        data: Dataset,
        recipe: Recipe,
        device: torch.device,
        *,
        baseline: ArchSpec,
        limits: tuple[Limit, ...] = (),
        w: float = -0.07,
        timeout_s: float | None = None,
        waiting: Callable[[], None] | None = None,
    ) -> None:
        absent = [limit.cost for limit in limits if limit.cost == "peak_memory_mib" and device.type != "cuda"]
        if absent:
            raise UsageError(f"limit on {absent[0]}: {COSTS[absent[0]].absent}; this is {device}. Leave the limit out.")
        self.recipe = recipe
        self.device = device
        self.limits = limits
        self.w = w
        self.timeout_s = timeout_s
        self._lane = lane_name(device)
        self._waiting = waiting
        self.data = loop.to_device(data, recipe, device)
        self.baseline = baseline
        state = loop.start(baseline, recipe, device, seed=0)
        self._baseline_step = loop.timing_step(state, self.data, recipe, baseline.resolved().resolution)
        # What the first step allocates for good (optimiser state, work spaces) must not be charged to the first trial.
        float(self._baseline_step())

    def num_phases(self, spec: ArchSpec) -> int:
        """Return the number of training phases of a network."""
        return len(self._phases(spec))

    def run_phase(
        self, spec: ArchSpec, phase: int, state: TrainState | None, *, seed: int, protocol: Protocol | None = None
    ) -> PhaseResult:
        """Run one phase of one network.

        Args:
            phase: 0 counts and times; 1 to P train.
            state: What the phase before returned; None for phases 0 and 1.
            seed: Seed of weights, order, augmentation and dropout.
            protocol: How to time in phase 0; None is the search's.

        A full memory, a loss that is not a number, a broken limit and a passed deadline are outcomes; any other
        exception is a bug and is raised.
        """
        began = time.perf_counter()
        try:
            if phase == 0:
                return self._phase_zero(spec, began, protocol)
            deadline = None if self.timeout_s is None else time.monotonic() + self.timeout_s
            state = state or loop.start(spec, self.recipe, self.device, seed)
            with lane(self._lane, alone=False, waiting=self._waiting):
                training = loop.train_phase(state, self.data, self.recipe, self._phases(spec)[phase - 1], deadline)
            return PhaseResult(phase, "ok", time.perf_counter() - began, training=training, state=state)
        except loop.Diverged as error:
            return PhaseResult(phase, "diverged", time.perf_counter() - began, str(error))
        except loop.Timeout as error:
            return PhaseResult(phase, "timeout", time.perf_counter() - began, str(error))
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
        gc.collect()  # only here, after the traceback is gone, can the failed step's tensors be freed
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        pixels = spec.resolved().resolution if phase == 0 else self._phases(spec)[phase - 1].resolution
        reason = f"out of memory at batch {self.recipe.batch_size} and {pixels} pixels"
        return PhaseResult(phase, "out_of_memory", time.perf_counter() - began, reason)

    def _phase_zero(self, spec: ArchSpec, began: float, protocol: Protocol | None) -> PhaseResult:
        found = {name: cost.of_spec(spec) for name in COSTS if (cost := COSTS[name]).of_spec is not None}
        beyond = slacks({name: item.value for name, item in found.items()}, self.limits)
        if not _broken(beyond):
            # Rewards of about 0.8 with an error of 0.01 are typical; the true error is not known before training.
            n = len(self.data.val_labels)
            target = search_target(0.8, (0.8 * 0.2 / n) ** 0.5, self.w)
            found |= self.measure(spec, protocol or replace(SEARCH, target=target))
            beyond = slacks({name: item.value for name, item in found.items()}, self.limits)
        broken = _broken(beyond)
        return PhaseResult(
            0,
            "infeasible" if broken else "ok",
            time.perf_counter() - began,
            "; ".join(f"{name} exceeded by {beyond[name]:.1%}" for name in broken),
            found,
            beyond,
        )

    def measure(self, spec: ArchSpec, protocol: Protocol = FULL) -> dict[str, Measurement]:
        """Measure step time (the baseline's beside it) and peak memory on a network made for it, in the lane alone.

        Raises:
            torch.OutOfMemoryError: the step does not fit.
        """
        resident = torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0
        state = loop.start(spec, self.recipe, self.device, seed=0)
        step = loop.timing_step(state, self.data, self.recipe, spec.resolved().resolution)
        with lane(self._lane, alone=True, waiting=self._waiting):
            mine, reference = step_times([step, self._baseline_step], self.device, protocol)
            memory = peak_memory(step, self.device, resident)
        found = {"step_time_ms": mine, "ref_step_time_ms": reference}
        return found if memory is None else found | {"peak_memory_mib": memory}

    def ref_params(self) -> float:
        """Return the parameters of the baseline."""
        return float(count(self.baseline).params)

    def _phases(self, spec: ArchSpec) -> tuple[Any, ...]:
        return phases(self.recipe.progressive, spec.resolved().resolution, self.recipe.epochs)


def _broken(beyond: Mapping[str, float]) -> list[str]:
    return [name for name, slack in beyond.items() if slack > 0]


_MEMORY_WORDS = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _MEMORY_WORDS)


# --- devices ----------------------------------------------------------------------------------------------


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
        raise DeviceError(f"--device: found {name!r}; allowed: auto, cpu, cuda, cuda:0, cuda:1, ...") from None
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise DeviceError(f"--device: found {name!r}; step times are measured on cpu and cuda devices only.")
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = device.index or 0
    if index >= there:
        raise DeviceError(
            f"--device: {name} is not there ({there} CUDA devices found). Use --device cpu, or install a CUDA torch."
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def lane_name(device: torch.device) -> str:
    """Return the name of a device's lane: of a CUDA device its own identity, whatever number it is seen under."""
    if device.type == "cuda":
        return f"cuda-{torch.cuda.get_device_properties(device).uuid}"
    return "cpu"


def describe_device(device: torch.device) -> dict[str, Any]:
    """Return what step times depend on: device, its name, threads and precision."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return {
            "type": "cuda",
            "name": properties.name,
            "memory_mib": properties.total_memory // 2**20,
            "precision": "bfloat16 autocast",
            "layout": "channels_last",
        }
    return {
        "type": "cpu",
        "name": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "precision": "float32",
        "layout": "channels_last",
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


# --- timing one network by itself -------------------------------------------------------------------------


def time_in_two_processes(spec: ArchSpec, batch_size: int, device: str) -> list[tuple[Measurement, int]]:
    """Time the training step of one network by the full protocol, in two fresh processes, one after the other.

    Raises:
        MeasurementError: the step does not fit into memory.

    Returns:
        For each process the step time, and the resolution (pixels) it was measured at.
    """
    found = []
    for _ in range(2):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            job = pool.submit(_time_alone, spec, batch_size, device, torch.get_num_threads())
            try:
                found.append(job.result())
            except (RuntimeError, BrokenProcessPool) as error:
                if not (_out_of_memory(error) or isinstance(error, BrokenProcessPool)):
                    raise
                raise MeasurementError(
                    f"step_time_ms: out of memory at batch {batch_size} and {spec.resolved().resolution} pixels on "
                    f"{device}. Lower --batch-size or --resolution."
                ) from error
    return found


def _time_alone(spec: ArchSpec, batch_size: int, device: str, threads: int) -> tuple[Measurement, int]:
    torch.set_num_threads(threads)
    where = pick_device(device)
    resolution = spec.resolved().resolution
    recipe = replace(RECIPES["standard"], batch_size=batch_size)
    # Noise, not zeros: a device draws less power on zeros, and runs faster than it will on images.
    pixels = np.random.default_rng(0).integers(
        0, 256, (min(batch_size, 256), resolution, resolution, spec.in_channels), dtype=np.uint8
    )
    split = Split(pixels, np.arange(len(pixels)) % spec.num_classes)
    ones = (0.5,) * spec.in_channels
    names = tuple(map(str, range(spec.num_classes)))
    data = Dataset("noise", split, split, names, "", ones, ones, ())
    state = loop.start(spec, recipe, where, seed=0)
    step = loop.timing_step(state, loop.to_device(data, recipe, where), recipe, resolution)
    with lane(lane_name(where), alone=True):
        return step_times([step], where, FULL)[0], resolution
