"""Everything that needs a GPU, in sections, most important first; each ends within ten minutes and stores its figures.

    python -m benchmarks.gpu_check                       # all sections that have no figure yet
    python -m benchmarks.gpu_check --seconds 570         # those that fit into so much time; again for the others
    python -m benchmarks.gpu_check --section search      # one, again
    python -m benchmarks.gpu_check --data cifar-10/      # training, scaling and progressive on other images
    python -m benchmarks.gpu_check --device cpu          # the same code, small, where there is no GPU

Writes `<out>/<device name>/gpu_check.json` after every section; started again, it goes on with the next. Figures are ratios
with their spread wherever two sides are compared, both sides in alternating blocks of one process.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks._common import conditions, folder, store, stored
from benchmarks.gpu_check import commands, figures, graphed, kernels, proxies
from benchmarks.gpu_check.arms import arms
from benchmarks.gpu_check.scaling import scaling
from benchmarks.gpu_check.setting import Setting
from benchmarks.gpu_check.training import training
from nas.catalog import load_arch
from nas.devices import pick_device

NETWORK = Path(__file__).parents[2] / "results" / "published" / "v2_tiny-200" / "winner.yaml"


@dataclass(frozen=True)
class Section:
    """A section and the seconds that it has at most."""

    run: Callable[[Setting], dict[str, Any]]
    limit_s: float = 120.0


SECTIONS = {
    "tests": Section(commands.tests, 400),
    "graphs": Section(graphed.graphs, 500),
    "arms": Section(arms, 400),
    "table": Section(proxies.table, 540),
    "fidelity": Section(proxies.fidelity, 540),
    "capture_cost": Section(graphed.capture_cost, 240),
    "streams": Section(graphed.streams, 500),
    "block_table": Section(proxies.block_table, 240),
    "depthwise": Section(kernels.depthwise),
    "norm": Section(kernels.norm, 240),
    "cudnn_benchmark": Section(kernels.cudnn_benchmark, 400),
    "mps": Section(kernels.mps, 40),
    "training": Section(training, 500),
    "scaling": Section(scaling, 500),
    "search": Section(commands.search, 300),
    "progressive": Section(commands.progressive, 540),
    "step_time": Section(figures.step_time),
    "engines": Section(commands.engines),
    "field": Section(figures.field),
    "latency": Section(figures.latency),
    "host_bound": Section(figures.host_bound),
    "layout": Section(figures.layout),
    "precision": Section(figures.precision),
    "memory": Section(figures.memory),
    "out_of_memory": Section(figures.out_of_memory),
}
"""By importance."""


SHOWN = 1500
"""Characters of a result that are printed; the file has all of it."""


def is_done(entry: dict[str, Any]) -> bool:
    """Return whether a stored section has its figures: it has not failed, and was not stopped by the time."""
    return entry["result"].get("passed", True) and not entry["result"].get("unfinished", False)


def main() -> None:
    """Run the sections that have no figure yet, and store each as it ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--section", choices=list(SECTIONS), action="append", help="run this one, again if need be")
    parser.add_argument("--seconds", type=float, help="begin no section that may not end in this time")
    parser.add_argument("--network", default=str(NETWORK), help="what is trained and scaled: a run, file or name")
    parser.add_argument("--data", help="images, in place of the built-in ones")
    parser.add_argument("--epochs", type=int, help="of training; else what fits into its time")
    parser.add_argument("--seeds", type=int, default=3, help="of training")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    options = parser.parse_args()
    began = time.perf_counter()
    device = pick_device(options.device)
    place = folder(device, options.out)
    setting = Setting(
        device,
        small=device.type == "cpu",
        folder=place,
        network=load_arch(options.network),
        data=options.data,
        epochs=options.epochs,
        seeds=options.seeds,
    )
    path = place / "gpu_check.json"
    content = stored(path) or {"conditions": conditions(device), "sections": {}}
    done = {name for name, entry in content["sections"].items() if is_done(entry)}
    failed = False
    left = []
    for name in options.section or [name for name in SECTIONS if name not in done]:
        section = SECTIONS[name]
        if options.seconds and time.perf_counter() - began + section.limit_s > options.seconds:
            left.append(name)
            continue
        print(f"[{name}] {(section.run.__doc__ or '').splitlines()[0]}", flush=True)
        since = time.perf_counter()
        try:
            result = section.run(replace(setting, limit_s=section.limit_s))
        except Exception as error:
            result = {"passed": False, "error": repr(error), "traceback": traceback.format_exc().splitlines()[-6:]}
        failed |= not result.get("passed", True)
        seconds = round(time.perf_counter() - since, 1)
        content["sections"][name] = {"seconds": seconds, "git": conditions(device)["git"], "result": result}
        store(path, content)
        print(f"[{name}] {seconds} s: {str(result)[:SHOWN]}", flush=True)
        if not is_done(content["sections"][name]):
            left.append(name)
        gc.collect()
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()
    if left:
        print(f"left, for the same command again: {', '.join(left)}")
    print(path)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
