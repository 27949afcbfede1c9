"""What do worker processes bring? The same networks, trained and timed by the `local` engine and in turns by `inline`.

Both sides evaluate the same randomly drawn networks of a space, all phases, in one process run, in alternating rounds;
workers are started before the clock is. Reported: trials an hour on each side, their ratio round by round, and whether
any timing overlapped with another phase (from the times at which the device's lane was held).

    python -m benchmarks.engines --devices cpu:2 --networks 6 --rounds 3

Writes `engines.json` under the results folder of the device.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks._common import conditions, folder, store
from nas import catalog
from nas.cost import count
from nas.devices import pick_devices
from nas.engine import Engine, InlineEngine, Job, LocalEngine
from nas.search.config import SearchConfig
from nas.search.session import setup_of
from nas.space import SearchSpace, decode, forbidden, random_choose
from nas.spec import ArchSpec
from nas.train.recipes import load_recipe

Spans = list[tuple[int, tuple[float, float]]]


def drawn(space: SearchSpace, number: int, most_params: float, **classes: int) -> list[ArchSpec]:
    """Return different networks of a space, none forbidden or larger than a limit."""
    rng = random.Random(0)
    found: dict[str, ArchSpec] = {}
    while len(found) < number:
        spec = decode(space, random_choose(rng), **classes)
        if not forbidden(space, spec) and count(spec).params <= most_params:
            found.setdefault(spec.arch_hash, spec)
    return list(found.values())


def evaluate(engine: Engine, specs: list[ArchSpec], num_phases: int) -> tuple[float, Spans]:
    """Run all phases of all networks, and return the seconds that took and when which phase held the lane."""
    began = time.monotonic()
    waiting = iter(specs)
    spans: Spans = []
    flying = 0
    for spec in islice(waiting, engine.slots):
        engine.submit(Job(spec, 0, 0))
        flying += 1
    while flying:
        job, result = engine.next()
        assert result.outcome == "ok", result
        spans += [(job.phase, span) for span in result.lane]
        if job.phase < num_phases:
            engine.submit(Job(job.spec, job.phase + 1, 0))
            continue
        engine.drop(job.key)
        flying -= 1
        for spec in islice(waiting, 1):
            engine.submit(Job(spec, 0, 0))
            flying += 1
    return time.monotonic() - began, spans


def shared(spans: Spans) -> int:
    """Return how many timings overlapped with another phase."""
    return sum(
        any(other is not own and a < d and c < b for other in spans for c, d in [other[1]])
        for own in spans
        if own[0] == 0
        for a, b in [own[1]]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="v2_tiny")
    parser.add_argument("--data", default="fashion-mnist-subset")
    parser.add_argument("--recipe", default="quick")
    parser.add_argument("--devices", default="cpu:2", help="of the local side; the inline side has the first of them")
    parser.add_argument("--networks", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-params", type=float, default=300e3)
    parser.add_argument("--steps", choices=["eager", "graph"], default="eager", help="graph: CUDA graphs of the steps")
    parser.add_argument("--out", type=Path, default=Path("results"))
    setting = parser.parse_args()

    devices = pick_devices(setting.devices)
    space, recipe = catalog.load_space(setting.space), load_recipe(setting.recipe)
    config = SearchConfig(space=setting.space, data=setting.data)
    setup, data = setup_of(config, space, recipe, lambda done, total: None)
    setup = replace(setup, steps=setting.steps)
    classes = {"num_classes": data.num_classes, "in_channels": data.in_channels}
    specs = drawn(space, setting.networks, setting.max_params, **classes)
    threads = max(1, torch.get_num_threads() // len(devices))
    sides: dict[str, Engine] = {
        "inline": InlineEngine(setup.evaluator(devices[0], data)),
        "local": LocalEngine(setup.start, devices, threads=threads, checkpoints=None),
    }
    rounds: list[dict[str, Any]] = []
    path = folder(devices[0], setting.out) / "engines.json"
    head = conditions(devices[0]) | {
        "settings": {name: str(value) for name, value in vars(setting).items()},
        "threads": {"inline": torch.get_num_threads(), "local, each worker": threads},
    }
    try:
        for engine in sides.values():  # all workers of a side have started before the clock does
            evaluate(engine, specs[: engine.slots], 0)
        for number in range(setting.rounds):
            row: dict[str, Any] = {}
            for name in sorted(sides, reverse=bool(number % 2)):  # who goes first changes from round to round
                seconds, spans = evaluate(sides[name], specs, recipe.progressive.phases)
                row[name] = {"trials_per_hour": len(specs) / seconds * 3600, "timings_shared": shared(spans)}
            row["ratio"] = row["local"]["trials_per_hour"] / row["inline"]["trials_per_hour"]
            rounds.append(row)
            print(
                f"round {number + 1}: inline {row['inline']['trials_per_hour']:.0f}, local "
                f"{row['local']['trials_per_hour']:.0f} trials an hour, ratio {row['ratio']:.2f}; timings that were shared: "
                f"{row['inline']['timings_shared']} and {row['local']['timings_shared']} of {len(specs)}",
                flush=True,
            )
            ratios = [row["ratio"] for row in rounds]
            ratio = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
            store(path, head | {"rounds": rounds, "ratio": ratio})
    finally:
        for engine in sides.values():
            engine.close()
    print(f"local over inline: {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}, {len(rounds)} rounds)")
    print(path)


if __name__ == "__main__":
    main()
