"""Sections on single operations of the device: norm with activation, depthwise convolution, cuDNN's search, and MPS."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.gpu_check import rounds
from benchmarks.gpu_check.rounds import SMALL, bandwidth, cells, compared, graphs_of, in_turns, network, work_of
from benchmarks.gpu_check.setting import Setting
from nas.devices import pick_device
from nas.train.graphs import WARMUP

SHAPES = ((256, 96, 32, 32), (256, 144, 16, 16), (256, 480, 8, 8), (256, 1152, 4, 4))
"""(N, C, H, W) of expanded maps of EfficientNet-B0 on 64 pixels."""


def shapes(setting: Setting) -> tuple[tuple[int, int, int, int], ...]:
    return ((4, 16, 8, 8),) if setting.small else SHAPES


def norm(setting: Setting) -> dict[str, Any]:
    """Compare batch norm and SiLU as they are (channels_last, bfloat16) with the compiled pair, forwards and backwards."""
    moved = bandwidth(setting)
    wanted = {str(shape): partial(_norm, shape, setting, moved) for shape in shapes(setting)}
    return cells("norm", setting, wanted, {"copy_gb_per_s": moved / 1e9})


def _norm(shape: tuple[int, int, int, int], setting: Setting, moved: float) -> dict[str, Any]:
    x, gradient = maps(shape, setting), maps(shape, setting)
    x.requires_grad_()

    def pair() -> nn.Sequential:
        return nn.Sequential(nn.BatchNorm2d(shape[1]), nn.SiLU(inplace=True)).to(setting.device).train()

    def both(module: Callable[[torch.Tensor], torch.Tensor]) -> None:
        x.grad = None
        module(x).backward(gradient)

    plain, fused = pair(), pair()
    compiled = torch.compile(fused, dynamic=False, backend="eager" if setting.small else "inductor")
    began = time.perf_counter()
    both(compiled)
    rounds.wait(setting.device)
    seconds = time.perf_counter() - began
    times = in_turns({"plain": partial(both, plain), "compiled": partial(both, compiled)}, setting)
    # At best: forwards the map is read twice (statistics, result) and written once; backwards map and gradient are read twice
    # and one is written.
    least = 8 * x.numel() * x.element_size()
    return {
        **compared(times, "plain"),
        "compile_s": seconds,
        "bandwidth_share": {name: least / (statistics.median(values) / 1e3) / moved for name, values in times.items()},
    }


def depthwise(setting: Setting) -> dict[str, Any]:
    """Measure depthwise convolutions (bfloat16, channels_last): bytes a second forwards and backwards, against a copy."""
    moved = bandwidth(setting)
    wanted = {
        f"{shape} k{kernel} s{stride}": partial(_depthwise, shape, kernel, stride, setting, moved)
        for shape in shapes(setting)
        for kernel in (3, 5)
        for stride in (1, 2)
    }
    return cells("depthwise", setting, wanted, {"copy_gb_per_s": moved / 1e9})


def _depthwise(
    shape: tuple[int, int, int, int], kernel: int, stride: int, setting: Setting, moved: float
) -> dict[str, Any]:
    channels = shape[1]
    layer = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)
    layer = layer.to(setting.device, torch.bfloat16).to(memory_format=torch.channels_last)
    x = maps(shape, setting).requires_grad_()
    y = layer(x)
    gradient = torch.randn_like(y)

    def forwards() -> None:
        with torch.no_grad():
            layer(x)

    def backwards() -> None:
        torch.autograd.grad(y, (x, layer.weight), gradient, retain_graph=True)

    times = in_turns({"forward": forwards, "backward": backwards}, setting)
    inside, outside = x.numel() * x.element_size(), y.numel() * y.element_size()
    # Backwards: the gradient is read for both results, the map for the weights', and the map's gradient is written.
    least = {"forward": inside + outside, "backward": 2 * inside + 2 * outside}
    return {
        name: {
            "ms": statistics.median(values),
            "gb_per_s": least[name] / statistics.median(values) / 1e6,
            "bandwidth_share": least[name] / (statistics.median(values) / 1e3) / moved,
            "rounds_ms": values,
        }
        for name, values in times.items()
    }


def maps(shape: tuple[int, int, int, int], setting: Setting) -> torch.Tensor:
    """Return a random map: bfloat16, channels_last."""
    x = torch.randn(shape, device=setting.device, dtype=torch.float32).to(torch.bfloat16)
    return x.contiguous(memory_format=torch.channels_last)


def cudnn_benchmark(setting: Setting) -> dict[str, Any]:
    """Measure cuDNN's search for kernels, on and off, each in a fresh process: the first steps, and the step after them."""
    wanted = {}
    for pixels in (16,) if setting.small else (32, 64, 128):
        for name in (SMALL,) if setting.small else ("efficientnet_b0", "efficientnetv2_s"):
            wanted[f"{name} {pixels} px"] = partial(_searched, name, pixels, 8 if setting.small else 256, setting)
    return cells("cudnn_benchmark", setting, wanted)


def _searched(name: str, pixels: int, batch: int, setting: Setting) -> dict[str, Any]:
    found = {}
    for search in (False, True):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            found["on" if search else "off"] = pool.submit(_cold, name, pixels, batch, setting, search).result()
    on, off = found["on"], found["off"]
    return {**found, "cold_cost_s": on["first_steps_s"] - off["first_steps_s"], "off_over_on": off["ms"] / on["ms"]}


def _cold(name: str, pixels: int, batch: int, setting: Setting, search: bool) -> dict[str, Any]:
    """Return the seconds of the first steps of a process, those of a second network of the same kind, and the step's time."""
    pick_device(str(setting.device))
    torch.backends.cudnn.benchmark = search
    torch.ones(1, device=setting.device).sum().item()
    seconds = []
    for _ in range(2):
        _, work = work_of(network(name, pixels, setting), setting, batch)
        rounds.wait(setting.device)
        began = time.perf_counter()
        how = graphs_of(setting)
        with how.here():
            for _ in range(WARMUP):
                work()
        rounds.wait(setting.device)
        seconds.append(time.perf_counter() - began)
    with how.replayed([work]) as (replay,):
        times = in_turns({"graph": replay}, setting)["graph"]
    return {
        "first_steps_s": seconds[0],
        "first_steps_again_s": seconds[1],
        "ms": statistics.median(times),
        "rounds_ms": times,
    }


def mps(setting: Setting) -> dict[str, Any]:
    """Look whether NVIDIA's multi-process service is there and runs; nothing is started or changed."""
    control = shutil.which("nvidia-cuda-mps-control")
    names = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            names.append(path.read_text().strip())
        except OSError:  # it has ended
            continue
    asked = "--query-gpu=name,compute_mode,driver_version,clocks.sm,clocks.max.sm,power.limit"
    try:
        done = subprocess.run(
            ["nvidia-smi", asked, "--format=csv,noheader"], capture_output=True, text=True, timeout=20
        )
        device = done.stdout.strip().splitlines()
    except (OSError, subprocess.TimeoutExpired) as error:
        device = [repr(error)]
    return {
        "control_program": control,
        "daemon_runs": any(name.startswith("nvidia-cuda-mps") for name in names),
        "pipe_directory": os.environ.get("CUDA_MPS_PIPE_DIRECTORY"),
        "connections": os.environ.get("CUDA_DEVICE_MAX_CONNECTIONS"),
        "nvidia_smi": device,
    }
