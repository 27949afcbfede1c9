"""What does it cost to derive alpha, beta and gamma? `nas scale`'s plan beside the plain grid search of the EfficientNet paper.

- *nas*: what `nas scale` would train for a network with its defaults: the base and `--budget` different networks that cost the
  target as they are built. At most all of them are trained with all seeds (they cannot be told apart), at least the base and the
  three single dimensions are, and the others once; the accuracies decide. Both are given.
- *plain*: every triple on a grid of 0.05, and on one of 0.1, with alpha * beta^2 * gamma^2 within the tolerance of 2 in theory
  (Tan & Le 2019, section 3.3), each trained with all seeds: also where rounding makes two of them one network, or one of
  another cost. *Each once*: the same by one who sees which triples are one network.

Nothing is trained to the end. The step time of each different network is measured in windows of a few real training steps at the
image size of each phase, all networks in random order in each round; the cost of a training is the recipe's steps times that. The
timings that `nas scale` makes (some seconds a training) and the scoring of validation images are not in it.

    python -m benchmarks.scaling_law_cost
    python -m benchmarks.scaling_law_cost --base efficientnet_b0 --resolution 64 --recipe standard --steps 5 --rounds 5

Writes `scaling_law_cost.json` under the results folder of the device, anew after each round.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks._common import conditions, folder, store
from benchmarks._stats import median_interval, shuffled
from nas import catalog
from nas.cost import count
from nas.data import BUILTIN, load
from nas.devices import lane_name, pick_device
from nas.lane import lane
from nas.scale.compound import Coefficients, Rules, at
from nas.scale.config import ScaleConfig
from nas.scale.grid import SINGLE, choose, grid
from nas.scale.work import REACH
from nas.spec import ArchSpec
from nas.train import loop
from nas.train.recipes import Recipe, load_recipe
from nas.train.schedule import Phase, phases

WINNER = Path(__file__).resolve().parents[1] / "results" / "published" / "v2_tiny-200" / "winner.yaml"

Trainings = Counter[str]
"""How often each network is trained, by its hash."""


@dataclass(frozen=True)
class Plan:
    """What an arm trains.

    Args:
        trainings: How often each network. off_target: Networks, each once, whose multiply-adds as built miss the target by more
            than 15 %. triples: Points of the grid behind them. repeated: Those that build a network that an earlier one builds.
    """

    trainings: Trainings
    off_target: int
    triples: int
    repeated: int


def nas_plans(base: ArchSpec, config: ScaleConfig, specs: dict[str, ArchSpec]) -> dict[str, Plan]:
    """Return what `nas scale` trains at most and at least; `specs` is filled."""
    found = grid(
        base,
        config.rules(),
        target=config.target,
        tolerance=config.tolerance,
        step=config.grid_step,
        gamma_too=True,
        reach=REACH,
    )
    points = choose(found, lambda point: point.macs, within=config.within, budget=config.budget).points
    specs |= {base.arch_hash: base} | {point.spec.arch_hash: point.spec for point in points}
    most = Counter({base.arch_hash: config.seeds} | {point.spec.arch_hash: config.seeds for point in points})
    again = {point.spec.arch_hash for point in points if point.kind in SINGLE} | {base.arch_hash}
    least = Counter({name: config.seeds if name in again else 1 for name in most})
    off = sum(abs(point.macs / config.target - 1) > config.within for point in points)
    return {
        "nas, at most": Plan(most, off, len(points), 0),
        "nas, at least": Plan(least, off, len(points), 0),
    }


def plain_plan(base: ArchSpec, config: ScaleConfig, step: float, specs: dict[str, ArchSpec]) -> Plan:
    """Return what a grid search trains that believes in the theory; `specs` is filled."""
    values = [
        round(1 + index * step, 6) for index in range(int((config.target + config.tolerance - 1) / step + 1e-9) + 1)
    ]
    surface = [
        Coefficients(*triple)
        for triple in itertools.product(values, repeat=3)
        if abs(triple[0] * triple[1] ** 2 * triple[2] ** 2 - config.target) <= config.tolerance + 1e-9
    ]
    built = []
    for item in surface:
        spec = at(base, depth=item.alpha, width=item.beta, resolution=item.gamma, rules=Rules())
        specs.setdefault(spec.arch_hash, spec)
        built.append(spec.arch_hash)
    own = count(base).macs
    off = sum(abs(count(specs[name]).macs / own / config.target - 1) > config.within for name in set(built))
    trainings = Counter({name: times * config.seeds for name, times in Counter(built).items()})
    return Plan(trainings, off, len(surface), len(surface) - len(set(built)))


def step_seconds(spec: ArchSpec, recipe: Recipe, data: loop.DeviceData, phase: Phase, steps: int) -> float:
    """Return the seconds of one training step of a network, of a window after a step that is not counted."""
    state = loop.start(spec, recipe, data.device, seed=0)
    state.network.train()
    generator = torch.Generator(device=data.device).manual_seed(0)
    order = loop.batches(len(data.train_labels), recipe.batch_size, steps + 1, generator)
    began = 0.0
    for number, index in enumerate(order):
        if number == 1:
            _synchronize(data.device)
            began = time.perf_counter()
        images, targets = loop.make_batch(data, index, recipe, phase, generator)
        loop.train_step(state, images, targets, recipe)
    _synchronize(data.device)
    return (time.perf_counter() - began) / steps


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def training_seconds(spec: ArchSpec, recipe: Recipe, data: loop.DeviceData, steps: int) -> float:
    """Return what a training by a recipe takes, by the step time in each of its phases."""
    plan = phases(recipe.progressive, spec.resolved().resolution, recipe.epochs)
    images = len(data.train_labels)
    return sum(
        loop.phase_steps(images, recipe, phase) * step_seconds(spec, recipe, data, phase, steps) for phase in plan
    )


def compared(plans: dict[str, Plan], rounds: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Return the hours of each plan and the ratios to those of nas, round by round, with medians and intervals."""
    hours = {
        name: [sum(times * row[key] for key, times in plan.trainings.items()) / 3600 for row in rounds]
        for name, plan in plans.items()
    }
    ratios = {
        f"{name} / {own}": median_interval([one / other for one, other in zip(hours[name], hours[own], strict=True)])
        for name in plans
        for own in plans
        if name.startswith("plain") and own.startswith("nas")
    }
    return {"hours": {name: median_interval(values) for name, values in hours.items()}, "ratios": ratios}


def _printed(plans: dict[str, Plan], found: dict[str, Any]) -> None:
    print(
        f"{'arm':22s} {'triples':>7s} {'networks':>8s} {'repeated':>8s} {'off by 15 %':>11s} {'trainings':>9s} {'hours':>8s}"
    )
    for name, plan in plans.items():
        print(
            f"{name:22s} {plan.triples:7d} {len(plan.trainings):8d} {plan.repeated:8d} {plan.off_target:11d} "
            f"{plan.trainings.total():9d} {found['hours'][name]['median']:8.2f}"
        )
    for name, ratio in found["ratios"].items():
        low, high = ratio["low"] or math.nan, ratio["high"] or math.nan
        print(f"{name}: {ratio['median']:.2f} ({low:.2f} to {high:.2f}, {ratio['n']} rounds)")


def main(arguments: list[str] | None = None) -> Path:
    """Measure, print, and return the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default=str(WINNER), help="the network that is scaled: a name or a YAML file")
    parser.add_argument("--resolution", type=int, help="of the base, in pixels, in place of its own")
    parser.add_argument("--data", default=BUILTIN)
    parser.add_argument("--recipe", default="quick")
    parser.add_argument("--batch-size", type=int, help="in place of the recipe's; smaller is quicker, and another cost")
    parser.add_argument("--budget", type=int, default=ScaleConfig().budget, help="as of nas scale")
    parser.add_argument("--seeds", type=int, default=ScaleConfig().seeds, help="of each training, on every side")
    parser.add_argument("--grid-steps", default="0.05,0.1", help="of the plain grids")
    parser.add_argument("--steps", type=int, default=3, help="in a window, for each network, phase and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    setting = parser.parse_args(arguments)

    torch.set_num_threads(setting.threads)
    device = pick_device(setting.device)
    recipe = load_recipe(setting.recipe)
    recipe = replace(recipe, batch_size=setting.batch_size or recipe.batch_size)
    config = ScaleConfig(budget=setting.budget, seeds=setting.seeds)
    named = catalog.load_arch(setting.base)
    if setting.resolution is not None:
        named = replace(named, resolution=setting.resolution, resolution_mult=1.0)
    largest = round(named.resolved().resolution * math.sqrt(config.target) * REACH)
    images = load(setting.data, resolution=largest)
    base = replace(named, num_classes=images.num_classes, in_channels=images.in_channels)
    specs: dict[str, ArchSpec] = {}
    plans = nas_plans(base, config, specs)
    for step in map(float, setting.grid_steps.split(",")):
        plain = plans[f"plain, {step:g}"] = plain_plan(base, config, step, specs)
        each = Counter(dict.fromkeys(plain.trainings, config.seeds))
        plans[f"plain, {step:g}, each once"] = replace(plain, trainings=each)
    data = loop.to_device(images, recipe, device)
    path = folder(device, setting.out) / "scaling_law_cost.json"
    content: dict[str, Any] = {
        "conditions": conditions(device),
        "command": "python -m benchmarks.scaling_law_cost "
        + " ".join(sys.argv[1:] if arguments is None else arguments),
        "settings": {name: str(value) for name, value in vars(setting).items()},
        "recipe": recipe.document(),
        "macs": {name: count(spec).macs for name, spec in specs.items()},
        "plans": {name: vars(plan) for name, plan in plans.items()},
    }
    rounds: list[dict[str, float]] = []
    for number, order in enumerate(shuffled(list(specs), setting.rounds), 1):
        began = time.monotonic()
        with lane(lane_name(device), alone=True):
            rounds.append({name: training_seconds(specs[name], recipe, data, setting.steps) for name in order})
        found = compared(plans, rounds)
        store(path, content | {"training_seconds": rounds, "result": found})
        print(
            f"round {number} of {setting.rounds}: {len(specs)} networks, {time.monotonic() - began:.0f} s", flush=True
        )
    _printed(plans, found)
    print(path)
    return path


if __name__ == "__main__":
    main()
