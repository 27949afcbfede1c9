"""The waist: `Evaluator.run_phase` counts, times and trains one network, phase by phase. Nobody else trains proxies.

Phase 0 counts, checks limits and measures the step time, and the latency where a limit asks for it; phases 1 to P train,
each at its own resolution.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch

from nas.cost import COSTS, Measurement
from nas.cost import from_document as measurement_of
from nas.cost.latency import LIMIT, inference, latency_ms
from nas.cost.memory import peak_memory
from nas.cost.step_time import SEARCH, Protocol, search_target, step_times
from nas.data import Dataset
from nas.data import load as load_data
from nas.devices import lane_name, out_of_memory
from nas.errors import DataError, DeviceError, UsageError
from nas.host import keep_freed_memory
from nas.lane import Lane, lane
from nas.objective import slacks
from nas.space import Limit, format_count
from nas.spec import ArchSpec
from nas.train import loop
from nas.train.graphs import Graphs, Mode, Work
from nas.train.loop import PhaseTraining, TrainState
from nas.train.recipes import Recipe
from nas.train.schedule import Phase, phases
from nas.train.stuck import watched

Outcome = Literal["ok", "infeasible", "out_of_memory", "diverged", "timeout", "worker_died"]

Span = tuple[float, float]


@dataclass(frozen=True)
class PhaseResult:
    """What one phase of one network showed.

    Args:
        outcome: `ok`, or why the trial ends here. reason: That in words.
        measurements: Costs by name; from phase 0, with `ref_step_time_ms` of the baseline beside `step_time_ms`.
        slacks: How far each limited cost is beyond its limit, as a share of it.
        training: What training showed; None in phase 0.
        seconds: Wall time of the phase.
        lane: When the device's lane was taken and let go, in several parts where the phase stepped aside for a timing; seconds of
            `time.monotonic()`, a clock that all processes of a machine share.
        state: The network in training, for the next phase; it never leaves its process.
    """

    phase: int
    outcome: Outcome
    seconds: float
    reason: str = ""
    measurements: Mapping[str, Measurement] = field(default_factory=dict)
    slacks: Mapping[str, float] = field(default_factory=dict)
    training: PhaseTraining | None = None
    lane: tuple[Span, ...] = ()
    state: TrainState | None = field(default=None, repr=False, compare=False)

    def document(self) -> dict[str, Any]:
        """Return the result without the state as plain data."""
        return asdict(replace(self, state=None))


def from_document(data: Mapping[str, Any]) -> PhaseResult:
    """Return the result that `PhaseResult.document` wrote down."""
    return PhaseResult(
        **{
            **data,
            "measurements": {name: measurement_of(item) for name, item in data["measurements"].items()},
            "training": None if data["training"] is None else PhaseTraining(**data["training"]),
            "lane": tuple((first, last) for first, last in data["lane"]),
        }
    )


class Evaluator:
    """Evaluates networks on one device; holds what they share: the data there, and the baseline ready to be timed.

    Args:
        data: Images. recipe: How to train. device: Where.
        limits: Limits on costs. baseline: The network that step times are compared with.
        w: Exponent of the step time in the score; decides how exactly the time must be known.
        timeout_s: Seconds that a phase may take; checked after each step. A step that hangs ends the process (`train.stuck`).
        latency_batch_size: Images of the inference that a limit on `latency_ms` bounds.
        steps: How training steps are done, in training and in timing: `graph` on CUDA devices only.
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
        latency_batch_size: int = 1,
        steps: Mode = "eager",
        waiting: Callable[[], None] | None = None,
    ) -> None:
        check_limits(limits, device)
        if device.type == "cpu":
            keep_freed_memory()
        self.recipe = recipe
        self.device = device
        self.limits = limits
        self.w = w
        self.timeout_s = timeout_s
        self.latency_batch_size = latency_batch_size
        self._lane = lane_name(device)
        self._waiting = waiting
        self._graphs = Graphs.on(device) if steps == "graph" else None
        self.baseline = baseline
        pixels = baseline.resolved().resolution
        try:
            with self.at_work():
                self.data = loop.to_device(data, recipe, device)
                state = loop.start(baseline, recipe, device, seed=0)
                self._baseline_step = loop.timing_step(state, self.data, recipe, pixels)
                # What the first step allocates for good (optimiser state, work spaces) is not charged to the first trial.
                with self._timed([self._baseline_step]) as (step,):
                    step()
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise DeviceError(
                f"{device}: out of memory with the baseline {baseline.name} at batch {recipe.batch_size} and {pixels} pixels. "
                "Lower the recipe's batch_size, or give the space a smaller baseline."
            ) from error

    def run_phase(
        self,
        spec: ArchSpec,
        phase: int,
        state: TrainState | dict[str, Any] | None,
        *,
        seed: int,
        protocol: Protocol | None = None,
    ) -> PhaseResult:
        """Run one phase of one network.

        Args:
            phase: 0 counts and times; 1 to P train.
            state: What the phase before returned, or a snapshot of it; None for phases 0 and 1.
            seed: Seed of weights, order, augmentation and dropout.
            protocol: How to time in phase 0; None is the search's.

        A full memory, a loss that is not a number, a broken limit and a passed deadline are outcomes; any other
        exception is a bug and is raised.
        """
        began = time.perf_counter()
        try:
            if phase == 0:
                return self._phase_zero(spec, began, protocol)
            training, state, spans = self._train(spec, self._phases(spec)[phase - 1], state, seed)
            return PhaseResult(phase, "ok", time.perf_counter() - began, training=training, lane=spans, state=state)
        except loop.Diverged as error:
            return PhaseResult(phase, "diverged", time.perf_counter() - began, str(error))
        except loop.Timeout as error:
            return PhaseResult(phase, "timeout", time.perf_counter() - began, str(error))
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        with self.at_work():
            gc.collect()  # only here, after the traceback is gone, can the failed step's tensors be freed
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        pixels = spec.resolved().resolution if phase == 0 else self._phases(spec)[phase - 1].resolution
        reason = f"out of memory at batch {self.recipe.batch_size} and {pixels} pixels"
        return PhaseResult(phase, "out_of_memory", time.perf_counter() - began, reason)

    def snapshot(self, state: TrainState) -> dict[str, Any]:
        """Return what a checkpoint holds of a network between two phases."""
        return loop.snapshot(state, last=state.phases_done == self.recipe.progressive.phases)

    @contextmanager
    def at_work(self) -> Iterator[Lane]:
        """Share the device's lane while the body runs; nothing is left running on the device afterwards."""
        with lane(self._lane, alone=False, waiting=self._waiting) as held:
            try:
                yield held
            finally:
                self._synchronize()

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _train(
        self, spec: ArchSpec, phase: Phase, state: TrainState | dict[str, Any] | None, seed: int
    ) -> tuple[PhaseTraining, TrainState, tuple[Span, ...]]:
        """Train in the shared lane, stepping aside for timings that wait: they are short, a phase may not be."""
        what = f"{spec.arch_hash}, training at {phase.resolution} pixels"
        with self.at_work() as held, watched(self.timeout_s, what) as pulse:
            spans: list[Span] = []
            taken = time.monotonic()

            def between() -> None:
                nonlocal taken
                pulse.beat(resting=True)
                if held.wanted():
                    self._synchronize()  # what is queued would run into the timing
                    spans.append((taken, time.monotonic()))
                    held.give_way()
                    taken = time.monotonic()
                worked = time.monotonic() - taken + sum(last - first for first, last in spans)
                if self.timeout_s is not None and worked > self.timeout_s:
                    raise loop.Timeout(f"the phase ran past its limit of {self.timeout_s:g} s")
                pulse.beat()

            if isinstance(state, dict):
                state = loop.restore(spec, self.recipe, self.device, seed, state)
            state = state or loop.start(spec, self.recipe, self.device, seed)
            training = loop.train_phase(state, self.data, self.recipe, phase, between, self._graphs)
            return training, state, (*spans, (taken, time.monotonic()))

    def _phase_zero(self, spec: ArchSpec, began: float, protocol: Protocol | None) -> PhaseResult:
        found = {name: cost.of_spec(spec) for name in COSTS if (cost := COSTS[name]).of_spec is not None}
        beyond = slacks({name: item.value for name, item in found.items()}, self.limits)
        spans: tuple[Span, ...] = ()
        if not _broken(beyond):
            # Rewards of about 0.8 with an error of 0.01 are typical; the true error is not known before training.
            n = len(self.data.val_labels)
            target = search_target(0.8, (0.8 * 0.2 / n) ** 0.5, self.w)
            measured, span = self._measure(spec, protocol or replace(SEARCH, target=target), protocol or LIMIT)
            found |= measured
            spans = (span,)
            beyond = slacks({name: item.value for name, item in found.items()}, self.limits)
        broken = _broken(beyond)
        return PhaseResult(
            0,
            "infeasible" if broken else "ok",
            time.perf_counter() - began,
            "; ".join(self._why(name, beyond[name], found) for name in broken),
            found,
            beyond,
            lane=spans,
        )

    def _why(self, name: str, slack: float, found: Mapping[str, Measurement]) -> str:
        """Say by how much a limit is broken, such as `num_params.max`."""
        cost, _, bound = name.partition(".")
        limit = next(getattr(item, bound) for item in self.limits if item.cost == cost)
        value, allowed = (
            f"{number:.4g} {found[cost].unit}" if found[cost].unit in ("ms", "MiB") else format_count(number)
            for number in (found[cost].value, limit)
        )
        return f"{cost} {value}, the limit of {allowed} {'exceeded' if bound == 'max' else 'missed'} by {slack:.1%}"

    def _measure(
        self, spec: ArchSpec, protocol: Protocol, latency_protocol: Protocol
    ) -> tuple[dict[str, Measurement], Span]:
        """Measure step time (the baseline's beside it) and peak memory on a network made for it, in the lane alone.

        Latency too, on a network of its own, where a limit asks for it.
        """
        with lane(self._lane, alone=True, waiting=self._waiting), watched(self.timeout_s, f"{spec.arch_hash}, timing"):
            taken = time.monotonic()
            resident = torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0
            state = loop.start(spec, self.recipe, self.device, seed=0)
            step = loop.timing_step(state, self.data, self.recipe, spec.resolved().resolution)
            with self._graphs.here() if self._graphs else nullcontext():  # a graph allocates nothing when it runs
                memory = peak_memory(step, self.device, resident)
            with self._timed([step, self._baseline_step]) as steps:
                mine, reference = step_times(steps, self.device, protocol)
            found = {"step_time_ms": mine, "ref_step_time_ms": reference}
            if memory is not None:
                found["peak_memory_mib"] = memory
            if any(limit.cost == "latency_ms" for limit in self.limits):
                answer = inference(spec, self.device, self.latency_batch_size)
                found["latency_ms"] = latency_ms(answer, self.device, latency_protocol)
            return found, (taken, time.monotonic())

    def _timed(self, steps: Sequence[Work]) -> AbstractContextManager[Sequence[Callable[[], object]]]:
        """Yield what is timed in place of some steps: their graphs, where training has graphs too."""
        return self._graphs.replayed(steps) if self._graphs else nullcontext(steps)

    def _phases(self, spec: ArchSpec) -> tuple[Phase, ...]:
        return phases(self.recipe.progressive, spec.resolved().resolution, self.recipe.epochs)


def check_limits(limits: Sequence[Limit], device: torch.device) -> None:
    """Refuse limits on what cannot be measured on a device. A limit without a bound asks for the cost to be measured.

    Raises:
        UsageError: such a limit.
    """
    for limit in limits:
        if limit.cost == "peak_memory_mib" and device.type != "cuda":
            what = "objective" if limit.max is None and limit.min is None else "limit"
            raise UsageError(
                f"{what} on {limit.cost}: {COSTS[limit.cost].absent}; this is {device}. Leave the {what} out."
            )


@dataclass(frozen=True)
class Setup:
    """What an evaluator is made from, in this process or in another one.

    Args:
        source, data_resolution, skip_broken: What `nas.data.load` is given. fingerprint: What it then must return.
        recipe, baseline, limits, w, timeout_s, latency_batch_size, steps: As of `Evaluator`.
    """

    source: str
    data_resolution: int
    skip_broken: bool
    fingerprint: str
    recipe: Recipe
    baseline: ArchSpec
    limits: tuple[Limit, ...]
    w: float
    timeout_s: float | None
    latency_batch_size: int = 1
    steps: Mode = "eager"

    def start(self, device: torch.device, waiting: Callable[[], None]) -> Evaluator:
        """Make the evaluator of a device in a worker's process."""
        return self.evaluator(device, waiting=waiting)

    def evaluator(
        self, device: torch.device, data: Dataset | None = None, waiting: Callable[[], None] | None = None
    ) -> Evaluator:
        """Make the evaluator of a device.

        Args:
            data: The images, where this process has them already.

        Raises:
            DataError: the images are not those that the search began with.
        """
        if device.type == "cuda":
            torch.cuda.set_device(device)
        data = data or load_data(self.source, resolution=self.data_resolution, skip_broken=self.skip_broken)
        if data.fingerprint != self.fingerprint:
            raise DataError(
                f"{self.source}: found images of fingerprint {data.fingerprint}; the search began with {self.fingerprint}. "
                "Leave the images as they are while a search runs."
            )
        return Evaluator(
            data,
            self.recipe,
            device,
            baseline=self.baseline,
            limits=self.limits,
            w=self.w,
            timeout_s=self.timeout_s,
            latency_batch_size=self.latency_batch_size,
            steps=self.steps,
            waiting=waiting,
        )


def _broken(beyond: Mapping[str, float]) -> list[str]:
    return [name for name, slack in beyond.items() if slack > 0]


# --- timing one network by itself -------------------------------------------------------------------------
