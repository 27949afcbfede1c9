"""Sections on CUDA graphs of the training step: do they train alike, how much faster, what do they cost, how many at once?"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks._common import stored
from benchmarks._stats import shuffled
from benchmarks.gpu_check import rounds
from benchmarks.gpu_check.rounds import (
    SMALL,
    Step,
    bandwidth,
    cells,
    compared,
    graphs_of,
    in_turns,
    network,
    recipe_of,
    work_of,
)
from benchmarks.gpu_check.setting import Setting
from nas.cost.step_time import SEARCH, step_times
from nas.train import loop
from nas.train.graphs import WARMUP, Graphs
from nas.train.preflight import difference, trace

NETWORKS = ("efficientnet_b0", "efficientnetv2_s")
RESOLUTIONS = (32, 64, 128)
BATCHES = (128, 256, 512)

REFERENCE = "efficientnetv2_b0"
"""What the networks are timed beside where their times are compared with another's."""

BLOCK_S = 0.02
"""Seconds of a long block."""

PASSES = 14
"""Times that the outputs of all convolutions go through memory in a step whose norms and activations are fused."""


def sizes(setting: Setting) -> list[tuple[str, int, int]]:
    """Return the networks, pixels and batches of a section, the smallest images first."""
    if setting.small:
        return [(SMALL, 16, 8)]
    return [(name, pixels, batch) for pixels in RESOLUTIONS for batch in BATCHES for name in NETWORKS]


def graphs(setting: Setting) -> dict[str, Any]:
    """Compare graphed steps with eager ones: the first 20 losses, the time of a step, kernels and gaps, the byte roofline.

    Besides, at the smallest size, what the search's protocol of timing makes of graphs.
    """
    moved = bandwidth(setting)
    wanted: dict[str, Callable[[], dict[str, Any]]] = {}
    for name, pixels, batch in sizes(setting):
        if batch in (BATCHES[0], 8):
            wanted[f"losses {name} {pixels} px"] = partial(_losses, name, pixels, batch, setting)
            if pixels in (RESOLUTIONS[0], 16):
                wanted[f"protocols {name} {pixels} px"] = partial(_protocols, name, pixels, batch, setting)
        wanted[f"{name} {pixels} px batch {batch}"] = partial(_step, name, pixels, batch, setting, moved)
    return cells("graphs", setting, wanted, {"copy_gb_per_s": moved / 1e9, "passes": PASSES})


def _losses(name: str, pixels: int, batch: int, setting: Setting) -> dict[str, Any]:
    """Return the first losses of eager steps, twice, and of graphed ones, and where they differ by more than rounding."""
    spec, recipe, count = network(name, pixels, setting), recipe_of(batch), 8 if setting.small else 20
    ways = {"eager": None, "eager_again": None, "graph": graphs_of(setting)}
    found = {way: trace(setting.device, spec, recipe, how, count) for way, how in ways.items()}
    said = difference(*found.values())
    seen = {way: item.losses for way, item in found.items()} | {
        f"{way}_moved": item.moved for way, item in found.items()
    }
    return {"passed": not said, "said": said, **seen}


def _protocols(name: str, pixels: int, batch: int, setting: Setting) -> dict[str, Any]:
    """Return a graph's step time over the reference's by the search's protocol, whose blocks are one replay, and by long blocks.

    Rounds alternate, and each has both; `search_over_long` is off 1 by what a replay that finds the device idle costs.
    """
    usual = replace(SEARCH, cap_s=0.1) if setting.small else SEARCH
    blocks = {"search": usual, "long": replace(usual, block_s=BLOCK_S)}
    reference = name if setting.small else REFERENCE
    works = [work_of(network(item, pixels, setting), setting, batch)[1] for item in (name, reference)]
    found: dict[str, list[dict[str, float]]] = {key: [] for key in blocks}
    with graphs_of(setting).replayed(works) as steps:
        for order in shuffled(list(blocks), 2 if setting.small else 10):
            for key in order:
                mine, other = step_times(steps, setting.device, blocks[key])
                found[key].append({"ms": mine.value, "reference_ms": other.value, "n": mine.n})
    ratios = {key: [item["ms"] / item["reference_ms"] for item in rows] for key, rows in found.items()}
    over = [one / other for one, other in zip(ratios["search"], ratios["long"], strict=True)]
    return {
        "reference": reference,
        "ratio": {key: rounds.median_interval(values) for key, values in ratios.items()},
        "search_over_long": rounds.median_interval(over),
        "rounds": found,
    }


def _step(name: str, pixels: int, batch: int, setting: Setting, moved: float) -> dict[str, Any]:
    _, work = work_of(network(name, pixels, setting), setting, batch)
    how, outputs = graphs_of(setting), conv_bytes(name, pixels, batch, setting)
    with how.here():
        for _ in range(WARMUP):
            work()
        host = host_milliseconds(work, setting)
    with how.replayed([work]) as (replay,):
        times = in_turns({"eager": work, "graph": replay}, setting)
        profile = profiled(replay, setting)
    step_s = statistics.median(times["graph"]) / 1e3
    return {
        **compared(times, "eager"),
        "eager_host_ms": host,
        "graph_profile": profile,
        "conv_output_mb": outputs / 1e6,
        "roofline_fraction": PASSES * outputs / moved / step_s,
        "images_per_s": batch / step_s,
    }


def host_milliseconds(step: Step, setting: Setting, count: int = 10) -> dict[str, Any]:
    """Return how long the host is busy with one step that finds the device idle, without waiting for the device."""
    found = []
    for _ in range(2 if setting.small else count):
        rounds.wait(setting.device)
        began = time.perf_counter()
        step()
        found.append((time.perf_counter() - began) * 1e3)
    rounds.wait(setting.device)
    return {"median": statistics.median(found), "rounds_ms": found}


def conv_bytes(name: str, pixels: int, batch: int, setting: Setting) -> int:
    """Return the bytes of all convolutions' outputs in bfloat16, of a batch."""
    spec = network(name, pixels, setting)
    state = loop.start(spec, recipe_of(batch), setting.device, seed=0)
    seen: list[int] = []
    for module in state.network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, __, output: seen.append(output[0].numel()))
    with torch.no_grad():
        state.network.eval()(torch.zeros(1, spec.in_channels, pixels, pixels, device=setting.device))
    return 2 * batch * sum(seen)


def profiled(replay: Step, setting: Setting, count: int = 3) -> dict[str, Any]:
    """Return the kernels of a replay, the time that they take, and the gaps between them, by torch's profiler."""
    if setting.device.type != "cuda":
        return {"skipped": "a CPU has no kernels"}
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    replay()
    rounds.wait(setting.device)
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        for _ in range(count):
            replay()
            rounds.wait(setting.device)
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in seen.events()
        if event.device_type == DeviceType.CUDA and event.time_range.end > event.time_range.start
    )
    return gaps(spans, count)


def gaps(spans: Sequence[tuple[float, float]], replays: int) -> dict[str, Any]:
    """Return what spans of kernels (microseconds, sorted) say of one replay; waits between two replays are left out."""
    if not spans:
        return {"kernels": 0, "said": "the profiler saw no kernels"}
    between, end = [], spans[0][1]
    for start, stop in spans[1:]:
        between.append(max(0.0, start - end))
        end = max(end, stop)
    within = sorted(between)[: len(between) - (replays - 1)]  # the longest are those in which the host waited
    busy = sum(stop - start for start, stop in spans)
    return {
        "kernels": len(spans) / replays,
        "kernel_us": busy / len(spans),
        "busy_ms": busy / replays / 1e3,
        "gap_us": statistics.fmean(within) if within else 0.0,
        "gaps_ms": sum(within) / replays / 1e3,
    }


def capture_cost(setting: Setting) -> dict[str, Any]:
    """Measure what a phase with a graph costs before it is fast: building, the first steps, the capture, freeing it."""
    wanted = {}
    for name, pixels, batch in sizes(setting):
        if batch in (256, 8):
            wanted[f"{name} {pixels} px batch {batch}"] = partial(_capture, name, pixels, batch, setting)
    return cells("capture_cost", setting, wanted)


def _capture(name: str, pixels: int, batch: int, setting: Setting) -> dict[str, Any]:
    """The first of several turns is the cold one: the libraries choose their kernels in it."""
    turns = []
    how = graphs_of(setting)
    for _ in range(2 if setting.small else 4):
        marks = [time.perf_counter()]

        def mark(marks: list[float] = marks) -> None:
            rounds.wait(setting.device)
            marks.append(time.perf_counter())

        _, work = work_of(network(name, pixels, setting), setting, batch)
        mark()
        with ExitStack() as stack:
            with how.here():
                for _ in range(WARMUP):
                    work()
            mark()
            (replay,) = stack.enter_context(how.replayed([work]))
            mark()
            replay()
            mark()
        mark()
        names = ("build_s", "warmup_s", "capture_s", "first_replay_s", "free_s")
        turns.append({key: last - first for key, first, last in zip(names, marks, marks[1:], strict=False)})
        del work, replay
        rounds.free(setting.device)
    later = turns[1:]
    return {
        "cold": turns[0],
        "warm": {key: statistics.median(turn[key] for turn in later) for key in later[0]},
        "turns": turns,
    }


def streams(setting: Setting) -> dict[str, Any]:
    """Run K graphs on K streams of one process, and two processes on one device: how many more images a second?

    Every graph has a memory pool of its own. Their random numbers come from one generator, whose state is not theirs alone,
    which changes no time.
    """
    wanted: dict[str, Callable[[], dict[str, Any]]] = {}
    for name, pixels, batch in sizes(setting):
        if batch in (128, 8):
            wanted[f"{name} {pixels} px batch {batch}"] = partial(_streams, name, pixels, batch, setting)
    wanted["two processes"] = partial(_processes, setting)
    return cells("streams", setting, wanted)


def _streams(name: str, pixels: int, batch: int, setting: Setting) -> dict[str, Any]:
    most = 2 if setting.small else 8
    with ExitStack() as stack:
        held: list[tuple[Graphs | rounds.OnCpu, Step]] = []
        for _ in range(most):
            _, work = work_of(network(name, pixels, setting), setting, batch)
            how = graphs_of(setting)
            (replay,) = stack.enter_context(how.replayed([work]))
            held.append((how, replay))
        arms = {str(k): _together(held[:k]) for k in (1, 2, 4, 8) if k <= most}
        times = in_turns(arms, setting)
    one = times["1"]
    return {
        k: {
            "images_per_s": int(k) * batch / statistics.median(values) * 1e3,
            "over_one": rounds.median_interval([int(k) * a / b for a, b in zip(one, values, strict=True)]),
            "rounds_ms": values,
        }
        for k, values in times.items()
    }


def _together(held: Sequence[tuple[Graphs | rounds.OnCpu, Step]]) -> Step:
    """Return a step of all graphs, each on its stream; they meet at its end."""

    def step() -> None:
        if not isinstance(held[0][0], Graphs):
            for _, replay in held:
                replay()
            return
        here = torch.cuda.current_stream()
        for how, replay in held:
            assert isinstance(how, Graphs)
            how.stream.wait_stream(here)
            with torch.cuda.stream(how.stream):
                replay()
        for how, _ in held:
            assert isinstance(how, Graphs)
            here.wait_stream(how.stream)

    return step


def _processes(setting: Setting) -> dict[str, Any]:
    """Run `benchmarks.engines` with graphs: the same networks in one process and in two workers on the device."""
    name = str(setting.device)
    devices = "cpu:2" if setting.small else f"{name},{name}"
    with tempfile.TemporaryDirectory() as temp:
        command = [sys.executable, "-m", "benchmarks.engines", "--devices", devices, "--out", temp, "--rounds", "2"]
        command += ["--networks", "2" if setting.small else "6", "--max-params", "100e3"]
        command += ["--steps", "eager" if setting.small else "graph"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode:
            return {"passed": False, "tail": (done.stdout + done.stderr).splitlines()[-6:]}
        found = stored(next(Path(temp).glob("*/engines.json")))
    return {"local_over_inline": found["ratio"], "rounds": found["rounds"]}
