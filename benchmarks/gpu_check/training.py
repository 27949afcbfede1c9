"""The section `training`: a found network against EfficientNetV2-B0 under one full recipe."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks._common import conditions, store, stored
from benchmarks.gpu_check.setting import Setting, plain, timed_step
from nas.catalog import load_arch
from nas.cost import count
from nas.cost.step_time import SEARCH, step_times
from nas.data import Dataset, load
from nas.devices import lane_name
from nas.lane import lane
from nas.models import build
from nas.spec import ArchSpec
from nas.train import full_loop, loop
from nas.train.config import TrainConfig, recipe_of
from nas.train.full_recipes import FullRecipe, full_phases
from nas.train.session import train_network

RIVAL = "efficientnetv2_b0"

TURN = replace(SEARCH, cap_s=2.0, target=0.01)
"""A round in which every network is timed."""

SHARE = 0.85
"""Of the time left, what the trainings are planned to take: a machine's speed drifts."""


def training(setting: Setting) -> dict[str, Any]:
    """Train the network and EfficientNetV2-B0 by one full recipe, seed by seed in turns: accuracy, step time, images/s.

    Accuracies are those of the last epoch, on all validation images: none is picked by the images it is scored on. Every
    training is stored as it ends, in `training-<plan>.json`; started again, the section goes on from there (delete the
    file to have all of it anew). Where the time is short it stops after whole seeds, and says so.
    """
    began = time.perf_counter()
    batch = 16 if setting.small else None
    config = TrainConfig(
        data=setting.source(),
        recipe="short" if setting.small else "standard",
        batch_size=batch,
        epochs=setting.epochs,
        device=str(setting.device),
    )
    specs = {setting.network.name or "network": setting.network, **rivals(setting.network)}
    resolution = setting.network.resolved().resolution
    images = load(config.data, resolution=resolution)
    specs = {
        name: replace(spec, num_classes=images.num_classes, in_channels=images.in_channels)
        for name, spec in specs.items()
    }
    plan = {
        "networks": {name: spec.arch_hash for name, spec in specs.items()},
        "data": images.fingerprint,
        "config": config.document() | {"data": images.name},
    }
    path = setting.folder / f"training-{hashlib.sha256(json.dumps(plan).encode()).hexdigest()[:8]}.json"
    content = stored(path) or {"conditions": conditions(setting.device), "plan": plan, "trainings": []}
    if "epochs" not in content:
        recipe = recipe_of(config)
        content["step_times"] = in_turns(specs, setting, recipe.batch_size)
        paces = {name: epoch_seconds(spec, recipe, images, setting) for name, spec in specs.items()}
        left = setting.limit_s - (time.perf_counter() - began)
        content["planned_epoch_s"] = paces
        content["epochs"] = setting.epochs or epochs_in(left, setting.seeds * sum(paces.values()), recipe, setting)
        store(path, content)
    config = replace(config, epochs=content["epochs"])
    longest = 0.0
    for seed in range(setting.seeds):
        done = {row["network"] for row in content["trainings"] if row["seed"] == seed}
        if longest and time.perf_counter() - began + longest > setting.limit_s and len(done) < len(specs):
            break
        since = time.perf_counter()
        for name, spec in specs.items():
            if name in done:
                continue
            content["trainings"].append(_train(name, spec, config, seed))
            store(path, content)
            longest = max(longest, time.perf_counter() - since)
    whole = whole_seeds(content["trainings"], specs)
    said = f"{len(whole)} of {setting.seeds} seeds, {content['epochs']} epochs each"
    unfinished = len(whole) < setting.seeds
    return {
        "unfinished": unfinished,
        "said": f"{said}; stopped by the time, run it again to go on" if unfinished else said,
        "file": path.name,
        "data": {"name": images.name, "train_images": len(images.train), "val_images": len(images.val)},
        **compared([row for row in content["trainings"] if row["seed"] in whole], list(specs)),
        "step_times": content["step_times"],
        "networks": {name: facts(spec) for name, spec in specs.items()},
        "recipe": recipe_of(config).document(),
    }


def rivals(network: ArchSpec) -> dict[str, ArchSpec]:
    """Return EfficientNetV2-B0 made for the images of a network.

    It takes the network's pixels and the stride of its stem, since one of 2 halves a small image before anything has seen
    it, and its drop path, so that both are regularised alike; widths and depths stay B0's own. A network with multipliers
    gets a second rival that has them too, with their rounding: B0 as large as the space that the network was found in.
    """
    whole = load_arch(RIVAL)
    whole = replace(
        whole,
        resolution=network.resolved().resolution,
        resolution_mult=1.0,
        drop_path=network.drop_path,
        stem=replace(whole.stem, stride=network.stem.stride),
    )
    found = {RIVAL: whole}
    if (network.width_mult, network.depth_mult) != (1, 1):
        same = {key: getattr(network, key) for key in ("width_mult", "depth_mult", "channel_divisor", "round_limit")}
        found[f"{RIVAL} w{network.width_mult:g} d{network.depth_mult:g}"] = replace(whole, **same)
    return found


def in_turns(specs: Mapping[str, ArchSpec], setting: Setting, batch: int) -> dict[str, Any]:
    """Time the training step of all networks in turns, over and over; ratios are to the first."""
    steps = [timed_step(spec, setting, batch) for spec in specs.values()]
    with lane(lane_name(setting.device), alone=True):
        rounds = [step_times(steps, setting.device, TURN) for _ in range(2 if setting.small else 9)]
    found: dict[str, Any] = {"batch": batch}
    for index, name in enumerate(specs):
        ratios = [times[index].value / times[0].value for times in rounds]
        last = plain(rounds[-1][index])
        found[name] = {"ratio": statistics.median(ratios), "range": [min(ratios), max(ratios)], "last_round": last}
    return found


def epoch_seconds(spec: ArchSpec, recipe: FullRecipe, images: Dataset, setting: Setting) -> float:
    """Return how long an epoch will take about, with its score, from a few real steps at the last phase's size."""
    device = setting.device
    data = loop.to_device(images, None, device)
    run = full_loop.begin(build(spec, seed=0), recipe, seed=0, device=device)
    few = replace(data, train_labels=data.train_labels[: recipe.batch_size * (2 if setting.small else 20)])
    phase = full_phases(recipe, spec.resolved().resolution)[-1]
    with lane(lane_name(device), alone=True):
        full_loop.train_epoch(run, few, phase, 1)  # the first steps plan their kernels
        seconds = full_loop.train_epoch(run, few, phase, 2).seconds
    each = seconds / full_loop.epoch_steps(len(few.train_labels), recipe) / recipe.batch_size
    # A forward pass is about a third of a step; the file to continue from takes the rest.
    return each * (len(images.train) + len(images.val) / 3) + 0.5


def epochs_in(left: float, each: float, recipe: FullRecipe, setting: Setting) -> int:
    """Return how many epochs fit: no more than the recipe's, and no fewer than it has phases.

    Args:
        left: Seconds. each: Seconds of one epoch of all trainings together.
    """
    if setting.small:
        return recipe.progressive.phases
    return max(recipe.progressive.phases, min(recipe.epochs, int(SHARE * left / each)))


def _train(name: str, spec: ArchSpec, config: TrainConfig, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temp:  # the weights are of no further use
        result = train_network(spec, replace(config, seed=seed, out=Path(temp) / "run"))
    last = result.history[-1]
    print(f"  seed {seed} {name}: {last.val_accuracy:.4f}, {result.summary['seconds']:.0f} s", flush=True)
    return {
        "network": name,
        "seed": seed,
        "accuracy": last.val_accuracy,
        "images_error": last.val_error,
        "best_accuracy": result.val_accuracy,
        "best_epoch": result.best_epoch,
        "seconds": result.summary["seconds"],
        "images_per_second": result.summary["images_per_second"],
        "notes": result.summary["notes"],
        "history": [row.document() for row in result.history],
    }


def whole_seeds(rows: Sequence[Mapping[str, Any]], names: Mapping[str, Any]) -> list[int]:
    """Return the seeds with which every network has been trained."""
    seeds = sorted({row["seed"] for row in rows})
    return [seed for seed in seeds if {row["network"] for row in rows if row["seed"] == seed} == set(names)]


def compared(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Compare trainings with the same seeds: each network's own mean, and the first one's lead, seed by seed.

    Returns:
        Errors are standard errors over seeds, None for one seed. `time_ratio` is the rival's seconds by those of the first.
    """
    by = {name: sorted((row for row in rows if row["network"] == name), key=lambda row: row["seed"]) for name in names}
    first = by[names[0]]
    return {
        "seeds": [row["seed"] for row in first],
        "accuracy": {name: _mean([row["accuracy"] for row in found]) for name, found in by.items()},
        "images_error": {name: statistics.fmean(row["images_error"] for row in found) for name, found in by.items()},
        "images_per_second": {name: _mean([row["images_per_second"] for row in found]) for name, found in by.items()},
        "lead": {
            name: {
                "accuracy": _mean([a["accuracy"] - b["accuracy"] for a, b in zip(first, by[name], strict=True)]),
                "time_ratio": _mean([b["seconds"] / a["seconds"] for a, b in zip(first, by[name], strict=True)]),
            }
            for name in names[1:]
        },
    }


def _mean(values: Sequence[float]) -> dict[str, Any]:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"values": list(values), "mean": statistics.fmean(values), "error": error}


def facts(spec: ArchSpec) -> dict[str, Any]:
    """Return what a network is, in numbers."""
    return {"arch_hash": spec.arch_hash, "resolution": spec.resolution, **count(spec)._asdict()}
