"""How many trainings does each sampler need for a front of accuracy against a cost? Compared by hypervolume, on trained networks.

    python -m benchmarks.fronts --seeds 20
    python -m benchmarks.fronts --samplers arch gp --seeds 5 --budget 100

Nothing is trained: what a training shows is looked up in tables of networks that others trained, in the folder `--data-dir`.
`macro` is NAS-Bench-Macro (Su et al. 2021), accuracy of one seed of three against multiply-adds, which are known before a
training; `nb201` is NAS-Bench-201 (Dong & Yang 2020), validation accuracy on CIFAR-10 against the latency that HELP (Lee et al.
2021) measured on a Titan RTX, which only a measurement tells. Both are judged by true values: the mean of all seeds, and the test
accuracy.

Arms: every sampler of `nas search --objective pareto`, and `optuna`: `TPESampler(seed=...)` as it is, with every choice a
category. All see the same value of a network in a seed. How to read it:
- Hypervolume is accuracy x ln(cost) against the true front's worst accuracy and highest cost, both a tenth of the front's range
  further out. Regret = 1 - hypervolume / that of the true front.
- `picked` is of the networks on the front by what the search saw, by their true values: what a user takes home. `trained` is of
  all networks trained. What is between the two is lost to noise.
- Needed: networks after which the mean regret is for the first time no more than that of `optuna` after the whole budget, with
  the 95 % bootstrap interval over the seeds (Efron & Tibshirani 1993, section 13.3).
- The budget counts different networks; repeated suggestions cost none and are listed. Seconds: processor time of a suggestion,
  median of the last ten.

Every search is stored as it ends, under its task, sampler, budget and seed, so the command goes on where it was cut off and adds
to what is there. Tasks and arms take turns in an order drawn at random. A sampler that has changed needs another --out. Writes
`fronts.json` under the results folder of the device.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from benchmarks._common import conditions, folder, store, stored
from benchmarks._stats import shuffled
from nas.front import Point, front, hypervolume
from nas.search.samplers import FRONTS
from nas.search.samplers.known import Known, Params

DATA = Path("../shared/data")
OPTUNA = "optuna"
BUDGETS = (25, 50, 100, 150, 200)
PATIENCE = 10
"""So many suggestions per network of the budget end a search that does not find enough different ones."""

MARGIN = 0.1
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Task:
    """A table of trained networks.

    Args:
        known: What a sampler may know. cost: Name of the cost.
        rows: Place of a network's row. seen: (n, s), accuracies that a search may see, one of which is drawn. true: (n,).
        costs: (n,). reference, whole: Of the true front, and its hypervolume.
    """

    known: Known
    cost: str
    rows: Mapping[Any, int]
    seen: Array
    true: Array
    costs: Array
    reference: Point
    whole: float


def macro(data: Path) -> Task:
    """Eight layers of three operations; multiply-adds are known."""
    with np.load(data / "nas_bench_macro.npz") as file:
        x, accuracy, flops = (file[name] for name in ("x", "test_acc", "flops"))
    distributions = {f"layer{place}": IntDistribution(0, 2) for place in range(x.shape[1])}
    return _task(
        distributions, [tuple(map(int, row)) for row in x], accuracy / 100, accuracy.mean(1) / 100, "flops", flops, True
    )


def nb201(data: Path) -> Task:
    """Six edges of five operations, without order; the latency is not known before it is measured."""
    with np.load(data / "nb201.npz") as file:
        x, accuracy, latency = file["x"], file["acc"] / 100, file["lat"]
        ops, columns, devices = (list(map(str, file[name])) for name in ("ops", "acc_names", "lat_names"))
    return _task(
        {f"edge{place}": CategoricalDistribution(ops) for place in range(x.shape[1])},
        [tuple(ops[place] for place in row) for row in x],
        accuracy[:, [columns.index("cifar10-val")]],
        accuracy[:, columns.index("cifar10-test")],
        "latency_ms",
        latency[:, devices.index("titan_rtx_256")],
        False,
    )


TASKS: Mapping[str, Callable[[Path], Task]] = {"macro": macro, "nb201": nb201}


def _task(
    distributions: Mapping[str, BaseDistribution],
    networks: Sequence[tuple[Any, ...]],
    seen: Array,
    true: Array,
    cost: str,
    costs: Array,
    is_known: bool,
) -> Task:
    rows = {network: place for place, network in enumerate(networks)}
    names, everything = tuple(distributions), frozenset(distributions)

    def network(params: Params) -> tuple[Any, ...]:
        return tuple(params[name] for name in names)

    logs = np.log(costs)
    known = Known(
        distributions,
        network,
        active=lambda params: everything,
        cost=lambda params: {cost: float(logs[rows[network(params)]])} if is_known else {},
    )
    points = [(float(accuracy), float(value)) for accuracy, value in zip(true, costs, strict=True)]
    best = [points[place] for place in front(points)]
    accuracies, ends = [item[0] for item in best], np.log([item[1] for item in best])
    reference = (
        min(accuracies) - MARGIN * (max(accuracies) - min(accuracies)),
        float(np.exp(ends.max() + MARGIN * np.ptp(ends))),
    )
    return Task(known, cost, rows, seen, true, costs, reference, hypervolume(best, reference))


@lru_cache(4)
def task(name: str, data: Path) -> Task:
    """Return a task by name, made once."""
    return TASKS[name](data)


def searched(task: Task, arm: str, seed: int, budget: int) -> dict[str, Any]:
    """Search a task once.

    Returns:
        `picked`, `trained`: regret after each network. `networks`, `asks`: different ones, and suggestions. `seconds`: of a
        suggestion at the end.
    """
    sampler = optuna.samplers.TPESampler(seed=seed) if arm == OPTUNA else FRONTS[arm](seed, task.known)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    study.set_metric_names(["val_accuracy", task.cost])
    choices = {name: _asked(arm, item) for name, item in task.known.distributions.items()}
    seen: dict[Any, Point] = {}
    true: list[Point] = []
    curves: dict[str, list[float]] = {"picked": [], "trained": []}
    seconds: list[float] = []
    asks = 0
    while len(seen) < budget and asks < PATIENCE * budget:
        before = time.process_time()
        trial = study.ask(choices)
        seconds.append(time.process_time() - before)
        asks += 1
        network = task.known.network(trial.params)
        if network not in seen:
            row = task.rows[network]
            drawn = np.random.default_rng([seed, zlib.crc32(repr(network).encode())]).integers(task.seen.shape[1])
            seen[network] = (float(task.seen[row, drawn]), float(task.costs[row]))
            true.append((float(task.true[row]), float(task.costs[row])))
            picked = [true[place] for place in front(list(seen.values()))]
            for name, points in (("picked", picked), ("trained", true)):
                curves[name].append(round(1 - hypervolume(points, task.reference) / task.whole, 6))
        study.tell(trial, seen[network])
    return {**curves, "networks": len(seen), "asks": asks, "seconds": statistics.median(seconds[-10:])}


def _asked(arm: str, item: BaseDistribution) -> BaseDistribution:
    if arm == OPTUNA and isinstance(item, IntDistribution):
        return CategoricalDistribution(tuple(range(item.low, item.high + 1)))
    return item


# --- what it shows ----------------------------------------------------------------------------------------


def curves(runs: Mapping[int, Mapping[str, Any]], name: str, budget: int) -> Array:
    """Return regrets by seed and number of networks; a search that ended early stays as good as it was."""
    return np.array([[*run[name], *[run[name][-1]] * budget][:budget] for run in runs.values()])


def needed(regret: Array, rival: Array, draws: int = 1000) -> dict[str, int | None]:
    """Return after how many networks mean regret is no more than the rival's at its end, with an interval over the seeds.

    Returns:
        `networks`, `low`, `high`: None where the budget is not enough.
    """
    never = regret.shape[1] + 1

    def reached(ours: Array, theirs: Array) -> int:
        there = np.flatnonzero(ours.mean(0) <= theirs[:, -1].mean())
        return int(there[0]) + 1 if len(there) else never

    rng = np.random.default_rng(0)
    drawn = [
        reached(regret[rng.integers(0, len(regret), len(regret))], rival[rng.integers(0, len(rival), len(rival))])
        for _ in range(draws)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975], method="nearest")
    found = {"networks": reached(regret, rival), "low": int(low), "high": int(high)}
    return {name: None if value == never else value for name, value in found.items()}


def summary(runs: Mapping[str, Mapping[int, Mapping[str, Any]]], budget: int) -> dict[str, Any]:
    """Return the figures of each arm on one task."""
    rows: dict[str, Any] = {}
    for arm, found in runs.items():
        rows[arm] = {"seeds": len(found), "seconds": statistics.median(run["seconds"] for run in found.values())}
        rows[arm]["duplicates_share"] = 1 - sum(run["networks"] for run in found.values()) / sum(
            run["asks"] for run in found.values()
        )
        for name in ("picked", "trained"):
            regret = curves(found, name, budget)
            errors = regret.std(0, ddof=1) / len(regret) ** 0.5 if len(regret) > 1 else np.full(budget, np.nan)
            rows[arm][name] = {
                str(at): {"mean": float(regret.mean(0)[at - 1]), "error": float(errors[at - 1])}
                for at in BUDGETS
                if at <= budget
            }
            if OPTUNA in runs:
                rows[arm][f"needed_{name}"] = needed(regret, curves(runs[OPTUNA], name, budget))
    return rows


def table(name: str, rows: Mapping[str, Any], budget: int) -> str:
    """Return the figures of one task as lines, the best arm first."""
    marks = [at for at in BUDGETS if at <= budget]
    lines = [
        f"{name}: regret of the picked front, mean ± standard error; in brackets that of all trained",
        f"{'sampler':9s} seeds "
        + " ".join(f"{at:>23d}" for at in marks)
        + f"  {'needed (of trained)':>34s}  again      ms",
    ]
    for arm, row in sorted(rows.items(), key=lambda pair: pair[1]["picked"][str(marks[-1])]["mean"]):
        cells = [
            f"{row['picked'][str(at)]['mean']:.4f} ±{row['picked'][str(at)]['error']:.4f} ({row['trained'][str(at)]['mean']:.4f})"
            for at in marks
        ]
        known = f"{_needed(row, 'picked')} ({_needed(row, 'trained')})" if "needed_picked" in row else "-"
        lines.append(
            f"{arm:9s} {row['seeds']:5d} "
            + " ".join(f"{cell:>23s}" for cell in cells)
            + f"  {known:>34s} {row['duplicates_share']:6.1%} {row['seconds'] * 1e3:7.1f}"
        )
    return "\n".join([*lines, ""])


def _needed(row: Mapping[str, Any], name: str) -> str:
    words = ["over" if value is None else str(value) for value in row[f"needed_{name}"].values()]
    return f"{words[0]} [{words[1]}, {words[2]}]"


def main(arguments: list[str] | None = None) -> None:
    """Search what is not stored yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arms = [OPTUNA, *FRONTS]
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--samplers", nargs="+", default=[arm for arm in arms if arm != "gp"], choices=arms)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--budget", type=int, default=BUDGETS[-1], help="different networks (default: %(default)s)")
    parser.add_argument("--data-dir", type=Path, default=DATA, help="folder of the tables (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    options = parser.parse_args(arguments)

    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    device = torch.device("cpu")
    path = folder(device, options.out) / "fronts.json"
    before = stored(path)
    runs: dict[str, Any] = before.get("runs", {})
    tasks: dict[str, Any] = before.get("tasks", {})
    there: list[str] = []
    for name in options.tasks:
        try:
            found = task(name, options.data_dir)
        except FileNotFoundError as error:
            print(f"{name}: skipped, for {error.filename} is not there. Name the folder of the tables with --data-dir.")
            continue
        tasks[name] = {"cost": found.cost, "reference": found.reference, "hypervolume": found.whole}
        there.append(name)
    pairs = [f"{name}/{arm}" for name in there for arm in options.samplers]
    for seed, order in enumerate(shuffled(pairs, options.seeds)):
        for pair in order:
            name, arm = pair.split("/")
            key = f"{pair}/{options.budget}/{seed}"
            if key in runs:
                continue
            runs[key] = searched(task(name, options.data_dir), arm, seed, options.budget)
            store(path, {**conditions(device), "tasks": tasks, "runs": runs})
            print(f"{key}: regret {runs[key]['picked'][-1]:.4f}", flush=True)
    content = {**conditions(device), "tasks": tasks, "summary": _figures(runs), "runs": runs}
    store(path, content)
    for name in tasks:
        for budget, rows in content["summary"].get(name, {}).items():
            print(table(f"{name}, {budget} networks", rows, int(budget)))
    print(f"stored in {path}")


def _figures(runs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of all searches by task, budget and arm."""
    groups: dict[str, dict[str, dict[str, dict[int, Any]]]] = {}
    for key, run in runs.items():
        name, arm, budget, seed = key.split("/")
        groups.setdefault(name, {}).setdefault(budget, {}).setdefault(arm, {})[int(seed)] = run
    return {
        name: {budget: summary(found, int(budget)) for budget, found in budgets.items()}
        for name, budgets in groups.items()
    }


if __name__ == "__main__":
    main()
