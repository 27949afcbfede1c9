"""How well are networks of a real run foreseen that the model has not seen? Recorded trials, split at random many times.

A search cannot be played again on recorded trials: hardly any network that another sampler would ask for is among them, and a
model that answered in their place would be no recording. What can be asked of them is whether the model inside the sampler orders
networks that it has not seen as their trainings did: Kendall's tau between prediction and the reward at the end of phase 1,
which all networks of a run have that were trained at all. Beside it models that a sampler might do with:

- `gaussian`: the Gaussian process of the sampler `arch`
- `additive`: an effect of each value of each choice that is not masked, shrunken (ridge, strength by leave-one-out)
- `nearest`: the mean of the five networks that differ in the fewest choices
- `costs`: a straight line in the logarithms of parameters and multiply-adds, which are known before a training

    python -m benchmarks.surrogates results/published/v2_tiny-200

Each figure is the mean over the splits with what lies between 5 and 95 % of them; they share one set of networks, so this is
no interval for other networks. One training of a network is noise too: no model can come near 1. The run's own sampler chose the
networks. Writes `surrogates.json` under the results folder of this machine; nothing is trained.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from optuna.distributions import BaseDistribution, IntDistribution

from benchmarks._common import conditions, folder, store
from benchmarks._stats import tau
from nas import catalog
from nas.errors import NasError, UsageError
from nas.report import RunView, load_run
from nas.search.permitted import known_of
from nas.search.samplers.gaussian import Encoding, fit
from nas.search.samplers.known import Known, Params

SIZES = (25, 50, 100)
NEAREST = 5

Array = np.ndarray[Any, Any]
Model = Callable[[Sequence[Params], Array, Sequence[Params], Known], Array]
"""Predicts values of networks (third) from networks with values (first two)."""


def gaussian(seen: Sequence[Params], values: Array, others: Sequence[Params], known: Known) -> Array:
    """The process of `nas.search.samplers.gaussian`, its weights learnt anew."""
    encoding = Encoding(known)
    return fit(encoding.encode(seen), values).predict(encoding.encode(others))[0]


def marks(networks: Sequence[Params], known: Known) -> Array:
    """Return a column for each value of each choice, 1 where a network has it and it is not masked."""
    columns: dict[tuple[str, Any], int] = {}
    rows = [{(name, params[name]) for name in known.active(params)} for params in networks]
    for pair in sorted(set().union(*rows), key=repr):
        columns[pair] = len(columns)
    found = np.zeros((len(networks), len(columns)))
    for place, row in enumerate(rows):
        found[place, [columns[pair] for pair in row]] = 1
    return found


def additive(seen: Sequence[Params], values: Array, others: Sequence[Params], known: Known) -> Array:
    """Ridge regression; of a few strengths the one with the least leave-one-out error.

    Source: Hastie, Tibshirani & Friedman 2009, The Elements of Statistical Learning, equations 3.44 and 7.64.
    """
    both = marks([*seen, *others], known)
    x, rest = both[: len(seen)], both[len(seen) :]
    middle, mean = x.mean(0), values.mean()
    x, rest, y = x - middle, rest - middle, values - mean
    best = (np.inf, np.zeros(len(rest)))
    for strength in 2.0 ** np.arange(-2, 9):
        inverse = np.linalg.inv(x @ x.T + strength * np.eye(len(x)))
        solved = inverse @ y
        error = float(((solved / np.diag(inverse)) ** 2).mean())
        best = min(best, (error, rest @ x.T @ solved), key=lambda pair: pair[0])
    return mean + best[1]


def nearest(seen: Sequence[Params], values: Array, others: Sequence[Params], known: Known) -> Array:
    """The mean of the networks that share the most."""
    both = marks([*seen, *others], known)
    x, rest = both[: len(seen)], both[len(seen) :]
    apart = (rest**2).sum(1)[:, None] + (x**2).sum(1) - 2 * rest @ x.T
    return np.asarray(values[np.argsort(apart, axis=1, kind="stable")[:, :NEAREST]].mean(1))


def costs(seen: Sequence[Params], values: Array, others: Sequence[Params], known: Known) -> Array:
    """Least squares on what is counted."""

    def rows(networks: Sequence[Params]) -> Array:
        return np.array([[1.0, *known.cost(params).values()] for params in networks])

    return np.asarray(rows(others) @ np.linalg.lstsq(rows(seen), values, rcond=None)[0])


MODELS: Mapping[str, Model] = {"gaussian": gaussian, "additive": additive, "nearest": nearest, "costs": costs}


def recorded(view: RunView) -> tuple[list[Params], Array, Known]:
    """Return the networks of a run that were trained, their rewards at the end of phase 1, and what is known of the space."""
    data = view.run.manifest["data"]
    space = catalog.load_space(view.run.path("space.yaml"))
    known = known_of(space, (), num_classes=data["classes"], in_channels=data["channels"])
    rows = view.trials[view.trials["kind"].isin(["trained", "pruned"])]
    networks: list[Params] = []
    values = []
    for row in rows.to_dict("records"):
        networks.append({name: _value(item, row[f"param:{name}"]) for name, item in known.distributions.items()})
        values.append(
            view.reward.score(
                float(str(row["phase_accuracy"]).split()[0]),
                step_time_ms=float(row["step_time_ms"]),
                ref_step_time_ms=float(row["ref_step_time_ms"]),
                num_params=float(row["num_params"]),
            )
        )
    return networks, np.array(values), known


def _value(item: BaseDistribution, cell: Any) -> Any:
    if isinstance(item, IntDistribution):
        return int(cell)
    return next(choice for choice in item.choices if str(choice) == str(cell))  # type: ignore[attr-defined]


def foreseen(
    networks: Sequence[Params], values: Array, known: Known, sizes: Sequence[int], splits: int, seed: int
) -> dict[str, Any]:
    """Return tau of each model by the number of networks it has seen; all models see the same splits."""
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(networks)) for _ in range(splits)]
    found: dict[str, Any] = {name: {} for name in MODELS}
    for size in sizes:
        agree: dict[str, list[float]] = {name: [] for name in MODELS}
        for order in orders:
            seen, others = [networks[place] for place in order[:size]], [networks[place] for place in order[size:]]
            for name, model in MODELS.items():
                agree[name].append(tau(model(seen, values[order[:size]], others, known), values[order[size:]]))
        for name, each in agree.items():
            found[name][str(size)] = spread(each) | {"over_additive": spread(np.subtract(each, agree["additive"]))}
    return found


def spread(values: Sequence[float] | Array) -> dict[str, float]:
    """Return the mean, and what lies between 5 and 95 %."""
    low, high = np.nanquantile(values, [0.05, 0.95])
    return {"mean": float(np.nanmean(values)), "low": float(low), "high": float(high)}


def main(arguments: list[str] | None = None) -> int:
    """Split the runs that are named, print a table of each, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs")
    parser.add_argument("--splits", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the splits")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    options = parser.parse_args(arguments)
    found: dict[str, Any] = {}
    try:
        for path in options.runs:
            view = load_run(path)
            networks, values, known = recorded(view)
            sizes = [size for size in SIZES if 2 * size <= len(networks)]
            if not sizes:
                raise UsageError(
                    f"{path}: found {len(networks)} networks that were trained; allowed: {2 * SIZES[0]} or more. "
                    "Name a longer run."
                )
            rows = foreseen(networks, values, known, sizes, options.splits, options.seed)
            found[path.name] = {"networks": len(networks), "tau": rows}
            print(f"{path.name}: {len(networks)} networks, tau to those not seen, by the number of those seen")
            for name, row in rows.items():
                cells = [
                    f"{size}: {one['mean']:.3f} ({one['low']:.3f} to {one['high']:.3f})" for size, one in row.items()
                ]
                print(f"  {name:9s} {'   '.join(cells)}")
        device = torch.device("cpu")
        target = folder(device, options.out) / "surrogates.json"
        store(
            target, conditions(device) | {"settings": {"splits": options.splits, "seed": options.seed}, "runs": found}
        )
    except NasError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
