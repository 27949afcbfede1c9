"""What the sections on graphs share: arms timed in turns, cells that are stored, and what stands for graphs on a CPU."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from benchmarks._common import conditions, store, stored
from benchmarks._stats import median_interval, shuffled
from benchmarks.gpu_check.setting import Setting
from nas.catalog import load_arch
from nas.data.noise import noise
from nas.spec import ArchSpec
from nas.train import loop
from nas.train.graphs import WARMUP, Graphs, Work
from nas.train.recipes import RECIPES, Recipe

Step = Callable[[], object]


class OnCpu:
    """Stands where `Graphs` does in the small version, and does the work itself."""

    @contextmanager
    def here(self) -> Iterator[None]:
        """As of `Graphs`, and so below."""
        yield

    @contextmanager
    def stepping(self, work: Work) -> Iterator[Step]:
        """Yield the work."""
        yield work

    @contextmanager
    def replayed(self, works: Sequence[Work]) -> Iterator[Sequence[Step]]:
        """Yield the works."""
        for work in works:
            while work.warm < WARMUP:
                work()
        yield works


def graphs_of(setting: Setting) -> Graphs | OnCpu:
    """Return what captures steps."""
    return OnCpu() if setting.device.type == "cpu" else Graphs.on(setting.device)


SMALL = "small"
"""Name of the network of the small version, which is the section's own, on a few pixels."""


def network(name: str, resolution: int, setting: Setting) -> ArchSpec:
    """Return a reference network for ten classes, with its own stem stride of 2."""
    if name == SMALL:
        return replace(setting.network, resolution=resolution, resolution_mult=1.0)
    return load_arch(name, resolution=resolution, num_classes=10)


def recipe_of(batch: int) -> Recipe:
    """Return the recipe that steps are timed with."""
    return replace(RECIPES["standard"], batch_size=batch)


def work_of(spec: ArchSpec, setting: Setting, batch: int) -> tuple[loop.TrainState, Work]:
    """Return a network in training and the step that is timed, on random images."""
    recipe = recipe_of(batch)
    state = loop.start(spec, recipe, setting.device, seed=0)
    data = loop.to_device(noise(spec, min(batch, 256)), recipe, setting.device)
    return state, loop.timing_step(state, data, recipe, spec.resolution)


def wait(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(step: Step, count: int, device: torch.device) -> float:
    """Return the time of a step, of so many in a row, by the device's own clock where it has one."""
    if device.type != "cuda":
        began = time.perf_counter()
        for _ in range(count):
            step()
        return (time.perf_counter() - began) * 1e3 / count
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    wait(device)
    first.record()
    for _ in range(count):
        step()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / count


def in_turns(
    arms: Mapping[str, Step], setting: Setting, rounds: int = 9, block_s: float = 0.1
) -> dict[str, list[float]]:
    """Time arms in turns, in random order, and return milliseconds per step for each round."""
    rounds = 3 if setting.small else rounds
    counts = {}
    for name, step in arms.items():
        milliseconds(step, 1, setting.device)
        once = milliseconds(step, 1, setting.device)
        counts[name] = 1 if setting.small else max(2, math.ceil(block_s * 1e3 / max(once, 1e-3)))
    found: dict[str, list[float]] = {name: [] for name in arms}
    for order in shuffled(list(arms), rounds):
        for name in order:
            found[name].append(milliseconds(arms[name], counts[name], setting.device))
    return found


def compared(times: Mapping[str, Sequence[float]], reference: str) -> dict[str, Any]:
    """Return each arm's median time, and the reference's time by it, round by round, with its interval."""
    return {
        name: {
            "ms": statistics.median(values),
            f"{reference}_over_it": median_interval(
                [one / other for one, other in zip(times[reference], values, strict=True)]
            ),
            "rounds_ms": list(values),
        }
        for name, values in times.items()
    }


def bandwidth(setting: Setting) -> float:
    """Return what the device's memory moves, in bytes per second, by a copy that no cache holds: read and written."""
    size = 2**20 if setting.small else 2**30
    source = torch.empty(size, dtype=torch.uint8, device=setting.device).random_()
    target = torch.empty_like(source)

    def step() -> None:
        target.copy_(source)

    milliseconds(step, 3, setting.device)
    times = [milliseconds(step, 10, setting.device) for _ in range(5)]
    return 2 * size / statistics.median(times) * 1e3


def free(device: torch.device) -> None:
    """Give back what the last cell held."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def sound(cell: Mapping[str, Any]) -> bool:
    """Return whether a cell was measured, and passed its check where it has one."""
    return "error" not in cell and cell.get("passed", True)


def cells(
    name: str,
    setting: Setting,
    wanted: Mapping[str, Callable[[], dict[str, Any]]],
    plan: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure cells until the time is up, each stored in `<name>.json` as it ends; the next call goes on with the others.

    A cell that fails (a full memory, most likely) is stored with its error, keeps the section from passing, and is measured
    again by the next call. To have all of them anew, delete the file.
    """
    began, longest = time.perf_counter(), 0.0
    path = setting.folder / f"{name}.json"
    content = stored(path)
    if not content or content.get("small") != setting.small:
        content = {"conditions": conditions(setting.device), "small": setting.small, "cells": {}}
    for key, measure in wanted.items():
        if key in content["cells"] and sound(content["cells"][key]):
            continue
        since = time.perf_counter()
        if longest and since - began + 1.5 * longest > setting.limit_s:
            break
        try:
            content["cells"][key] = measure()
        except RuntimeError as error:
            content["cells"][key] = {"error": str(error).splitlines()[0] if str(error) else repr(error)}
        free(setting.device)
        longest = max(longest, time.perf_counter() - since)
        content["cells"][key]["seconds"] = round(time.perf_counter() - since, 2)
        store(path, content)
        print(f"  {key}: {str(content['cells'][key])[:200]}", flush=True)
    found = {key: content["cells"][key] for key in wanted if key in content["cells"]}
    left = [key for key in wanted if key not in found]
    return {
        "passed": all(map(sound, found.values())),
        "unfinished": bool(left),
        "left": left,
        "file": path.name,
        "cells": found,
        **(plan or {}),
    }
