"""Does a quick proxy put networks into the order that a long training does? Kendall's tau, for ours and for the plain one.

The same randomly drawn networks are trained briefly by each arm and at length by a neutral training: constant at the final
image size, ten times the plain proxy's passes or more, by the plain code of `benchmarks.plain`, which is the rival's own. Each
training has several seeds. Reported: tau of each arm's accuracy with the long training's mean, with a bootstrap interval
over the networks; the ceiling, tau of one seed of the same proxy with another; and how far one arm is from another in
the same draws. A proxy that is quicker but puts networks into another order is a loss.

    python -m benchmarks.fidelity --data cifar10-train.parquet --networks 12 --workers 2

Every training is stored as it ends, under its recipe, so the command goes on where it was cut off; accuracies depend on seeds and
not on the machine's load, so it may run beside other work. Writes `fidelity.json` under the results folder of the device.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import random
import statistics
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._common import conditions, folder, settings, store, stored
from benchmarks._stats import tau
from benchmarks.plain import PlainTraining, Way
from nas import catalog
from nas.cost import count
from nas.data import load
from nas.devices import pick_device
from nas.space import decode, forbidden, random_choose
from nas.spec import ArchSpec
from nas.train import loop
from nas.train.recipes import Recipe, load_recipe
from nas.train.schedule import Progressive, phases

TRUTH = "truth"


def drawn(space_name: str, number: int, most_macs: float, **classes: int) -> list[ArchSpec]:
    """Return different networks of a space at random, none forbidden or with more multiply-adds than a limit."""
    space, rng = catalog.load_space(space_name), random.Random(0)
    found: dict[str, ArchSpec] = {}
    while len(found) < number:
        spec = decode(space, random_choose(rng), **classes)
        if not forbidden(space, spec) and count(spec).macs <= most_macs:
            found.setdefault(spec.arch_hash, spec)
    return list(found.values())


def recipes(ours: Recipe, others: list[str], long: float, long_images: int) -> dict[str, Recipe]:
    """Return the recipe of each arm: ours, ours in other forms, the plain one, and the long training."""
    constant = replace(ours, progressive=Progressive(1, (1.0, 1.0)))
    return {
        "nas": ours,
        **{f"nas {Path(name).stem}": load_recipe(name) for name in others},
        "plain": constant,
        TRUTH: replace(constant, epochs=ours.epochs * long, train_images=long_images),
    }


def mark(document: Mapping[str, Any]) -> str:
    """Return what tells a recipe from others, also of the same name: the beginning of its document's hash."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:8]


def kept(content: Mapping[str, Any], arms: Mapping[str, Recipe]) -> dict[str, Any]:
    """Return the trainings of a file by arm, recipe, network and seed.

    The keys of older files lack the recipe. It is in the file where that was finished; else it is taken for today's.
    """
    documents = content.get("recipes", {name: recipe.document() for name, recipe in arms.items()})
    found = {}
    for key, row in content.get("trainings", {}).items():
        arm, *rest = key.split("/")
        if len(rest) == 2 and arm in documents:
            key = "/".join((arm, mark(documents[arm]), *rest))
        found[key] = row
    return found


def trained(
    spec: ArchSpec, recipe: Recipe, arm: str, source: str, val_images: int, device_name: str, seed: int
) -> dict[str, Any]:
    """Train one network by one arm, and return its accuracy (ours: after each phase)."""
    torch.set_num_threads(1)
    device = pick_device(device_name)
    data = load(source, resolution=spec.resolved().resolution)
    recipe = replace(recipe, val_images=val_images)
    if not arm.startswith("nas"):
        training = PlainTraining(spec, data, recipe, device, Way(channels_last=True, resident=arm == TRUTH), seed)
        training.train()
        return {"accuracy": training.score(), "steps": training.steps}
    there = loop.to_device(data, recipe, device)
    state = loop.start(spec, recipe, device, seed)
    found = [
        loop.train_phase(state, there, recipe, phase)
        for phase in phases(recipe.progressive, spec.resolved().resolution, recipe.epochs)
    ]
    return {
        "accuracy": found[-1].val_accuracy,
        "phase_accuracy": [item.val_accuracy for item in found],
        "train_loss": found[-1].train_loss,
        "steps": [item.steps for item in found],
    }


def table(done: dict[str, Any], hashes: list[str], arms: dict[str, int], draws: int = 2000) -> dict[str, Any]:
    """Return tau of each arm, with intervals over the networks, from the stored accuracies.

    Args:
        done: Trainings by arm, network and seed. arms: Their names, and how many seeds each has.
    """
    accuracy = {
        arm: np.array([[done[f"{arm}/{name}/{seed}"]["accuracy"] for seed in range(seeds)] for name in hashes])
        for arm, seeds in arms.items()
    }
    truth = accuracy[TRUTH].mean(1)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(hashes), (draws, len(hashes)))

    def of(arm: str, picked: np.ndarray[Any, Any]) -> float:
        """Mean over the seeds of tau between one seed's accuracy, which is what a search sees, and the truth."""
        return statistics.fmean(tau(accuracy[arm][picked, seed], truth[picked]) for seed in range(arms[arm]))

    everything = np.arange(len(hashes))
    sampled = {arm: np.array([of(arm, row) for row in rows]) for arm in arms if arm != TRUTH}
    found: dict[str, Any] = {}
    for arm in arms:
        found[arm] = {
            "seeds": arms[arm],
            "accuracy": float(accuracy[arm].mean()),
            "network_spread": float(accuracy[arm].mean(1).std(ddof=1)),
        }
        pairs = [(a, b) for a in range(arms[arm]) for b in range(a)]
        if pairs:
            found[arm] |= {
                "seed_spread": float(np.sqrt(accuracy[arm].var(1, ddof=1).mean())),
                "ceiling": statistics.fmean(tau(accuracy[arm][:, a], accuracy[arm][:, b]) for a, b in pairs),
            }
        if arm == TRUTH:
            continue
        difference = sampled[arm] - sampled["plain"]
        found[arm] |= {
            "tau": of(arm, everything),
            "tau_interval": [float(value) for value in np.nanquantile(sampled[arm], [0.025, 0.975])],
            "tau_over_plain": of(arm, everything) - of("plain", everything),
            "tau_over_plain_interval": [float(value) for value in np.nanquantile(difference, [0.025, 0.975])],
        }
    return found


def main(arguments: list[str] | None = None) -> None:
    """Train what is not stored yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="v2_tiny")
    parser.add_argument("--data", default="fashion-mnist-subset")
    parser.add_argument("--recipe", default="quick", help="of the proxy")
    parser.add_argument(
        "--also", action="append", default=[], metavar="FILE.yaml", help="another recipe, as an arm more"
    )
    parser.add_argument("--networks", type=int, default=12)
    parser.add_argument("--max-macs", type=float, default=3e6)
    parser.add_argument("--long", type=float, default=10.0, help="passes of the long training over those of the proxy")
    parser.add_argument(
        "--long-images", type=int, help="training images of the long training; the proxy's unless given"
    )
    parser.add_argument("--val-images", type=int, default=5000)
    parser.add_argument("--seeds", type=int, default=2, help="of each proxy")
    parser.add_argument("--long-seeds", type=int, default=1, help="of the long training")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=1, help="trainings at a time, of one CPU thread each")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    options = parser.parse_args(arguments)

    device = pick_device(options.device)
    ours = load_recipe(options.recipe)
    arms = recipes(ours, options.also, options.long, options.long_images or ours.train_images)
    first = load(options.data, resolution=catalog.load_space(options.space).largest_input)
    specs = drawn(
        options.space, options.networks, options.max_macs, num_classes=first.num_classes, in_channels=first.in_channels
    )
    hashes = [spec.arch_hash for spec in specs]
    path = folder(device, options.out) / "fidelity.json"
    asked = {name: value for name, value in settings(options).items() if name not in ("workers", "also")}
    content = stored(path)
    if content.get("settings", asked) != asked:
        raise SystemExit(
            f"{path}: holds figures of other settings ({content['settings']}). Move it away, or give --out."
        )
    done = kept(content, arms)
    seeds = {name: options.long_seeds if name == TRUTH else options.seeds for name in arms}
    marks, jobs = {name: mark(recipe.document()) for name, recipe in arms.items()}, {}
    with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for seed in range(max(seeds.values())):
            for arm in (name for name in arms if seed < seeds[name]):
                for spec in specs:
                    key = f"{arm}/{marks[arm]}/{spec.arch_hash}/{seed}"
                    if key not in done:
                        given = (spec, arms[arm], arm, options.data, options.val_images, options.device, seed)
                        jobs[pool.submit(trained, *given)] = key
        for number, job in enumerate(as_completed(jobs), 1):
            done[jobs[job]] = job.result()
            store(path, conditions(device) | {"settings": asked, "trainings": done})
            print(f"{number}/{len(jobs)} {jobs[job]}: {job.result()['accuracy']:.4f}", flush=True)
    todays = {
        f"{arm}/{name}/{seed}": done[f"{arm}/{marks[arm]}/{name}/{seed}"]
        for arm in arms
        for name in hashes
        for seed in range(seeds[arm])
    }
    rows = table(todays, hashes, seeds)
    content = conditions(device) | {
        "settings": asked,
        "data": {"name": first.name, "fingerprint": first.fingerprint},
        "recipes": {name: recipe.document() for name, recipe in arms.items()},
        "networks": {
            name: {"macs": count(spec).macs, "params": count(spec).params}
            for name, spec in zip(hashes, specs, strict=True)
        },
        "arms": rows,
        "trainings": done,
    }
    store(path, content)
    for name, row in rows.items():
        known = (
            f"tau {row['tau']:.3f} {row['tau_interval']}, over plain {row['tau_over_plain']:+.3f}"
            if "tau" in row
            else ""
        )
        ceiling = f"ceiling {row['ceiling']:.3f}" if "ceiling" in row else ""
        print(f"{name:20s} accuracy {row['accuracy']:.4f}  {ceiling}  {known}")


if __name__ == "__main__":
    main()
