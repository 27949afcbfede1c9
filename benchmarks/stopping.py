"""What would stopping early have cost and saved, had a run trained the same networks in another order?

Replays the networks of finished runs that were trained to the end, whose reward is known at each phase's end and at last,
in many random orders, under each rule: none, the median of those trained to the end, and the top 1/eta of all that came
(eta 2, 3, 4). The rules are those of the search; nothing is trained.

    python -m benchmarks.stopping results/published/v2_tiny-200 results/unpruned

Writes `stopping.json` under the results folder of this machine. The same runs and seed give the same file.

What to read it with:
- A run that had a pruner holds the final reward only of networks that it let through. Those are hard to tell apart, and all
  good: its replay stops more of the best than a search over the whole space would. Give a run with --pruner none.
- "Best" is by the final reward of one training, luck included, and a search that learns does not ask in random order; the
  run's own order is one more row. Intervals are over orders, of one set of networks.
- The time of a network is its step time over the baseline's, which a busy machine does not change, shared out between
  phases as the networks of --shares took them (the median of their shares).
- Equal time: every rule has the time that training a quarter of the networks to the end takes, and is judged by the best
  final reward that it holds then. A training counts when it ends within that time.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._common import conditions, folder, store
from benchmarks._stats import tau
from nas.errors import NasError, UsageError
from nas.objective import score_of
from nas.report import RunView, load_run
from nas.search.stopping import FIRST, goes_on

SHARES = Path("results/published/v2_tiny-family")


@dataclass(frozen=True)
class Network:
    """A network trained to the end: its reward at each phase's end, the last its final one, and the time of each phase in
    trainings of the baseline, phase 0 (counting and timing) first."""

    arch_hash: str
    rewards: tuple[float, ...]
    times: tuple[float, ...]


@dataclass(frozen=True)
class Outcome:
    """What one rule made of one order.

    Args:
        stopped: The phase at whose end each network was stopped, by its place in the order; 0 for none.
        ended: When each network was at its end, or stopped.
    """

    stopped: tuple[int, ...]
    ended: tuple[float, ...]


Rule = Callable[[Sequence[float], Sequence[float], Sequence[float]], bool]
"""Whether a network goes on: its rewards so far, those of all that came before at this phase's end, and those of the
networks among them that were trained to the end."""


def median(rewards: Sequence[float], came: Sequence[float], whole: Sequence[float]) -> bool:
    """Optuna's MedianPruner with the settings of the search."""
    return len(whole) < FIRST or max(rewards) >= statistics.median(whole)


def top(eta: float) -> Rule:
    """Return the rule of the search's halving."""
    return lambda rewards, came, whole: goes_on(rewards[-1], came, eta)


RULES: Mapping[str, Rule] = {
    "none": lambda rewards, came, whole: True,
    "median": median,
    **{f"halving, eta {eta}": top(eta) for eta in (2, 3, 4)},
}


def replayed(networks: Sequence[Network], rule: Rule) -> Outcome:
    """Train networks one after the other under a rule."""
    phases = len(networks[0].rewards)
    came: list[list[float]] = [[] for _ in range(phases)]
    whole: list[list[float]] = [[] for _ in range(phases)]
    stopped, ended, clock = [], [], 0.0
    for network in networks:
        phase = 1
        while phase < phases and rule(network.rewards[:phase], came[phase - 1], whole[phase - 1]):
            came[phase - 1].append(network.rewards[phase - 1])
            phase += 1
        if phase < phases:
            came[phase - 1].append(network.rewards[phase - 1])
        else:
            for place in range(phases):
                whole[place].append(network.rewards[place])
        clock += sum(network.times[: phase + 1])
        stopped.append(phase if phase < phases else 0)
        ended.append(clock)
    return Outcome(tuple(stopped), tuple(ended))


def judged(networks: Sequence[Network], outcome: Outcome, best: Sequence[str], quarter: float) -> dict[str, float]:
    """Return what an outcome lost and saved.

    Args:
        best: The networks with the highest final rewards, the first first. quarter: What equal time is.
    """
    total = sum(sum(network.times) for network in networks)
    final = {network.arch_hash: network.rewards[-1] for network in networks}
    lost = {network.arch_hash for network, phase in zip(networks, outcome.stopped, strict=True) if phase}
    kept = [reward for name, reward in final.items() if name not in lost]
    within = [time <= quarter for time in outcome.ended]
    in_time = [
        item.rewards[-1] for item, there in zip(networks, within, strict=True) if there and item.arch_hash not in lost
    ]
    return {
        "stopped_share": len(lost) / len(networks),
        "saved_share": 1 - outcome.ended[-1] / total,
        "best_stopped": float(best[0] in lost),
        "any_of_best_stopped": float(any(name in lost for name in best)),
        "share_of_best_stopped": sum(name in lost for name in best) / len(best),
        "regret": final[best[0]] - max(kept),
        "equal_time_networks": sum(within),
        "equal_time_regret": final[best[0]] - max(in_time),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return mean, and what lies between 5 and 95 % of the orders."""
    low, high = np.quantile(values, [0.05, 0.95])
    return {"mean": statistics.fmean(values), "low": float(low), "high": float(high)}


def networks_of(view: RunView, shares: Sequence[float]) -> list[Network]:
    """Return the networks of a run that it trained to the end, in its order."""
    phases = view.run.manifest["recipe"]["progressive"]["phases"]
    rows = view.trials[view.trials["kind"] == "trained"].set_index("arch_hash", drop=False)
    known = {item.arch_hash: item for item in view.candidates()}
    found = []
    for name, row in rows.sort_values("number").iterrows():
        item = known[str(name)]
        accuracies = [float(part) for part in str(row["phase_accuracy"]).split()][:-1]
        rewards = [score_of(replace(item, val_accuracy=accuracy), view.reward) for accuracy in accuracies]
        if not len(rewards) + 1 == phases == len(shares) - 1:
            raise UsageError(
                f"{view.run.folder}: found a network of {len(rewards) + 1} phases in a recipe of {phases}, and shares of "
                f"{len(shares) - 1}; allowed: the same number. Name runs of one recipe."
            )
        times = tuple(item.relative_time * share for share in shares)
        found.append(Network(str(name), (*rewards, score_of(item, view.reward)), times))
    return found


def shares_of(view: RunView) -> tuple[float, ...]:
    """Return the share of each phase in the seconds of a network trained to the end, the median of a run's networks."""
    rows = view.trials[view.trials["kind"] == "trained"]
    if "phase_seconds" not in rows or rows.empty:
        raise UsageError(
            f"{view.run.folder}: did not keep phase seconds; allowed: a run that did. Name another with --shares."
        )
    seconds = np.array([[float(part) for part in str(cell).split()] for cell in rows["phase_seconds"]])
    middle = np.median(seconds / seconds.sum(axis=1, keepdims=True), axis=0)
    return tuple(float(share) for share in middle / middle.sum())


def replays(view: RunView, shares: Sequence[float], orders: int, top_k: int, seed: int) -> dict[str, Any]:
    """Replay one run under each rule; all rules see the same orders."""
    networks = networks_of(view, shares)
    if len(networks) < 2 * FIRST or len(networks[0].rewards) < 2:
        raise UsageError(
            f"{view.run.folder}: found {len(networks)} networks trained to the end; allowed: {2 * FIRST} or more, in two phases "
            "or more. Name a longer run."
        )
    best = [item.arch_hash for item in sorted(networks, key=lambda item: -item.rewards[-1])[:top_k]]
    quarter = sum(sum(item.times) for item in networks) / 4
    rng = random.Random(seed)
    drawn = [rng.sample(networks, len(networks)) for _ in range(orders)]
    rules: dict[str, Any] = {}
    for name, rule in RULES.items():
        rows = [judged(order, replayed(order, rule), best, quarter) for order in drawn]
        rules[name] = {key: spread([row[key] for row in rows]) for key in rows[0]}
        rules[name]["own_order"] = judged(networks, replayed(networks, rule), best, quarter)
    manifest = view.run.manifest
    firsts = [sorted((item.rewards[phase] for item in networks), reverse=True) for phase in range(len(shares) - 2)]
    of_best = [item for name in best for item in networks if item.arch_hash == name]
    return {
        "run": view.run.folder.name,
        "sampler": manifest["sampler"],
        "pruner": manifest["pruner"],
        "device": manifest["device"]["name"],
        "networks_trained_to_the_end": len(networks),
        "networks_stopped_by_the_run": int((view.trials["kind"] == "pruned").sum()),
        "tau_with_final": [
            tau([item.rewards[phase] for item in networks], [item.rewards[-1] for item in networks])
            for phase in range(len(firsts))
        ],
        "ranks_of_the_best_at_each_phase_end": [
            [first.index(item.rewards[phase]) + 1 for phase, first in enumerate(firsts)] for item in of_best
        ],
        "final_rewards_of_the_best": [item.rewards[-1] for item in of_best],
        "rules": rules,
        "as_it_came": as_it_came(view, networks, best),
        "networks": [vars(item) for item in networks],
    }


def as_it_came(view: RunView, networks: Sequence[Network], best: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return whom halving would have stopped at the end of phase 1 of all that came there, in the run's own order.

    Those that the run's pruner stopped are in the comparison; what they would have come to is not known.
    """
    ended = {item.arch_hash: item.rewards[0] for item in networks}
    rows = view.trials[view.trials["kind"].isin(["trained", "pruned"])].sort_values("number")
    rows = rows[(rows["kind"] == "trained") | ~rows["phase_accuracy"].fillna("").str.contains(" ")]  # stopped there
    came = [
        (str(name), ended.get(str(name), float(reward)))
        for name, reward in zip(rows["arch_hash"], rows["reward"], strict=True)
    ]
    rewards = [reward for _, reward in came]
    found = {}
    for eta in (2, 3, 4):
        lost = {name for place, (name, reward) in enumerate(came) if not goes_on(reward, rewards[:place], eta)}
        found[f"halving, eta {eta}"] = {
            "came": len(came),
            "stopped": len(lost),
            "of_best_stopped": len(lost & set(best)),
            "stopped_by_the_run_and_not_here": len({name for name, _ in came} - set(ended) - lost),
        }
    return found


def main(arguments: list[str] | None = None) -> int:
    """Replay the runs that are named, print a table of each, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs")
    parser.add_argument(
        "--shares", type=Path, default=SHARES, help="a run that kept phase seconds (default: %(default)s)"
    )
    parser.add_argument("--orders", type=int, default=1000, help="random orders (default: %(default)s)")
    parser.add_argument("--top-k", type=int, default=3, help="how many count as the best (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the orders (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("results/benchmarks"), help="results folder (default: %(default)s)"
    )
    settings = parser.parse_args(arguments)
    try:
        views = [load_run(run) for run in settings.runs]
        shares = shares_of(load_run(settings.shares))
        device = torch.device("cpu")
        found = [replays(view, shares, settings.orders, settings.top_k, settings.seed) for view in views]
        content = conditions(device) | {
            "settings": {"orders": settings.orders, "top_k": settings.top_k, "seed": settings.seed, "first": FIRST},
            "shares_of_phases": {"of": settings.shares.name, "shares": shares},
            "runs": found,
        }
        path = folder(device, settings.out) / "stopping.json"
        store(path, content)
    except NasError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    for run in found:
        print(_table(run))
    print(path)
    return 0


def _table(run: Mapping[str, Any]) -> str:
    """Return what a replay showed as lines."""
    agree = ", ".join(f"{value:.2f}" for value in run["tau_with_final"])
    lines = [
        f"{run['run']}: {run['networks_trained_to_the_end']} networks (pruner {run['pruner']}), tau to the final reward {agree}",
        f"{'rule':16s} {'stopped':>8s} {'saved':>7s} {'best lost':>10s} {'any of top lost':>16s} {'regret':>8s} "
        f"{'seen in equal time':>19s} {'regret then':>12s}",
    ]
    for name, row in run["rules"].items():
        lines.append(
            f"{name:16s} {row['stopped_share']['mean']:8.0%} {row['saved_share']['mean']:7.0%} "
            f"{row['best_stopped']['mean']:10.1%} {row['any_of_best_stopped']['mean']:16.1%} {row['regret']['mean']:8.4f} "
            f"{row['equal_time_networks']['mean']:19.1f} {row['equal_time_regret']['mean']:12.4f}"
        )
    for name, seen in run["as_it_came"].items():
        lines.append(
            f"as they came, {name}: {seen['stopped']} of {seen['came']} stopped, {seen['of_best_stopped']} of the best; "
            f"{seen['stopped_by_the_run_and_not_here']} go on that the run stopped"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
