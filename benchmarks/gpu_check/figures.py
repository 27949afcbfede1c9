"""Figures of the device: step times, memory, latency; where two sides are compared, in alternating blocks of one process."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from benchmarks.gpu_check.setting import Setting, plain, timed_step
from nas.catalog import load_arch
from nas.cost.latency import latencies
from nas.cost.memory import peak_memory
from nas.cost.step_time import FULL, SEARCH, step_times
from nas.data.noise import noise
from nas.evaluate import Evaluator
from nas.timing import time_in_two_processes
from nas.train.recipes import RECIPES
from nas.train.schedule import Progressive


def step_time(setting: Setting) -> dict[str, Any]:
    """Time reference networks by the full protocol in two processes each: how well do two processes agree?"""
    found = {}
    for name in (
        ("efficientnetv2_b0",) if setting.small else ("efficientnet_b0", "efficientnetv2_b0", "efficientnetv2_s")
    ):
        spec = load_arch(name, resolution=32 if setting.small else 128, num_classes=10)
        batch = 8 if setting.small else 128
        pair = [times[0] for times in time_in_two_processes([spec], batch, str(setting.device))]
        found[name] = {
            "batch": batch,
            "resolution": spec.resolution,
            "processes": [plain(item) for item in pair],
            "ratio_second_to_first": pair[1].value / pair[0].value,
        }
    return found


def host_bound(setting: Setting) -> dict[str, Any]:
    """Time the eager step over image sizes: where it stops falling with pixels, the host is the limit, not the device."""
    found: dict[str, Any] = {}
    for name in ("efficientnetv2_b0",) if setting.small else ("efficientnet_b0", "efficientnetv2_s"):
        for resolution in (16, 32) if setting.small else (32, 64, 128):
            step = timed_step(
                load_arch(name, resolution=resolution, num_classes=10), setting, 8 if setting.small else 128
            )
            timed = step_times([step], setting.device, replace(FULL, cap_s=6.0))[0]
            found[f"{name}@{resolution}"] = plain(timed)
    return found


def layout(setting: Setting) -> dict[str, Any]:
    """Compare the training step in channels_last with the contiguous layout."""
    spec = load_arch("efficientnetv2_b0", resolution=32 if setting.small else 128, num_classes=10)
    batch = 8 if setting.small else 128
    usual = setting.device.type == "cuda"
    last = timed_step(spec, setting, batch, autocast=usual)
    first = timed_step(spec, setting, batch, contiguous=True, autocast=usual)
    return _ratio(last, first, setting, "channels_last", "contiguous")


def precision(setting: Setting) -> dict[str, Any]:
    """Compare the training step under bfloat16 autocast with float32 (on CUDA torch's default: TF32 convolutions)."""
    spec = load_arch("efficientnetv2_b0", resolution=32 if setting.small else 128, num_classes=10)
    batch = 8 if setting.small else 128
    mixed, full = timed_step(spec, setting, batch, autocast=True), timed_step(spec, setting, batch, autocast=False)
    return _ratio(mixed, full, setting, "bfloat16", "float32")


def memory(setting: Setting) -> dict[str, Any]:
    """Measure the peak memory of a training step over batch sizes (CUDA only)."""
    if setting.device.type != "cuda":
        return {"skipped": "peak memory is measured on CUDA devices only"}
    found = {}
    spec = load_arch("efficientnetv2_s", resolution=128, num_classes=10)
    for batch in (32, 64, 128, 256):
        resident = torch.cuda.memory_allocated(setting.device)
        step = timed_step(spec, setting, batch)
        measured = peak_memory(step, setting.device, resident)
        assert measured is not None
        found[str(batch)] = measured.value
        del step
    return found


def out_of_memory(setting: Setting) -> dict[str, Any]:
    """Ask for a step that cannot fit: the outcome must be `out_of_memory`, and the next network must work (CUDA only)."""
    if setting.device.type != "cuda":
        return {"skipped": "a CPU swaps instead of refusing"}
    spec = load_arch("efficientnetv2_s", resolution=224, num_classes=10)
    small = load_arch("efficientnetv2_b0", resolution=64, num_classes=10)
    recipe = replace(RECIPES["quick"], batch_size=128, progressive=Progressive(1, (1.0, 1.0)))
    total = torch.cuda.get_device_properties(setting.device).total_memory
    torch.cuda.set_per_process_memory_fraction(4 * 2**30 / total, setting.device)  # as a device of 4 GiB would
    try:
        evaluator = Evaluator(noise(spec, 256), recipe, setting.device, baseline=small)
        first = evaluator.run_phase(spec, 0, None, seed=0)
        second = evaluator.run_phase(small, 0, None, seed=0)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, setting.device)
    passed = (first.outcome, second.outcome) == ("out_of_memory", "ok")
    return {"passed": passed, "large": first.outcome, "then_small": second.outcome, "reason": first.reason}


def field(setting: Setting) -> dict[str, Any]:
    """Time the training step of one network of each family, in turns, in two processes: which is cheap to train here?"""
    names = ["mobilenet_v3_small", "resnet18"]
    if not setting.small:
        names = ["efficientnetv2_b0", "efficientnet_b0", "mobilenet_v3_large", "mnasnet_a1", "resnet50"]
    pixels, batch = (32, 8) if setting.small else (224, 128)
    specs = [load_arch(name, resolution=pixels) for name in names]
    processes = time_in_two_processes(specs, batch, str(setting.device))
    return {
        "batch": batch,
        "resolution": pixels,
        "networks": {
            name: {
                "processes": [plain(times[index]) for times in processes],
                "ratio_to_first": [times[index].value / times[0].value for times in processes],
            }
            for index, name in enumerate(names)
        },
    }


def latency(setting: Setting) -> dict[str, Any]:
    """Measure inference, eager and compiled, networks in turns; the scores of the two must agree."""
    names = ["mobilenet_v3_small"] if setting.small else ["efficientnetv2_b0", "resnet50"]
    networks = {name: load_arch(name, resolution=32 if setting.small else 224) for name in names}
    backends, batches = (["eager"], [1]) if setting.small else (["eager", "compile"], [1, 32])
    rows = latencies(networks, setting.device, backends=backends, batch_sizes=batches)
    return {"passed": not any(row.problem for row in rows), "rows": [row.document() for row in rows]}


def _ratio(
    ours: Callable[[], Any], other: Callable[[], Any], setting: Setting, mine: str, theirs: str
) -> dict[str, Any]:
    """Time two sides in alternating rounds and return the ratio with its spread over the rounds."""
    ratios, times = [], []
    for _ in range(5 if setting.small else 9):
        pair = step_times([ours, other], setting.device, replace(SEARCH, cap_s=2.0, target=0.01))
        times.append(pair)
        ratios.append(pair[1].value / pair[0].value)
    return {
        f"{theirs}_over_{mine}": statistics.median(ratios),
        "rounds": ratios,
        mine: plain(times[-1][0]),
        theirs: plain(times[-1][1]),
    }
