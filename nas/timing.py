"""Step times of given networks by the full protocol, in two processes one after the other: for `nas show` and figures."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import torch

from nas.cost import Measurement
from nas.cost.step_time import FULL, step_times
from nas.data.noise import noise
from nas.devices import lane_name, out_of_memory, pick_device
from nas.errors import MeasurementError
from nas.host import keep_freed_memory
from nas.lane import lane
from nas.spec import ArchSpec
from nas.train import loop
from nas.train.recipes import RECIPES


def time_in_two_processes(specs: Sequence[ArchSpec], batch_size: int, device: str) -> list[tuple[Measurement, ...]]:
    """Time the training step of some networks by the full protocol, in two fresh processes, one after the other.

    In each process the networks take turns, so that their ratios hold where the machine's speed drifts.

    Raises:
        MeasurementError: the steps do not fit into memory together.

    Returns:
        For each process the step time of each network, at its own resolution.
    """
    found = []
    for _ in range(2):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            job = pool.submit(_time_alone, tuple(specs), batch_size, device, torch.get_num_threads())
            try:
                found.append(job.result())
            except (RuntimeError, BrokenProcessPool) as error:
                if not (out_of_memory(error) or isinstance(error, BrokenProcessPool)):
                    raise
                largest = max(spec.resolved().resolution for spec in specs)
                raise MeasurementError(
                    f"step_time_ms: out of memory at batch {batch_size} and {largest} pixels on {device}. Lower --batch-size "
                    "or --resolution, or time fewer networks at once."
                ) from error
    return found


def _time_alone(specs: tuple[ArchSpec, ...], batch_size: int, device: str, threads: int) -> tuple[Measurement, ...]:
    torch.set_num_threads(threads)
    where = pick_device(device)
    if where.type == "cpu":
        keep_freed_memory()  # as in a search, so that the times are those of a search
    recipe = replace(RECIPES["standard"], batch_size=batch_size)
    steps = []
    for spec in specs:
        resolution = spec.resolved().resolution
        data = noise(spec, min(batch_size, 256))
        state = loop.start(spec, recipe, where, seed=0)
        steps.append(loop.timing_step(state, loop.to_device(data, recipe, where), recipe, resolution))
    with lane(lane_name(where), alone=True):
        return step_times(steps, where, FULL)
