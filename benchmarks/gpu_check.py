"""Everything that needs a GPU, in sections, most important first; each ends within two minutes and stores its figures.

    python -m benchmarks.gpu_check                       # all sections that have no figure yet
    python -m benchmarks.gpu_check --section search      # one, again
    python -m benchmarks.gpu_check --device cpu          # the same code, small, where there is no GPU

Writes `<out>/<device name>/gpu_check.json` after every section; started again, it goes on with the next. Figures are ratios
with their spread wherever two sides are compared, both sides in alternating blocks of one process.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._common import conditions, folder, store, stored
from nas.catalog import load_arch
from nas.cost import Measurement
from nas.cost.latency import latencies
from nas.cost.memory import peak_memory
from nas.cost.step_time import FULL, SEARCH, step_times
from nas.data import Dataset, Split
from nas.devices import pick_device
from nas.evaluate import Evaluator, time_in_two_processes
from nas.spec import ArchSpec
from nas.train import loop
from nas.train.recipes import RECIPES, Recipe
from nas.train.schedule import Progressive


@dataclass(frozen=True)
class Setting:
    """Where a section runs, and whether it is the small version for a CPU."""

    device: torch.device
    small: bool


def section_tests(setting: Setting) -> dict[str, Any]:
    """Run the tests that are marked `gpu`."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    tail = done.stdout.splitlines()[-15:]
    return {"passed": done.returncode == 0, "exit_code": done.returncode, "tail": tail}


def section_step_time(setting: Setting) -> dict[str, Any]:
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
            "processes": [_plain(item) for item in pair],
            "ratio_second_to_first": pair[1].value / pair[0].value,
        }
    return found


def section_search(setting: Setting) -> dict[str, Any]:
    """Search v2_tiny (and v2 on a GPU) on the built-in data through the command line, to the winner."""
    found = {}
    for space, budget in (("v2_tiny", 2),) if setting.small else (("v2_tiny", 8), ("v2", 1)):
        with tempfile.TemporaryDirectory() as temp:
            out = Path(temp) / "run"
            command = [sys.executable, "-m", "nas", "search", "--space", space, "--budget", str(budget), "--top-k", "1"]
            command += ["--out", str(out), "--device", str(setting.device), "--recipe", "quick"]
            began = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, timeout=100 if setting.small else 55)
            found[space] = {
                "exit_code": done.returncode,
                "seconds": round(time.perf_counter() - began, 1),
                "budget": budget,
                "trials_csv": (out / "trials.csv").read_text().splitlines()[:4] if done.returncode == 0 else [],
                "tail": (done.stdout + done.stderr).splitlines()[-6:],
            }
    return {"passed": all(item["exit_code"] == 0 for item in found.values()), **found}


def section_host_bound(setting: Setting) -> dict[str, Any]:
    """Time the eager step over image sizes: where it stops falling with pixels, the host is the limit, not the device."""
    found: dict[str, Any] = {}
    for name in ("efficientnetv2_b0",) if setting.small else ("efficientnet_b0", "efficientnetv2_s"):
        for resolution in (16, 32) if setting.small else (32, 64, 128):
            step = _step(load_arch(name, resolution=resolution, num_classes=10), setting, 8 if setting.small else 128)
            timed = step_times([step], setting.device, replace(FULL, cap_s=6.0))[0]
            found[f"{name}@{resolution}"] = _plain(timed)
    return found


def section_layout(setting: Setting) -> dict[str, Any]:
    """Compare the training step in channels_last with the contiguous layout."""
    spec = load_arch("efficientnetv2_b0", resolution=32 if setting.small else 128, num_classes=10)
    batch = 8 if setting.small else 128
    usual = setting.device.type == "cuda"
    last = _step(spec, setting, batch, autocast=usual)
    first = _step(spec, setting, batch, contiguous=True, autocast=usual)
    return _ratio(last, first, setting, "channels_last", "contiguous")


def section_precision(setting: Setting) -> dict[str, Any]:
    """Compare the training step under bfloat16 autocast with float32 (on CUDA torch's default: TF32 convolutions)."""
    spec = load_arch("efficientnetv2_b0", resolution=32 if setting.small else 128, num_classes=10)
    batch = 8 if setting.small else 128
    mixed, full = _step(spec, setting, batch, autocast=True), _step(spec, setting, batch, autocast=False)
    return _ratio(mixed, full, setting, "bfloat16", "float32")


def section_memory(setting: Setting) -> dict[str, Any]:
    """Measure the peak memory of a training step over batch sizes (CUDA only)."""
    if setting.device.type != "cuda":
        return {"skipped": "peak memory is measured on CUDA devices only"}
    found = {}
    spec = load_arch("efficientnetv2_s", resolution=128, num_classes=10)
    for batch in (32, 64, 128, 256):
        resident = torch.cuda.memory_allocated(setting.device)
        step = _step(spec, setting, batch)
        measured = peak_memory(step, setting.device, resident)
        assert measured is not None
        found[str(batch)] = measured.value
        del step
    return found


def section_out_of_memory(setting: Setting) -> dict[str, Any]:
    """Ask for a step that cannot fit: the outcome must be `out_of_memory`, and the next network must work (CUDA only)."""
    if setting.device.type != "cuda":
        return {"skipped": "a CPU swaps instead of refusing"}
    spec = load_arch("efficientnetv2_s", resolution=224, num_classes=10)
    small = load_arch("efficientnetv2_b0", resolution=64, num_classes=10)
    recipe = replace(RECIPES["quick"], batch_size=128, progressive=Progressive(1, (1.0, 1.0)))
    total = torch.cuda.get_device_properties(setting.device).total_memory
    torch.cuda.set_per_process_memory_fraction(4 * 2**30 / total, setting.device)  # as a device of 4 GiB would
    try:
        evaluator = Evaluator(_noise(spec, 256), recipe, setting.device, baseline=small)
        first = evaluator.run_phase(spec, 0, None, seed=0)
        second = evaluator.run_phase(small, 0, None, seed=0)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, setting.device)
    passed = (first.outcome, second.outcome) == ("out_of_memory", "ok")
    return {"passed": passed, "large": first.outcome, "then_small": second.outcome, "reason": first.reason}


def section_engines(setting: Setting) -> dict[str, Any]:
    """Two workers on one device against one process: the same networks in turns, and whether any timing was shared."""
    name = str(setting.device)
    devices = "cpu:2" if setting.small else f"{name},{name}"
    with tempfile.TemporaryDirectory() as temp:
        command = [sys.executable, "-m", "benchmarks.engines", "--devices", devices, "--out", temp, "--rounds", "2"]
        command += ["--networks", "2" if setting.small else "6", "--max-params", "100e3"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400 if setting.small else 110)
        if done.returncode:
            return {"passed": False, "tail": (done.stdout + done.stderr).splitlines()[-6:]}
        found = stored(next(Path(temp).glob("*/engines.json")))
    alone = all(row[side]["timings_shared"] == 0 for row in found["rounds"] for side in ("inline", "local"))
    return {"passed": alone, "local_over_inline": found["ratio"], "rounds": found["rounds"]}


def section_field(setting: Setting) -> dict[str, Any]:
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
                "processes": [_plain(times[index]) for times in processes],
                "ratio_to_first": [times[index].value / times[0].value for times in processes],
            }
            for index, name in enumerate(names)
        },
    }


def section_latency(setting: Setting) -> dict[str, Any]:
    """Measure inference, eager and compiled, networks in turns; the scores of the two must agree."""
    names = ["mobilenet_v3_small"] if setting.small else ["efficientnetv2_b0", "resnet50"]
    networks = {name: load_arch(name, resolution=32 if setting.small else 224) for name in names}
    backends, batches = (["eager"], [1]) if setting.small else (["eager", "compile"], [1, 32])
    rows = latencies(networks, setting.device, backends=backends, batch_sizes=batches)
    return {"passed": not any(row.problem for row in rows), "rows": [row.document() for row in rows]}


SECTIONS: dict[str, Callable[[Setting], dict[str, Any]]] = {
    "tests": section_tests,
    "step_time": section_step_time,
    "search": section_search,
    "engines": section_engines,
    "field": section_field,
    "latency": section_latency,
    "host_bound": section_host_bound,
    "layout": section_layout,
    "precision": section_precision,
    "memory": section_memory,
    "out_of_memory": section_out_of_memory,
}


def _noise(spec: ArchSpec, images: int) -> Dataset:
    pixels = np.random.default_rng(0).integers(
        0, 256, (images, spec.resolution, spec.resolution, spec.in_channels), dtype=np.uint8
    )
    split = Split(pixels, np.arange(images) % spec.num_classes)
    half = (0.5,) * spec.in_channels
    return Dataset("noise", split, split, tuple(map(str, range(spec.num_classes))), "", half, half, ())


def _step(
    spec: ArchSpec, setting: Setting, batch: int, contiguous: bool = False, autocast: bool | None = None
) -> Callable[[], Any]:
    recipe: Recipe = replace(RECIPES["standard"], batch_size=batch)
    data = loop.to_device(_noise(spec, batch), recipe, setting.device)
    state = loop.start(spec, recipe, setting.device, seed=0)
    step = loop.timing_step(state, data, recipe, spec.resolution)
    if autocast is None:
        return step
    layout = torch.contiguous_format if contiguous else torch.channels_last
    state.network.to(memory_format=layout)
    images = torch.randn(batch, spec.in_channels, spec.resolution, spec.resolution, device=setting.device)
    images = images.to(memory_format=layout)
    labels = torch.arange(batch, device=setting.device) % spec.num_classes

    def forced() -> None:
        with torch.autocast(setting.device.type, dtype=torch.bfloat16, enabled=autocast):
            loss = torch.nn.functional.cross_entropy(state.network(images).float(), labels)
        loss.backward()
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)

    return forced


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
        mine: _plain(times[-1][0]),
        theirs: _plain(times[-1][1]),
    }


def _plain(item: Measurement) -> dict[str, Any]:
    return {"ms": item.value, "mad_ms": item.spread, "n": item.n}


def main() -> None:
    """Run the sections that have no figure yet, and store each as it ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--section", choices=list(SECTIONS), action="append", help="run this one, again if need be")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    options = parser.parse_args()
    device = pick_device(options.device)
    setting = Setting(device, small=device.type == "cpu")
    path = folder(device, options.out) / "gpu_check.json"
    content = stored(path) or {"conditions": conditions(device), "sections": {}}
    done = {name for name, value in content["sections"].items() if value["result"].get("passed", True)}
    failed = False
    for name in options.section or [name for name in SECTIONS if name not in done]:
        print(f"[{name}] {(SECTIONS[name].__doc__ or '').splitlines()[0]}", flush=True)
        began = time.perf_counter()
        try:
            result = SECTIONS[name](setting)
        except Exception as error:
            result = {"passed": False, "error": repr(error), "traceback": traceback.format_exc().splitlines()[-6:]}
        failed |= not result.get("passed", True)
        seconds = round(time.perf_counter() - began, 1)
        content["sections"][name] = {"seconds": seconds, "git": conditions(device)["git"], "result": result}
        store(path, content)
        print(f"[{name}] {seconds} s: {result}", flush=True)
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()
    print(path)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
