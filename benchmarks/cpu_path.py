"""What pays on a CPU, part by part: the training step of randomly drawn networks, each way against the usual one.

Ways: images and weights contiguous or channels last; bfloat16 by autocast; memory given back to the system after each step,
as the C library does, or kept (`nas.devices.keep_freed_memory`); batches of another size. All in one process of one thread,
in turns, in an order drawn anew for each round; the ratio is taken round by round, of seconds and of the seconds
that the process computed (which other programs on the machine disturb less).

    python -m benchmarks.cpu_path --networks 4 --rounds 9

How many processes of how many threads pay is measured by `nas.train.probe`, which a search uses, and printed with it.
Writes `cpu_path.json` under the results folder of the device.
"""

from __future__ import annotations

import argparse
import ctypes
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks._common import conditions, folder, settings, store
from benchmarks._stats import median_interval, shown, shuffled
from benchmarks.fidelity import drawn
from nas.data import load
from nas.host import keep_freed_memory
from nas.spec import ArchSpec
from nas.train import loop, probe
from nas.train.recipes import RECIPES, Recipe

USUAL = "usual"


@dataclass(frozen=True)
class Way:
    """A way to do the training step. `kept`: whether the process keeps the memory that is free."""

    layout: str = "channels_last"
    precision: str = "float32"
    kept: bool = True
    batch_size: int = 64


WAYS = {
    USUAL: Way(),
    "contiguous": Way(layout="contiguous"),
    "bfloat16": Way(precision="bfloat16"),
    "memory given back": Way(kept=False),
    "batch 32": Way(batch_size=32),
    "batch 128": Way(batch_size=128),
}


def give_back_memory() -> None:
    """Undo `keep_freed_memory`: the C library's own limits, as mallopt(3) gives them."""
    mallopt = ctypes.CDLL(None).mallopt
    for name, value in ((-4, 65536), (-1, 128 * 1024), (-2, 128 * 1024)):
        mallopt(name, value)


def per_image(step: Callable[[], Any], way: Way, steps: int) -> dict[str, float]:
    """Take some steps and return seconds, computed seconds (microseconds per image) and page faults per step."""
    keep_freed_memory() if way.kept else give_back_memory()
    step()
    before, began, computed = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    wall, cpu = time.perf_counter() - began, time.process_time() - computed
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before.ru_minflt
    return {
        "wall_us": wall / steps / way.batch_size * 1e6,
        "cpu_us": cpu / steps / way.batch_size * 1e6,
        "faults": faults / steps,
    }


def steps_of(spec: ArchSpec, recipe: Recipe, pixels: int, source: str) -> dict[str, Callable[[], Any]]:
    """Return the training step of a network in each way."""
    device = torch.device("cpu")
    images = load(source, resolution=spec.resolution)
    found = {}
    for name, way in WAYS.items():
        own = replace(recipe, layout=way.layout, precision=way.precision, batch_size=way.batch_size)
        state = loop.start(spec, own, device, seed=0)
        found[name] = loop.timing_step(state, loop.to_device(images, own, device), own, pixels)
    return found


def main() -> None:
    """Measure all ways and print their ratios to the usual one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="v2_tiny")
    parser.add_argument("--data", default="fashion-mnist-subset")
    parser.add_argument("--networks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2, help="of a window")
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 32], help="image sizes in pixels")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    options = parser.parse_args()

    torch.set_num_threads(1)
    device = torch.device("cpu")
    data = load(options.data, resolution=32)
    specs = drawn(options.space, options.networks, 8e6, num_classes=data.num_classes, in_channels=data.in_channels)
    rows: dict[str, Any] = {}
    for pixels in options.sizes:
        ratios: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": [], "faults": []} for name in WAYS}
        for spec in specs:
            steps = steps_of(spec, RECIPES["quick"], pixels, options.data)
            for order in shuffled(list(WAYS), options.rounds):
                seen = {name: per_image(steps[name], WAYS[name], options.steps) for name in order}
                for name, item in seen.items():
                    ratios[name]["wall"].append(item["wall_us"] / seen[USUAL]["wall_us"])
                    ratios[name]["cpu"].append(item["cpu_us"] / seen[USUAL]["cpu_us"])
                    ratios[name]["faults"].append(item["faults"])
        rows[str(pixels)] = {
            name: {
                "time_per_image_over_usual": median_interval(item["wall"]),
                "computed_per_image_over_usual": median_interval(item["cpu"]),
                "page_faults_per_step": median_interval(item["faults"]),
            }
            for name, item in ratios.items()
        }
        for name, row in rows[str(pixels)].items():
            print(
                f"{pixels} px {name:18s} time {shown(row['time_per_image_over_usual'])}  computed "
                f"{shown(row['computed_per_image_over_usual'])}  faults {row['page_faults_per_step']['median']:.0f}",
                flush=True,
            )
    keep_freed_memory()
    found = probe.chosen(probe.measured())
    print(found.sentence())
    asked = settings(options)
    content = conditions(device) | {"settings": asked, "sizes": rows, "probe": vars(found)}
    store(folder(device, options.out) / "cpu_path.json", content)


if __name__ == "__main__":
    main()
