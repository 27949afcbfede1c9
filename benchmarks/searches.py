"""Real searches with several samplers at equal budget, on real images: which winner is best when it is measured again?

Each search is `nas search` as a user runs it: trained proxies, measured step times, halving. All samplers have the same seeds,
space, recipe, budget and device, and take turns. What counts is the reward of each search's winner trained again with fresh
seeds, beside it the best reward that the search had seen, and the mean of its finalists. Differences are taken seed by seed.

    python -m benchmarks.searches --data cifar10-train.parquet --recipe recipe.yaml --budget 24 --seeds 3

Every search is a run folder under --work and is continued where it was cut off. Writes `searches.json` under the results folder
of the device, anew after each search.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch

import nas
from benchmarks._common import conditions, folder, settings, store, stored
from benchmarks._stats import median_interval, shuffled
from nas.search.session import SearchResult, resume


def searched(run: Path, **settings: Any) -> SearchResult:
    """Return a search, new or continued."""
    return resume(run) if (run / "manifest.json").is_file() else nas.search(out=run, **settings)


def row(result: SearchResult) -> dict[str, Any]:
    """Return what a search came to."""
    trained = [record for record in result.records if record.costs_budget]
    rewards = [record.reward for record in trained if record.kind == "trained" and record.reward is not None]
    first = result.finalists[0]
    kinds = [record.kind for record in result.records]
    return {
        "winner": first.record.arch_hash,
        "reward": first.reward,
        "accuracy": first.accuracy,
        "accuracy_error": first.accuracy_error,
        "relative_time": statistics.fmean(
            step / ref for step, ref in zip(first.step_time_ms, first.ref_step_time_ms, strict=True)
        ),
        "num_params": first.record.num_params,
        "finalists": [item.reward for item in result.finalists if item.outcome == "ok"],
        "seen": max(rewards),
        "by_trial": [record.reward if record.kind == "trained" else None for record in trained],
        "trials": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        "seconds": sum(record.seconds for record in trained),
    }


def answer(rows: dict[str, dict[str, Any]], samplers: list[str]) -> dict[str, Any]:
    """Return each sampler's rewards by seed, and the first sampler's lead over each other, seed by seed."""
    by = {
        name: {key.split("/")[1]: item for key, item in rows.items() if key.split("/")[0] == name} for name in samplers
    }
    found: dict[str, Any] = {}
    for name in samplers:
        both = sorted(set(by[name]) & set(by[samplers[0]]))
        if not both:
            continue
        found[name] = {
            "seeds": len(by[name]),
            "reward": [by[name][seed]["reward"] for seed in both],
            "mean": statistics.fmean(by[name][seed]["reward"] for seed in both),
            "mean_of_finalists": statistics.fmean(value for seed in both for value in by[name][seed]["finalists"]),
        }
        if name != samplers[0]:
            leads = [by[samplers[0]][seed]["reward"] - by[name][seed]["reward"] for seed in both]
            found[name]["behind"] = median_interval(leads)
    return found


def main() -> None:
    """Read the options, search, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="v2_tiny")
    parser.add_argument("--data", default="fashion-mnist-subset")
    parser.add_argument("--recipe")
    parser.add_argument("--max-macs")
    parser.add_argument(
        "--samplers", nargs="+", default=["arch", "tpe", "random"], help="the first is held against the others"
    )
    parser.add_argument("--budget", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--top-k", type=int, default=2)
    parser.add_argument("--devices", default="cpu:2")
    parser.add_argument(
        "--work", type=Path, default=Path("results/searches"), help="run folders (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    args = parser.parse_args()
    device = torch.device("cuda" if args.devices.startswith("cuda") else "cpu")
    path = folder(device, args.out) / "searches.json"
    asked = {name: text for name, text in settings(args).items() if name not in ("work", "seeds", "samplers")}
    content = stored(path)
    if content.get("settings", asked) != asked:
        raise SystemExit(
            f"{path}: was measured with {content['settings']}, not with {asked}. Give another --out and --work."
        )
    rows: dict[str, dict[str, Any]] = content.get("rows", {})
    for seed, order in enumerate(shuffled(args.samplers, args.seeds)):
        for sampler in order:
            key = f"{sampler}/{seed}"
            if key in rows:
                continue
            result = searched(
                args.work / f"{sampler}-{seed}",
                space=args.space,
                data=args.data,
                recipe=args.recipe,
                max_macs=args.max_macs,
                sampler=sampler,
                budget=args.budget,
                seed=seed,
                top_k=args.top_k,
                devices=args.devices,
            )
            rows[key] = row(result)
            print(
                f"{key:12s} reward {rows[key]['reward']:.4f}, seen {rows[key]['seen']:.4f}, {rows[key]['trials']}",
                flush=True,
            )
            store(path, {**conditions(device), "settings": asked, "rows": rows, "answer": answer(rows, args.samplers)})
    for name, item in answer(rows, args.samplers).items():
        print(name, item)
    print(path)


if __name__ == "__main__":
    main()
