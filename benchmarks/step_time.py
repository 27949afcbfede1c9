"""Can a step time be trusted? Networks of a space timed as a search times them, alone and on a loaded machine, and as a
script would time them, against a long measurement of each.

The long measurement (gold) is wall time, alone: blocks of each network and of the space's baseline in turns, in two passes, one
before the arms and one after them; how well the passes agree is the most that an arm can reach. The arms, in random order:

    alone         the search's protocol, nothing else on the machine
    loaded        the same while another program trains beside it (one thread, outside the lane)
    worker        the same while another worker of a search trains, which the lane keeps apart
    naive_alone   perf_counter around the first training steps, no warm-up, no reference
    naive_loaded  the same while another program trains beside it

Reported for each arm: repeatability within a measurement (MAD / median of its samples) and between repetitions; Kendall's
tau against gold with a 95 % bootstrap interval over networks, also over the pairs of networks alone whose gold differs by
more than 3 %; the mean absolute error after one common factor. `relative` is step time over the baseline's, which is what a
search scores; `ms` the plain figure.

    OMP_NUM_THREADS=1 python -m benchmarks.step_time --networks 12 --repeats 3

Writes `step_time.json` under the results folder of the device, after each measurement; the same command goes on with it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._common import conditions, folder, store, stored
from benchmarks._stats import shuffled
from benchmarks.engines import drawn
from nas import catalog
from nas.cost._conditions import watch
from nas.cost.step_time import elapsed
from nas.devices import lane_name, pick_device
from nas.evaluate import Evaluator, Setup
from nas.lane import lane
from nas.search.config import SearchConfig
from nas.search.session import setup_of
from nas.space import SearchSpace
from nas.spec import ArchSpec
from nas.train import loop
from nas.train.recipes import load_recipe

BESIDE = {"alone": "", "loaded": "program", "worker": "worker", "naive_alone": "", "naive_loaded": "program"}
"""What runs beside the timing, arm by arm."""

CLOSE = 0.03
"""Networks whose gold differs by less are in no certain order."""

Values = dict[int, list[float]]
"""Of each network its repetitions."""


# --- measuring --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """What all arms share."""

    evaluator: Evaluator
    specs: Sequence[ArchSpec]
    steps: int

    def step(self, spec: ArchSpec) -> Callable[[], object]:
        """Return the training step of a network with fresh weights."""
        mine = self.evaluator
        state = loop.start(spec, mine.recipe, mine.device, seed=0)
        return loop.timing_step(state, mine.data, mine.recipe, spec.resolved().resolution)

    def gold(self, spec: ArchSpec, blocks: int) -> dict[str, Any]:
        """Time a network and the baseline for long, in turns, by the wall clock."""
        device = self.evaluator.device
        pair = [self.step(item) for item in (spec, self.evaluator.baseline)]
        with lane(lane_name(device), alone=True):
            for step in pair:
                elapsed(step, 3, device)
            look = watch(device)
            times = [[elapsed(step, 1, device) for step in pair] for _ in range(blocks)]
            seen = look()
        return {
            "ms": statistics.median(own for own, _ in times),
            "relative": statistics.median(own / other for own, other in times),
            "seen": asdict(seen),
            "times": times,
        }

    def searched(self, spec: ArchSpec) -> dict[str, Any]:
        """Time a network as phase 0 of a search does."""
        began = time.perf_counter()
        result = self.evaluator.run_phase(spec, 0, None, seed=0)
        own, reference = (result.measurements[name] for name in ("step_time_ms", "ref_step_time_ms"))
        assert own.conditions is not None
        return {
            "ms": own.value,
            "relative": own.value / reference.value,
            "spread": own.spread / own.value,
            "seen": asdict(own.conditions),
            "seconds": time.perf_counter() - began,
        }

    def naive(self, spec: ArchSpec) -> dict[str, Any]:
        """Time the first steps of a network by the wall clock, as they come."""
        step, times = self.step(spec), []
        for _ in range(self.steps):
            start = time.perf_counter()
            step()
            if self.evaluator.device.type == "cuda":
                torch.cuda.synchronize(self.evaluator.device)
            times.append((time.perf_counter() - start) * 1e3)
        middle = statistics.median(times)
        spread = statistics.median(abs(value - middle) for value in times) / middle
        return {"ms": statistics.fmean(times), "spread": spread, "times": times}


def _beside(setup: Setup, spec: ArchSpec, device: str, kind: str, wanted: Event, at_work: Event) -> None:
    """Train beside the timing while it is wanted: as any program, or as a worker of a search in the lane."""
    torch.set_num_threads(1)
    setup = replace(setup, recipe=replace(setup.recipe, epochs=setup.recipe.epochs / 10))
    mine = setup.evaluator(pick_device(device))
    state = loop.start(spec, mine.recipe, mine.device, seed=0)
    step = loop.timing_step(state, mine.data, mine.recipe, spec.resolved().resolution)
    while True:
        at_work.clear()
        wanted.wait()
        while wanted.is_set():
            at_work.set()
            if kind == "program":
                step()
            else:
                mine.run_phase(spec, 1, None, seed=0)


@contextmanager
def neighbours(setup: Setup, spec: ArchSpec, device: str) -> Iterator[Callable[[str], None]]:
    """Keep a process of each kind; yield what sets one to work, or none."""
    context = multiprocessing.get_context("spawn")
    events = {kind: (context.Event(), context.Event()) for kind in ("program", "worker")}
    processes = [
        context.Process(target=_beside, args=(setup, spec, device, kind, *pair), daemon=True)
        for kind, pair in events.items()
    ]
    for process in processes:
        process.start()

    def work(wanted: str) -> None:
        for kind, (go, busy) in events.items():
            (go.set if kind == wanted else go.clear)()
            while busy.is_set() != (kind == wanted):
                if not all(process.is_alive() for process in processes):
                    raise RuntimeError("the program beside the timing has ended")
                time.sleep(0.01)

    try:
        for kind in events:  # both have started before anything is timed
            work(kind)
        work("")
        yield work
    finally:
        for process in processes:
            process.kill()
            process.join()


# --- figures ----------------------------------------------------------------------------------------------


def order(own: Sequence[float], gold: Sequence[float], apart: float, rows: Sequence[int]) -> float | None:
    """Return Kendall's tau over the pairs of some networks (rows may repeat) whose gold differs by more than a share."""
    agree = [
        np.sign(own[a] - own[b]) * np.sign(gold[a] - gold[b])
        for a, b in combinations(rows, 2)
        if a != b and max(gold[a], gold[b]) > (1 + apart) * min(gold[a], gold[b])
    ]
    return float(np.mean(agree)) if agree else None


def order_interval(found: Values, gold: Sequence[float], apart: float, draws: int = 1000) -> dict[str, Any]:
    """Return the mean tau over repetitions, with its 95 % percentile bootstrap interval over networks."""
    size, repeats = len(gold), min(map(len, found.values()))
    columns = [[found[row][number] for row in range(size)] for number in range(repeats)]

    def mean(rows: Sequence[int]) -> float | None:
        taus = [order(column, gold, apart, rows) for column in columns]
        known = [value for value in taus if value is not None]
        return statistics.fmean(known) if known else None

    rng = np.random.default_rng(0)
    taus = [value for _ in range(draws) if (value := mean(rng.integers(0, size, size).tolist())) is not None]
    low, high = np.quantile(taus, [0.025, 0.975]) if taus else (None, None)
    each = [order(column, gold, apart, range(size)) for column in columns]
    return {
        "tau": mean(range(size)),
        "low": None if low is None else float(low),
        "high": None if high is None else float(high),
        "each": each,
        "networks": size,
    }


def figures(found: Values, gold: Sequence[float]) -> dict[str, Any]:
    """Return order, error and repeatability of one figure of an arm against gold."""
    ratios = {row: np.array(values) / gold[row] for row, values in found.items()}
    scale = np.median(np.concatenate(list(ratios.values())))
    errors = np.concatenate([np.abs(values / scale - 1) for values in ratios.values()])
    between = [np.median(np.abs(np.array(v) - np.median(v))) / np.median(v) for v in found.values()]
    return {
        "tau": order_interval(found, gold, 0.0),
        f"tau_of_pairs_more_than_{CLOSE:.0%}_apart".replace("%", "_percent"): order_interval(found, gold, CLOSE),
        "mean_error": float(errors.mean()),
        "common_factor": float(scale),
        "between_repetitions": float(np.median(between)),
    }


def summary(content: dict[str, Any], networks: int) -> dict[str, Any]:
    """Return the figures of all arms that have been measured."""
    passes = [[content["gold"][f"{turn}/{row}"] for row in range(networks)] for turn in (0, 1)]
    names = ("relative", "ms")
    gold = {name: [statistics.fmean(p[row][name] for p in passes) for row in range(networks)] for name in names}
    answer: dict[str, Any] = {
        "gold": {
            "passes_against_each_other": {
                name: figures({row: [passes[1][row][name]] for row in range(networks)}, [p[name] for p in passes[0]])
                for name in names
            },
            "foreign_load": statistics.median(p["seen"]["foreign_load"] or 0.0 for one in passes for p in one),
        }
    }
    for arm in BESIDE:
        rows = {
            row: [v for k, v in content["rows"].items() if k.split("/")[1:] == [arm, str(row)]]
            for row in range(networks)
        }
        values = [value for row in rows.values() for value in row]
        answer[arm] = {
            name: figures({row: [v[name] for v in found] for row, found in rows.items()}, gold[name])
            for name in names
            if name in values[0]
        }
        answer[arm]["within_a_measurement"] = statistics.median(value["spread"] for value in values)
        if "seen" in values[0]:
            answer[arm]["seconds"] = statistics.median(value["seconds"] for value in values)
            answer[arm]["foreign_load"] = statistics.median(value["seen"]["foreign_load"] or 0.0 for value in values)
            answer[arm]["turns"] = statistics.median(value["seen"]["turns"] for value in values)
            answer[arm]["rejected_turns"] = sum(value["seen"]["rejected"] for value in values)
            answer[arm]["noted"] = sum(bool(value["seen"]["note"]) for value in values)
    return answer


def table(answer: dict[str, Any]) -> None:
    """Print the figures."""
    print(
        f"{'arm':14s} {'figure':9s} {'tau (95 %)':>22s} {'tau > 3 %':>10s} {'error':>7s} {'between':>8s} {'within':>7s}"
    )
    shown = {"gold, 2 passes": answer["gold"]["passes_against_each_other"]} | {arm: answer[arm] for arm in BESIDE}
    for arm, found in shown.items():
        for name in ("relative", "ms"):
            if name not in found:
                continue
            plain, apart = (found[name][key] for key in list(found[name])[:2])
            within = f"{found['within_a_measurement']:7.2%}" if "within_a_measurement" in found else ""
            print(
                f"{arm:14s} {name:9s} {plain['tau']:6.3f} ({plain['low']:.3f} to {plain['high']:.3f}) {apart['tau'] or 0:10.3f} "
                f"{found[name]['mean_error']:7.2%} {found[name]['between_repetitions']:8.2%} {within}"
            )


# --- the run ----------------------------------------------------------------------------------------------


def setup_and_specs(setting: argparse.Namespace, space: SearchSpace) -> tuple[Setup, Evaluator, list[ArchSpec]]:
    """Return the setup of a search on the data, its evaluator, and the networks; the last one runs beside the timing."""
    config = SearchConfig(space=setting.space, data=setting.data)
    setup, data = setup_of(config, space, load_recipe(setting.recipe), lambda done, total: None)
    classes = {"num_classes": data.num_classes, "in_channels": data.in_channels}
    specs = drawn(space, setting.networks + 1, setting.max_params, **classes)
    return setup, setup.evaluator(pick_device(setting.device), data), specs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="v2_tiny")
    parser.add_argument("--data", default="fashion-mnist-subset")
    parser.add_argument("--recipe", default="quick")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--networks", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3, help="of each arm, for each network")
    parser.add_argument("--blocks", type=int, default=20, help="of each network in each of the two passes of gold")
    parser.add_argument("--steps", type=int, default=5, help="first steps that the naive arms time")
    parser.add_argument("--max-params", type=float, default=300e3)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    setting = parser.parse_args()

    device = pick_device(setting.device)
    path = folder(device, setting.out) / "step_time.json"
    head = conditions(device) | {"settings": {k: str(v) for k, v in vars(setting).items() if k != "out"}}
    content = stored(path)
    if any(content.get(name) != head[name] for name in ("settings", "device")):
        content = head | {"gold": {}, "rows": {}}
    setup, evaluator, specs = setup_and_specs(setting, catalog.load_space(setting.space))
    *specs, other = specs
    bench = Bench(evaluator, specs, setting.steps)
    content["networks"] = [spec.arch_hash for spec in specs]

    def gold(turn: int) -> None:
        for row, spec in enumerate(specs):
            if f"{turn}/{row}" not in content["gold"]:
                content["gold"][f"{turn}/{row}"] = bench.gold(spec, setting.blocks)
                store(path, content)
        print(f"gold, pass {turn + 1} of 2", flush=True)

    gold(0)
    with neighbours(setup, other, setting.device) as work:
        for number, arms in enumerate(shuffled(list(BESIDE), setting.repeats)):
            for arm in arms:
                todo = [row for row in range(len(specs)) if f"{number}/{arm}/{row}" not in content["rows"]]
                if not todo:
                    continue
                work(BESIDE[arm])
                measure = bench.naive if arm.startswith("naive") else bench.searched
                for row in np.random.default_rng(number).permutation(todo).tolist():
                    content["rows"][f"{number}/{arm}/{row}"] = measure(specs[row])
                    store(path, content)
                print(f"repetition {number + 1}: {arm}", flush=True)
    gold(1)
    content["answer"] = summary(content, len(specs))
    store(path, content)
    table(content["answer"])
    print(path)


if __name__ == "__main__":
    main()
