"""How many trainings does each sampler need? All of them on the same tasks, against Optuna's default as a user writes it.

Every sampler that `nas search` knows by name, and `optuna`: `TPESampler(seed=...)` as it is, with every choice a category. Each
searches each task with many seeds, by ask and tell in a study in memory. Nothing is trained: what a training would show is looked
up in tables of trained networks, or computed in made tasks (`benchmarks/_sampler_tasks.py` says what is real and what is made).

    python -m benchmarks.samplers --samplers random optuna tpe evolution local --seeds 20
    python -m benchmarks.samplers --samplers gp --seeds 8 --budget 100

How to read it:
- The budget counts different permitted networks. Repeated and forbidden suggestions cost none; their shares are listed. A search
  that has asked five times its budget ends, and stays as good as it was.
- A forbidden suggestion ends as pruned and tells by how much it breaks the limit, as in `nas search`.
- What a network shows in a seed is the same for all samplers.
- A search picks the network with the best value seen. Regret = (optimum - true score of the pick) / (optimum - mean true score):
  0 is the best network, 1 a random one. Regret of the best = the same of the best network among those seen, picked or not;
  what is between the two is lost to noise. Mean over seeds, with its standard error.
- Needed: the number of networks after which a sampler's mean regret is for the first time no more than that of `optuna` after
  200, with the 95 % bootstrap interval over the seeds (Efron & Tibshirani 1993, section 13.3).
- Seconds: processor time of a suggestion, the median around the 25th, 100th and 200th network; as a ratio to `random` of the
  same seed too.
- With --pending 3, three more trials are running whenever one is suggested, as with four workers.

Every search is stored as it ends, under its task, sampler, pending trials and seed, so the command goes on where it was cut off,
and adds to what is there. A sampler that has changed since needs another --out. Writes `samplers.json` under the results
folder of the device.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
import warnings
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import TrialState

from benchmarks._common import conditions, folder, store, stored
from benchmarks._sampler_tasks import DATA, TASKS, Task, task
from benchmarks._stats import median_interval, shuffled
from nas.search.samplers import SAMPLERS

OPTUNA = "optuna"
BUDGETS = (25, 50, 100, 150, 200)
TIMED = (25, 100, 200)
PATIENCE = 5
"""So many suggestions per network of the budget end a search that does not find enough different ones."""


def sampler(arm: str, task: Task, seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=seed) if arm == OPTUNA else SAMPLERS[arm](seed, task.known)


def asked(arm: str, task: Task) -> dict[str, BaseDistribution]:
    """Return the choices as the arm's user writes them: categories of everything for Optuna's default."""
    if arm != OPTUNA:
        return dict(task.known.distributions)
    return {
        name: CategoricalDistribution(tuple(range(item.low, item.high + 1)))
        if isinstance(item, IntDistribution)
        else item
        for name, item in task.known.distributions.items()
    }


def searched(task: Task, arm: str, seed: int, budget: int, pending: int) -> dict[str, Any]:
    """Search a task once.

    Returns:
        `networks`: how many different ones it trained. `asks`, `duplicates`, `forbidden`: suggestions. `picks`: after how many
        networks the pick changed, and its true score; `bests`: likewise of the best true score so far. `seconds`: of a
        suggestion, around each of `TIMED`.
    """
    study = optuna.create_study(direction="maximize", sampler=sampler(arm, task, seed))
    choices = asked(arm, task)
    flying: deque[optuna.Trial] = deque()
    seen: dict[Any, float] = {}
    counts = {"asks": 0, "duplicates": 0, "forbidden": 0}
    picks: list[tuple[int, float]] = []
    bests: list[tuple[int, float]] = []
    seconds: dict[int, list[float]] = {mark: [] for mark in TIMED if mark <= budget}
    best = -np.inf
    while len(seen) < budget and counts["asks"] < PATIENCE * budget:
        while len(flying) <= pending:
            before = time.process_time()
            flying.append(study.ask(choices))
            took = time.process_time() - before
            for mark in seconds:
                if mark - 5 <= len(seen) < mark:
                    seconds[mark].append(took)
        trial = flying.popleft()
        counts["asks"] += 1
        network = task.known.network(trial.params)
        if network is None:
            counts["forbidden"] += 1
            trial.set_constraint("limit", task.slack(trial.params))
            study.tell(trial, state=TrialState.PRUNED)
            continue
        if network in seen:
            counts["duplicates"] += 1
        else:
            value = task.observe(trial.params, np.random.default_rng([seed, zlib.crc32(repr(network).encode())]))
            true = task.true(trial.params)
            seen[network] = value
            if value > best:
                best = value
                picks.append((len(seen), true))
            if not bests or true > bests[-1][1]:
                bests.append((len(seen), true))
        study.tell(trial, seen[network])
    return {
        "networks": len(seen),
        "budget": budget,
        **counts,
        "picks": picks,
        "bests": bests,
        "seconds": {str(mark): statistics.median(values) for mark, values in seconds.items() if values},
    }


def one(name: str, data: Path, arm: str, seed: int, budget: int, pending: int) -> dict[str, Any]:
    """Search a task by name, in whatever process."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return searched(task(name, data), arm, seed, budget, pending)


# --- what it shows ----------------------------------------------------------------------------------------


def curve(changes: Sequence[Sequence[float]], budget: int) -> np.ndarray[Any, Any]:
    """Return the true score after each number of networks, from where it changed."""
    found = np.full(budget, np.nan)
    for number, value in changes:
        found[int(number) - 1 :] = value
    return found


def regrets(runs: Sequence[Mapping[str, Any]], about: Mapping[str, float], key: str = "picks") -> np.ndarray[Any, Any]:
    """Return normalised regret by seed and number of networks, as far as all of these searches were to go."""
    budget = min(run["budget"] for run in runs)
    scores = np.stack([curve([one for one in run[key] if one[0] <= budget], budget) for run in runs])
    return np.asarray((about["optimum"] - scores) / (about["optimum"] - about["mean"]))


def reached(regret: np.ndarray[Any, Any], target: float) -> int | None:
    """Return after how many networks mean regret is for the first time no more than a target."""
    there = np.flatnonzero(regret.mean(0) <= target)
    return int(there[0]) + 1 if len(there) else None


def needed(
    regret: np.ndarray[Any, Any], rival: np.ndarray[Any, Any], at: int, draws: int = 1000
) -> dict[str, int | None]:
    """Return after how many networks a sampler is as good as its rival after `at`, with an interval over the seeds.

    With as many seeds on either side, each draw takes the same seeds of both.

    Returns:
        `networks`, `low`, `high`: None where the budget is not enough.
    """
    never = regret.shape[1] + 1
    ours = np.random.default_rng(0).integers(0, len(regret), (draws, len(regret)))
    theirs = np.random.default_rng(0).integers(0, len(rival), (draws, len(rival)))
    drawn = [
        reached(regret[mine], float(rival[his, at - 1].mean())) or never for mine, his in zip(ours, theirs, strict=True)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975], method="nearest")
    found = {"networks": reached(regret, float(rival[:, at - 1].mean())), "low": int(low), "high": int(high)}
    return {name: None if value == never else value for name, value in found.items()}


def spread(values: np.ndarray[Any, Any]) -> dict[str, float]:
    """Return mean and standard error."""
    error = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")
    return {"mean": float(values.mean()), "error": error}


def summary(runs: Mapping[str, Mapping[int, Mapping[str, Any]]], about: Mapping[str, float]) -> dict[str, Any]:
    """Return the figures of each sampler on one task.

    Args:
        runs: Searches by sampler and seed. about: `optimum` and `mean` of the task.
    """
    all_regrets = {arm: regrets(list(found.values()), about) for arm, found in runs.items()}
    rows: dict[str, Any] = {}
    for arm, found in runs.items():
        regret, best = all_regrets[arm], regrets(list(found.values()), about, "bests")
        budgets = [number for number in BUDGETS if number <= regret.shape[1]] or [regret.shape[1]]
        asks = sum(run["asks"] for run in found.values())
        rows[arm] = {
            "seeds": len(found),
            "regret": {number: spread(regret[:, number - 1]) for number in budgets},
            "regret_of_best": {number: spread(best[:, number - 1]) for number in budgets},
            "networks": statistics.fmean(run["networks"] for run in found.values()),
            "duplicates_share": sum(run["duplicates"] for run in found.values()) / asks,
            "forbidden_share": sum(run["forbidden"] for run in found.values()) / asks,
            "seconds": _seconds(found),
        }
        if "random" in runs:
            rows[arm]["seconds_over_random"] = _seconds(found, runs["random"])
        if OPTUNA in runs:
            rival = all_regrets[OPTUNA]
            at = min(BUDGETS[-1], rival.shape[1])
            rows[arm] |= {
                "needed_for": {"sampler": OPTUNA, "networks": at},
                "needed": needed(regret, rival, at),
                "regret_over_optuna": {
                    number: spread(np.array(pairs))
                    for number in budgets
                    if number <= at and (pairs := _differences(regret, found, rival, runs[OPTUNA], number))
                },
            }
    return rows


def _differences(
    ours: np.ndarray[Any, Any],
    mine: Mapping[int, Any],
    theirs: np.ndarray[Any, Any],
    his: Mapping[int, Any],
    number: int,
) -> list[float]:
    """Return how much more regret one sampler has than another with the same seeds."""
    places = {seed: place for place, seed in enumerate(his)}
    return [
        float(ours[place, number - 1] - theirs[places[seed], number - 1])
        for place, seed in enumerate(mine)
        if seed in places
    ]


def _seconds(
    found: Mapping[int, Mapping[str, Any]], over: Mapping[int, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """Return seconds of a suggestion by number of networks, or their ratio to those of another sampler with the same seed."""
    rows = {}
    for mark in map(str, TIMED):
        values = [
            run["seconds"][mark] / (over[seed]["seconds"][mark] if over else 1)
            for seed, run in found.items()
            if mark in run["seconds"] and (over is None or mark in over.get(seed, {"seconds": {}})["seconds"])
        ]
        if values:
            rows[mark] = median_interval(values)
    return rows


def grouped(runs: Mapping[str, Mapping[str, Any]], pending: int) -> dict[str, dict[str, dict[int, Mapping[str, Any]]]]:
    """Return the stored searches with so many pending trials by task, sampler and seed."""
    found: dict[str, dict[str, dict[int, Mapping[str, Any]]]] = {}
    for key, run in runs.items():
        name, arm, waiting, seed = key.split("/")
        if int(waiting) == pending:
            found.setdefault(name, {}).setdefault(arm, {})[int(seed)] = run
    return found


def table(name: str, rows: Mapping[str, Any]) -> str:
    """Return the figures of one task as lines, the best sampler first."""
    lines = [
        f"{name}: regret of the pick, mean ± standard error; in brackets the regret of the best seen",
        f"{'sampler':10s} {'seeds':>5s} " + " ".join(f"{number:>21d}" for number in BUDGETS) + f" {'needed':>16s} "
        f"{'again':>6s} {'forbidden':>9s} {'ms at 25, 100, 200':>22s}",
    ]
    for arm, row in sorted(rows.items(), key=lambda pair: list(pair[1]["regret"].values())[-1]["mean"]):
        cells = [
            f"{row['regret'][number]['mean']:.3f} ±{row['regret'][number]['error']:.3f} "
            f"({row['regret_of_best'][number]['mean']:.3f})"
            if number in row["regret"]
            else "-"
            for number in BUDGETS
        ]
        times = ", ".join(f"{one['median'] * 1e3:.1f}" for one in row["seconds"].values())
        lines.append(
            f"{arm:10s} {row['seeds']:5d} "
            + " ".join(f"{cell:>21s}" for cell in cells)
            + f" {_needed(row):>16s} {row['duplicates_share']:6.1%} {row['forbidden_share']:9.1%} {times:>22s}"
        )
    return "\n".join([*lines, ""])


def _needed(row: Mapping[str, Any]) -> str:
    if "needed" not in row:
        return "-"
    words = ["over" if row["needed"][key] is None else str(row["needed"][key]) for key in ("networks", "low", "high")]
    return f"{words[0]} [{words[1]}, {words[2]}]"


def main(arguments: list[str] | None = None) -> None:
    """Search what is not stored yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arms = [OPTUNA, *SAMPLERS]
    parser.add_argument("--tasks", nargs="+", default=["macro", "nb201", "stages", "layers"], choices=list(TASKS))
    parser.add_argument("--samplers", nargs="+", default=arms, choices=arms)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--budget", type=int, default=BUDGETS[-1], help="different networks (default: %(default)s)")
    parser.add_argument("--pending", type=int, default=0, help="trials that run while one is suggested")
    parser.add_argument("--workers", type=int, default=1, help="searches at a time")
    parser.add_argument("--data-dir", type=Path, default=DATA, help="folder of the tables (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    options = parser.parse_args(arguments)

    device = torch.device("cpu")
    path = folder(device, options.out) / "samplers.json"
    content = stored(path)
    runs, tasks = content.get("runs", {}), content.get("tasks", {})
    head, there = conditions(device), []
    before = content.get("command", head["command"]).split("; ")
    head["command"] = "; ".join(dict.fromkeys([*before, head["command"]]))
    for name in options.tasks:
        try:
            found = task(name, options.data_dir)
        except FileNotFoundError as error:
            print(f"{name}: skipped, for {error.filename} is not there. Name the folder of the tables with --data-dir.")
            continue
        about = {"optimum": found.optimum, "mean": found.mean, "about": found.about}
        if tasks.setdefault(name, about) != about:
            raise SystemExit(f"{path}: holds searches of another task {name}. Move it away, or give --out.")
        there.append(name)
    jobs = [
        (name, arm, seed)
        for seed, order in enumerate(shuffled(options.samplers, options.seeds))
        for name in there
        for arm in order
        if runs.get(_key(name, arm, options.pending, seed), {"budget": 0})["budget"] < options.budget
    ]

    def keep(name: str, arm: str, seed: int, run: Mapping[str, Any]) -> None:
        runs[_key(name, arm, options.pending, seed)] = run
        store(path, head | {"tasks": tasks, "runs": runs})
        print(f"{name} {arm} {seed}: {run['networks']} networks, true score {run['picks'][-1][1]:.4f}", flush=True)

    given = (options.budget, options.pending)
    if options.workers == 1:
        for name, arm, seed in jobs:
            keep(name, arm, seed, one(name, options.data_dir, arm, seed, *given))
    else:
        with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            going = {
                pool.submit(one, name, options.data_dir, arm, seed, *given): (name, arm, seed)
                for name, arm, seed in jobs
            }
            for job in as_completed(going):
                keep(*going[job], job.result())
    shown = {
        str(pending): {name: summary(found, tasks[name]) for name, found in grouped(runs, pending).items()}
        for pending in sorted({int(key.split("/")[2]) for key in runs})
    }
    store(path, head | {"tasks": tasks, "runs": runs, "summary": shown})
    for name, rows in shown.get(str(options.pending), {}).items():
        print(table(name, rows))
    print(path)


def _key(name: str, arm: str, pending: int, seed: int) -> str:
    return f"{name}/{arm}/{pending}/{seed}"


if __name__ == "__main__":
    main()
