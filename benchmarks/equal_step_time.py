"""At equal measured step time, is the found network more accurate than the hand-made one?

Takes the winner of a search, more networks of its front, and hand-made networks (EfficientNetV2-B0 and EfficientNet-B0,
scaled to the same range of step times). All are trained by the run's recipe, only longer, with the same seeds, on the
images that the search trained on, and scored on images that the search never touched: the training images that its
recipe left out. All step times are measured in one process, in alternating blocks, after the trainings.

    python -m benchmarks.equal_step_time results/v2_tiny-200 --epochs 12 --seeds 3

Writes `equal_step_time.json` into the run after each training; started again, it continues.

The comparison: a found network against the hand-made front at its own step time, interpolated between two neighbours on
the logarithm of time. The front is a maximum of noisy means, which favours the hand-made side. The error of a difference
has two parts: training noise, pooled over all networks (networks x (seeds - 1) degrees of freedom), and the choice of
images, from the difference image by image, since all are scored on the same ones. Intervals hold for all found networks
together (Bonferroni, 95 %).
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import math
import multiprocessing
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks._common import conditions, store, stored
from nas import catalog
from nas.cost import count
from nas.cost.step_time import FULL, step_times
from nas.data import Dataset, Split, load
from nas.devices import pick_device
from nas.lane import lane
from nas.objective import pareto
from nas.report import RunView, load_run
from nas.search.study import values
from nas.space import choices, decode, stored_choose
from nas.spec import ArchSpec
from nas.train import loop
from nas.train.recipes import Recipe, from_document
from nas.train.schedule import phases

HAND_MADE = {
    "efficientnetv2_b0": [(0.125, 0.25), (0.1875, 0.5), (0.25, 0.25), (0.25, 0.5)],
    "efficientnet_b0": [(0.125, 0.25), (0.25, 0.5)],
}
"""Width and depth multipliers of the hand-made networks."""


@dataclass(frozen=True)
class Setting:
    """What all trainings and timings share."""

    recipe: Recipe
    source: str
    device: str
    threads: int


def networks(view: RunView, more: int) -> dict[str, ArchSpec]:
    """Return the winner, `more` others spread over the front, and the hand-made networks, by name."""
    space = catalog.load_space(view.run.path("space.yaml"))
    winner = view.winner
    classes = {"num_classes": winner.num_classes, "in_channels": winner.in_channels}
    front = [item.arch_hash for item in pareto(view.candidates()) if item.arch_hash != winner.arch_hash]
    picked = [front[round(index * (len(front) - 1) / max(1, more - 1))] for index in range(min(more, len(front)))]
    found = {"winner": winner}
    for arch_hash in dict.fromkeys(picked):
        row = view.trials[view.trials["arch_hash"] == arch_hash].iloc[0]
        params = {name: row[f"param:{name}"] for name in choices(space)}
        found[f"front-{arch_hash[:6]}"] = decode(space, stored_choose(values(choices(space), params)), **classes)
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
    """Return the data with the search's own training images, and those that it left out to score on."""
    used = np.zeros(len(data.train.labels), dtype=bool)
    used[loop.sample(len(used), recipe.train_images).numpy()] = True
    if used.all():
        sys.exit(f"the recipe uses all {len(used)} training images; none is left that the search never touched")
    train = Split(np.ascontiguousarray(data.train.images[used]), data.train.labels[used])
    rest = Split(np.ascontiguousarray(data.train.images[~used]), data.train.labels[~used])
    return replace(data, train=train, val=rest)


def train(spec: ArchSpec, setting: Setting, seed: int) -> dict[str, Any]:
    """Train one network with one seed, and return which unseen images it gets right, one bit each."""
    torch.set_num_threads(setting.threads)
    device = pick_device(setting.device)
    images = unseen(load(setting.source, resolution=spec.resolution), setting.recipe)
    recipe = replace(setting.recipe, val_images=len(images.val.labels))
    data = loop.to_device(images, recipe, device)
    state = loop.start(spec, recipe, device, seed)
    with lane(str(device), alone=False):
        for phase in phases(recipe.progressive, spec.resolved().resolution, recipe.epochs):
            seen = loop.train_phase(state, data, recipe, phase)
        right = loop.correct(state.network, data, spec.resolved().resolution).cpu().numpy()
    bits = base64.b64encode(np.packbits(right).tobytes()).decode()
    return {"accuracy": float(right.mean()), "images": len(right), "train_loss": seen.train_loss, "right": bits}


def timings(specs: dict[str, ArchSpec], setting: Setting) -> dict[str, dict[str, Any]]:
    """Time all networks side by side by the full protocol."""
    torch.set_num_threads(setting.threads)
    device = pick_device(setting.device)
    first = next(iter(specs.values()))
    data = loop.to_device(load(setting.source, resolution=first.resolution), setting.recipe, device)
    steps = [
        loop.timing_step(loop.start(spec, setting.recipe, device, 0), data, setting.recipe, spec.resolved().resolution)
        for spec in specs.values()
    ]
    with lane(str(device), alone=True):
        found = step_times(steps, device, replace(FULL, settle=0.0, min_blocks=30, at_cap=15, cap_s=120.0))
    return {
        spec.arch_hash: {"ms": item.value, "mad_ms": item.spread, "n": item.n}
        for spec, item in zip(specs.values(), found, strict=True)
    }


# --- the comparison ---------------------------------------------------------------------------------------


def t_quantile(share: float, freedom: int) -> float:
    """Return a quantile of Student's t (Cornish-Fisher expansion; good to 0.01 from 10 degrees of freedom on)."""
    z = statistics.NormalDist().inv_cdf(share)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def rows_of(specs: dict[str, ArchSpec], content: dict[str, Any], keys: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Return a row for each network, by rising step time."""
    rows = []
    for name, spec in specs.items():
        time = content["timings"][spec.arch_hash]
        accuracies = [content["trainings"][key]["accuracy"] for key in keys[name]]
        rows.append(
            {
                "name": name,
                "kind": "hand-made" if name.split(" ")[0] in HAND_MADE else "found",
                "arch_hash": spec.arch_hash,
                "step_time_ms": time["ms"],
                "step_time_mad_ms": time["mad_ms"],
                "accuracy": statistics.fmean(accuracies),
                "accuracies": accuracies,
                "num_params": count(spec).params,
                "macs": count(spec).macs,
            }
        )
    return sorted(rows, key=lambda row: row["step_time_ms"])


def compare(rows: list[dict[str, Any]], right: dict[str, npt.NDArray[np.float64]]) -> list[dict[str, Any]]:
    """Compare each found network with the hand-made front at its own step time.

    Args:
        right: For each network, the share of its trainings that got each image right, (images,).
    """
    seeds = len(rows[0]["accuracies"])
    noise = math.sqrt(statistics.fmean(statistics.variance(row["accuracies"]) for row in rows))
    found = [row for row in rows if row["kind"] == "found"]
    quantile = t_quantile(1 - 0.05 / 2 / len(found), len(rows) * (seeds - 1))
    front: list[dict[str, Any]] = []
    for row in rows:
        if row["kind"] == "hand-made" and (not front or row["accuracy"] > front[-1]["accuracy"]):
            front.append(row)
    answers = []
    for row in found:
        time = row["step_time_ms"]
        if time < front[0]["step_time_ms"]:
            answers.append({"name": row["name"], "against": None, "answer": "faster than every hand-made network here"})
            continue
        pair = next(
            ((a, b) for a, b in pairwise(front) if a["step_time_ms"] <= time <= b["step_time_ms"]),
            (front[-1], front[-1]),
        )
        low, high = (math.log(item["step_time_ms"]) for item in pair)
        share = (math.log(time) - low) / (high - low) if high > low else 0.0
        rival = (1 - share) * right[pair[0]["name"]] + share * right[pair[1]["name"]]
        difference = right[row["name"]] - rival
        images_error = float(difference.std(ddof=1)) / math.sqrt(len(difference))
        training_error = noise * math.sqrt((1 + (1 - share) ** 2 + share**2) / seeds)
        half = quantile * math.hypot(images_error, training_error)
        gap = float(difference.mean())
        answers.append(
            {
                "name": row["name"],
                "against": [item["name"] for item in pair],
                "share_of_second": share,
                "hand_made_accuracy": float(rival.mean()),
                "difference": gap,
                "half_interval": half,
                "training_error": training_error,
                "images_error": images_error,
                "answer": "yes" if gap > half else "no, less accurate" if gap < -half else "cannot be told",
            }
        )
    return answers


def main() -> None:
    """Run or continue the comparison, and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--epochs", type=float, default=12.0, help="passes over the search's training images")
    parser.add_argument("--seeds", type=int, default=3, choices=range(2, 20), metavar="2..19")
    parser.add_argument("--more", type=int, default=2, help="networks of the front besides the winner")
    parser.add_argument("--workers", type=int, default=1, help="trainings at a time (of one thread each, on a CPU)")
    options = parser.parse_args()

    view = load_run(options.run)
    manifest = view.run.manifest
    recipe = replace(from_document(dict(manifest["recipe"]), where="manifest"), epochs=options.epochs)
    device = manifest["device"]
    setting = Setting(recipe, manifest["config"]["data"], device["type"], device.get("threads", 1))
    torch.set_num_threads(setting.threads)
    here = conditions(pick_device(setting.device))
    if here["device"] != device:
        sys.exit(f"the run was made on {device}, this is {here['device']}: step times would not compare")
    specs = networks(view, options.more)
    path = options.run / "equal_step_time.json"
    content = stored(path) or {"trainings": {}, "timings": {}}
    plan = hashlib.sha256(json.dumps(recipe.document(), sort_keys=True).encode()).hexdigest()[:8]
    seeds = range(100, 100 + options.seeds)
    keys = {name: [f"{spec.arch_hash}/{plan}/{seed}" for seed in seeds] for name, spec in specs.items()}
    todo = [(name, seed) for seed in seeds for name in specs]
    with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = {}
        for name, seed in todo:
            key = f"{specs[name].arch_hash}/{plan}/{seed}"
            if key not in content["trainings"]:
                jobs[pool.submit(train, specs[name], setting, seed)] = (name, key)
        for number, job in enumerate(as_completed(jobs), 1):
            name, key = jobs[job]
            content["trainings"][key] = job.result()
            store(path, content)
            print(f"{number}/{len(jobs)} {name}: {job.result()['accuracy']:.4f}", flush=True)
    if set(content["timings"]) != {spec.arch_hash for spec in specs.values()}:
        content |= {"conditions": here, "timings": timings(specs, setting)}
        store(path, content)
    rows = rows_of(specs, content, keys)
    right = {}
    for name in specs:
        seen = [content["trainings"][key] for key in keys[name]]
        bits = [np.unpackbits(np.frombuffer(base64.b64decode(item["right"]), np.uint8)) for item in seen]
        right[name] = np.mean([item[: seen[0]["images"]] for item in bits], axis=0)
    content |= {
        "command": "python -m benchmarks.equal_step_time " + " ".join(sys.argv[1:]),
        "recipe": recipe.document(),
        "specs": {name: spec.document() for name, spec in specs.items()},
        "rows": rows,
        "answers": compare(rows, right),
    }
    store(path, content)
    for row in rows:
        print(
            f"{row['kind']:10s} {row['name']:32s} {row['step_time_ms']:8.2f} ± {row['step_time_mad_ms']:5.2f} ms  "
            f"{row['accuracy']:.4f}  {row['num_params']:,} params"
        )
    for item in content["answers"]:
        print(item)


if __name__ == "__main__":
    main()
