"""At equal measured step time, is the found network more accurate than the hand-made one?

Takes the winner of a search, more networks of its front, and hand-made networks (EfficientNetV2-B0 and EfficientNet-B0,
scaled to the same range of step times). All are trained by the run's recipe, only longer, with the same seeds, on the
images that the search trained on, and scored on images that the search never touched: the training images that its
recipe left out. All step times are measured in one process, in alternating blocks.

    python -m benchmarks.equal_step_time results/v2_tiny-200 --epochs 12 --seeds 3

Writes `<out>/equal_step_time.json` after each training; started again, it continues.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import statistics
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._common import conditions, store, stored
from nas import catalog
from nas.cost import count
from nas.cost.step_time import FULL, step_times
from nas.data import Dataset, Split, load
from nas.lane import lane
from nas.objective import pareto
from nas.report import RunView, load_run
from nas.search.session import spec_of
from nas.search.study import open_study, records
from nas.spec import ArchSpec
from nas.train import loop
from nas.train.recipes import Recipe, from_document
from nas.train.schedule import phases

HAND_MADE = {
    "efficientnetv2_b0": [(0.125, 0.25), (0.1875, 0.5), (0.25, 0.25), (0.25, 0.5), (0.375, 0.5)],
    "efficientnet_b0": [(0.125, 0.5), (0.25, 0.25), (0.25, 0.5)],
}
"""Width and depth multipliers of the hand-made networks."""


def networks(view: RunView, more: int) -> dict[str, ArchSpec]:
    """Return the winner, `more` others spread over the front, and the hand-made networks, by name."""
    space = catalog.load_space(view.run.path("space.yaml"))
    winner = view.winner
    classes = {"num_classes": winner.num_classes, "in_channels": winner.in_channels}
    manifest = view.run.manifest
    study = open_study(
        view.run.folder, f"search-{manifest['space']}", sampler="random", pruner="none", seed=manifest["seed"]
    )
    by_hash = {record.arch_hash: record for record in records(study) if record.kind == "trained"}
    front = [item.arch_hash for item in pareto(view.candidates()) if item.arch_hash != winner.arch_hash]
    picked = [front[round(index * (len(front) - 1) / max(1, more - 1))] for index in range(min(more, len(front)))]
    found = {"winner": winner}
    for arch_hash in dict.fromkeys(picked):
        found[f"front-{arch_hash[:6]}"] = spec_of(by_hash[arch_hash], space, **classes)
    base = catalog.baseline(space, **classes)
    for name, multipliers in HAND_MADE.items():
        for width, depth in multipliers:
            spec = replace(
                catalog.load_arch(name),
                **classes,
                resolution=base.resolution,
                width_mult=width,
                depth_mult=depth,
                channel_divisor=base.channel_divisor,
                round_limit=base.round_limit,
                drop_path=base.drop_path,
            )
            found[f"{name} w{width:g} d{depth:g}"] = replace(spec, stem=replace(spec.stem, stride=base.stem.stride))
    return found


def unseen(data: Dataset, recipe: Recipe) -> Dataset:
    """Return the data with the search's own training sample, and the training images that it left out to score on."""
    kept = torch.randperm(len(data.train.labels), generator=torch.Generator().manual_seed(0))[: recipe.train_images]
    mask = np.zeros(len(data.train.labels), dtype=bool)
    mask[kept.numpy()] = True
    train = Split(np.ascontiguousarray(data.train.images[mask]), data.train.labels[mask])
    rest = Split(np.ascontiguousarray(data.train.images[~mask]), data.train.labels[~mask])
    return replace(data, train=train, val=rest)


def train(spec: ArchSpec, recipe: Recipe, source: str, seed: int) -> dict[str, Any]:
    """Train one network with one seed on one thread, and return its accuracy on the unseen images."""
    torch.set_num_threads(1)
    search_recipe_data = unseen(load(source, resolution=spec.resolution), recipe)
    longer = replace(recipe, val_images=len(search_recipe_data.val.labels))
    device = torch.device("cpu")
    data = loop.to_device(search_recipe_data, longer, device)
    state = loop.start(spec, longer, device, seed)
    with lane(str(device), alone=False):
        for phase in phases(longer.progressive, spec.resolved().resolution, longer.epochs):
            seen = loop.train_phase(state, data, longer, phase)
    return {"accuracy": seen.val_accuracy, "error": seen.val_error, "n": len(data.val_labels), "loss": seen.train_loss}


def timings(specs: dict[str, ArchSpec], recipe: Recipe, source: str) -> dict[str, dict[str, float]]:
    """Time all networks side by side by the full protocol."""
    torch.set_num_threads(1)
    device = torch.device("cpu")
    first = next(iter(specs.values()))
    data = loop.to_device(load(source, resolution=first.resolution), recipe, device)
    steps = [
        loop.timing_step(loop.start(spec, recipe, device, 0), data, recipe, spec.resolved().resolution)
        for spec in specs.values()
    ]
    with lane(str(device), alone=True):
        found = step_times(steps, device, replace(FULL, cap_s=180.0, min_blocks=15))
    return {
        name: {"ms": item.value, "mad_ms": item.spread, "n": item.n} for name, item in zip(specs, found, strict=True)
    }


def interpolated(front: list[tuple[float, float]], time: float) -> float | None:
    """Return the accuracy of a front at a step time, linear in the logarithm of time; None outside it."""
    for (t0, a0), (t1, a1) in pairwise(front):
        if t0 <= time <= t1:
            share = (math.log(time) - math.log(t0)) / (math.log(t1) - math.log(t0))
            return a0 + (a1 - a0) * share
    return None


def compare(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare each found network with the hand-made front at its own step time."""
    hand = sorted((row for row in rows if row["kind"] == "hand-made"), key=lambda row: row["step_time_ms"])
    front: list[tuple[float, float]] = []
    for row in hand:
        if not front or row["accuracy"] > front[-1][1]:
            front.append((row["step_time_ms"], row["accuracy"]))
    # The error of an interpolated point: that of one hand-made network.
    hand_error = statistics.fmean(row["accuracy_error"] for row in hand)
    found = []
    for row in rows:
        if row["kind"] != "found":
            continue
        there = interpolated(front, row["step_time_ms"])
        beyond = None if there is not None else "slower" if row["step_time_ms"] > front[-1][0] else "faster"
        rival = there if there is not None else front[-1][1] if beyond == "slower" else None
        entry: dict[str, Any] = {"name": row["name"], "hand_made_accuracy": rival, "beyond_front": beyond}
        if rival is not None:
            gap, error = row["accuracy"] - rival, math.hypot(row["accuracy_error"], hand_error)
            verdict = "yes" if gap > 2 * error else "no, less accurate" if gap < -2 * error else "cannot be told"
            entry |= {"difference": gap, "two_errors": 2 * error, "more_accurate": verdict}
        found.append(entry)
    return found


def main() -> None:
    """Run or continue the comparison, and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--epochs", type=float, default=12.0, help="passes over the search's training images")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--more", type=int, default=2, help="networks of the front besides the winner")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="folder of the result (default: the run's)")
    options = parser.parse_args()

    view = load_run(options.run)
    manifest = view.run.manifest
    recipe = replace(from_document(dict(manifest["recipe"]), where="manifest"), epochs=options.epochs)
    source = manifest["config"]["data"]
    specs = networks(view, options.more)
    path = (options.out or options.run) / "equal_step_time.json"
    content = stored(path) or {"conditions": conditions(torch.device("cpu")), "trainings": {}, "timings": {}}
    content |= {
        "run": options.run.name,
        "recipe": recipe.document(),
        "specs": {n: s.document() for n, s in specs.items()},
    }
    if set(content["timings"]) != set(specs):
        content["timings"] = timings(specs, recipe, source)
        store(path, content)
    todo = [(name, seed) for seed in range(100, 100 + options.seeds) for name in specs]
    todo = [(name, seed) for name, seed in todo if f"{name}/{seed}" not in content["trainings"]]
    with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = {pool.submit(train, specs[name], recipe, source, seed): f"{name}/{seed}" for name, seed in todo}
        for job in as_completed(jobs):
            content["trainings"][jobs[job]] = job.result()
            store(path, content)
            print(
                f"{len(content['trainings'])}/{len(specs) * options.seeds} {jobs[job]}: {job.result()['accuracy']:.4f}"
            )
    rows = []
    for name, spec in specs.items():
        seen = [value for key, value in content["trainings"].items() if key.rpartition("/")[0] == name]
        values = [item["accuracy"] for item in seen]
        seeds_error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
        rows.append(
            {
                "name": name,
                "kind": "hand-made" if name.split(" ")[0] in HAND_MADE else "found",
                "step_time_ms": content["timings"][name]["ms"],
                "step_time_mad_ms": content["timings"][name]["mad_ms"],
                "accuracy": statistics.fmean(values),
                "accuracy_error": math.hypot(seeds_error, statistics.fmean(item["error"] for item in seen)),
                "seeds": len(values),
                "num_params": count(spec).params,
                "macs": count(spec).macs,
            }
        )
    rows.sort(key=lambda row: row["step_time_ms"])
    content |= {"rows": rows, "answer": compare(rows)}
    store(path, content)
    for row in rows:
        print(
            f"{row['kind']:10s} {row['name']:32s} {row['step_time_ms']:8.2f} ± {row['step_time_mad_ms']:5.2f} ms  "
            f"{row['accuracy']:.4f} ± {row['accuracy_error']:.4f}  {row['num_params']:,} params"
        )
    for item in content["answer"]:
        print(item)


if __name__ == "__main__":
    main()
