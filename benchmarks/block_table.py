"""How well are step times predicted from those measured of other networks, and may a prediction spare a measurement?

    python -m benchmarks.block_table                      # of results/published/v2_tiny-200
    python -m benchmarks.block_table results/RUN --draws 20

Reads a run and measures nothing. First, learning curves: a table is learnt from n networks drawn at random and predicts all
others; arms are the block table of `nas.cost.block_table`, a ridge on counts of exact blocks and the logarithm of MACs, a
line on MACs and a line on parameters. Then the table's own errors: those of networks left out beside those of networks
held out, and how many of these lie below two and three standard errors. Last, the run is walked through in its order under
limits that it did not have: at each network a table of all before it says whether it would not have been timed.

Step times are relative to the reference's in the same measurement; those of the walk are milliseconds. Writes
`block_table.json` into this machine's folder; the conditions of the step times are in the run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks._common import conditions, folder, store
from benchmarks._stats import median_interval, spearman, tau
from nas import catalog
from nas.cost import count
from nas.cost.block_table import FAR, LEAST, _best_ridge, features, fit
from nas.report import RunView, load_run
from nas.search.study import values
from nas.space import choices, decode, stored_choose
from nas.spec import ArchSpec

Floats = npt.NDArray[np.float64]
Predictor = Callable[[npt.NDArray[np.int_], npt.NDArray[np.int_]], Floats]


def networks(view: RunView) -> tuple[list[ArchSpec], Floats, Floats]:
    """Return the networks that a run timed, once each and in its order, their step times and the reference's (ms)."""
    space = catalog.load_space(view.run.path("space.yaml"))
    data = view.run.manifest["data"]
    classes = {"num_classes": data["classes"], "in_channels": data.get("channels", view.winner.in_channels)}
    rows = view.trials[view.trials["step_time_ms"].notna() & (view.trials["kind"] != "duplicate")]
    specs = []
    for _, row in rows.iterrows():
        params = {name: row[f"param:{name}"] for name in choices(space)}
        specs.append(decode(space, stored_choose(values(choices(space), params)), **classes))
        if specs[-1].arch_hash != row["arch_hash"]:
            sys.exit(f"trial {row['number']} is not the network that its choices make; was it made by another version?")
    return specs, rows["step_time_ms"].to_numpy(float), rows["ref_step_time_ms"].to_numpy(float)


def arms(specs: Sequence[ArchSpec], times: Floats) -> dict[str, Predictor]:
    """Return what predicts relative step times: from the rows to learn from and those to predict, to the predictions."""
    counts = [count(spec) for spec in specs]
    one = np.ones(len(specs))
    rows = [features(spec) for spec in specs]
    # The columns that count one exact block: longer than those of a type or of a type and kernel.
    exact = list(dict.fromkeys(key for row in rows for key in row if key[1] == "blocks" and len(key[0]) > 2))
    blocks = np.array([[row.get(key, 0.0) for key in exact] for row in rows])

    def table(learn: npt.NDArray[np.int_], ask: npt.NDArray[np.int_]) -> Floats:
        fitted = fit([specs[row] for row in learn], list(times[learn]))
        return np.array([fitted.predict(specs[row]).ms for row in ask])

    def line(cost: Sequence[int]) -> Predictor:
        design = np.stack([one, np.asarray(cost, float) / np.mean(cost)], axis=1)

        def predict(learn: npt.NDArray[np.int_], ask: npt.NDArray[np.int_]) -> Floats:
            return np.asarray(design[ask] @ _best_ridge(design[learn], times[learn], (1e-6,)).rates)

        return predict

    def one_hot(learn: npt.NDArray[np.int_], ask: npt.NDArray[np.int_]) -> Floats:
        """The logarithm of time: a line on that of MACs, nearly free, and blocks seen while learning."""
        macs = np.log([item.macs for item in counts])
        design = np.stack([one, macs - macs[learn].mean()], axis=1) * 100
        design = np.concatenate([design, blocks], axis=1)
        target = np.log(times)
        best: tuple[float, Floats] | None = None
        for strength in np.logspace(-4, 3, 29):
            kernel = design[learn] @ design[learn].T + strength * np.eye(len(learn))
            inverse = np.linalg.inv(kernel)
            weights = inverse @ target[learn]
            press = float(np.sum((weights / np.diag(inverse)) ** 2))
            if best is None or press < best[0]:
                best = (press, np.asarray(design[ask] @ (design[learn].T @ weights)))
        assert best is not None
        return np.exp(best[1])

    return {
        "block table": table,
        "exact blocks + log MACs": one_hot,
        "MACs": line([item.macs for item in counts]),
        "params": line([item.params for item in counts]),
    }


def curves(specs: Sequence[ArchSpec], times: Floats, sizes: Sequence[int], draws: int) -> list[dict[str, Any]]:
    """Return a row for each number of networks learnt from and each arm: held-out rank correlations and errors by draw."""
    predictors = arms(specs, times)
    found = []
    for size in sizes:
        rng = np.random.default_rng(size)
        splits = [np.split(rng.permutation(len(specs)), [size]) for _ in range(draws)]
        for name, predict in predictors.items():
            seen: dict[str, list[float]] = {"spearman": [], "tau": [], "median_error": []}
            for learn, ask in splits:
                predicted = predict(learn, ask)
                seen["spearman"].append(spearman(list(predicted), list(times[ask])))
                seen["tau"].append(tau(list(predicted), list(times[ask])))
                seen["median_error"].append(float(np.median(np.abs(predicted / times[ask] - 1))))
            found.append({"n": size, "arm": name, "held_out": len(specs) - size, "draws": seen})
            found[-1] |= {key: median_interval(item) for key, item in seen.items()}
    return found


def calibration(specs: Sequence[ArchSpec], times: Floats, sizes: Sequence[int], draws: int) -> list[dict[str, Any]]:
    """Return for each number of networks the table's own errors beside those held out, and how often a bound was passed."""
    found = []
    for size in sizes:
        rng = np.random.default_rng(size)
        rows = []
        for _ in range(draws):
            learn, ask = np.split(rng.permutation(len(specs)), [size])
            table = fit([specs[row] for row in learn], list(times[learn]))
            told = [table.predict(specs[row]) for row in ask]
            ratio = np.array([item.ms for item in told]) / times[ask]
            error = np.array([item.error for item in told])
            rows.append(
                {
                    "left_out": asdict(table.error),
                    "held_out_median_error": float(np.median(np.abs(ratio - 1))),
                    "below_two": float(np.mean(ratio > 1 + 2 * error)),
                    "below_far": float(np.mean(ratio > 1 + FAR * error)),
                    "strength": table.strength,
                }
            )
        found.append({"n": size, "far": FAR, "draws": rows})
        for name in ("held_out_median_error", "below_two", "below_far"):
            found[-1][name] = float(np.mean([row[name] for row in rows]))
        found[-1]["left_out_median_error"] = float(np.mean([row["left_out"]["median_error"] for row in rows]))
    return found


def walk(specs: Sequence[ArchSpec], times_ms: Floats, references_ms: Floats) -> list[dict[str, Any]]:
    """Return for limits at quantiles of the run's step times how many networks were beyond, foreseen, and wrongly so.

    Also with a bolder bound (`bold`): the machine not at its fastest, but as the last five references saw it.
    """
    lows, bold = np.zeros(len(specs)), np.zeros(len(specs))
    drifted, own = [], []
    for row in range(LEAST, len(specs)):
        table = fit(specs[:row], list(times_ms[:row]), list(references_ms[:row]))
        told = table.predict(specs[row])
        lows[row] = told.low_ms
        bold[row] = told.low_ms / references_ms[:row].min() * np.median(references_ms[row - 5 : row])
        drifted.append(abs(told.ms / times_ms[row] - 1))
        own.append(abs(told.ms / np.median(references_ms[:row]) * references_ms[row] / times_ms[row] - 1))
    found: list[dict[str, Any]] = [
        {"median_error_ms": float(np.median(drifted)), "median_error_relative": float(np.median(own))}
    ]
    asked = slice(LEAST, len(specs))
    for share in (0.05, 0.1, 0.25, 0.5, 0.75, 0.9):
        limit = float(np.quantile(times_ms, share))
        beyond, foreseen, boldly = (values[asked] > limit for values in (times_ms, lows, bold))
        found.append(
            {
                "quantile": share,
                "limit_ms": limit,
                "networks": len(beyond),
                "beyond": int(beyond.sum()),
                "foreseen": int(foreseen.sum()),
                "wrongly": int((foreseen & ~beyond).sum()),
                "bold": int(boldly.sum()),
                "bold_wrongly": int((boldly & ~beyond).sum()),
            }
        )
    return found


def main() -> None:
    """Run the comparison, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", default=Path("results/published/v2_tiny-200"))
    parser.add_argument("--draws", type=int, default=12, help="random splits for each number of networks")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    options = parser.parse_args()

    view = load_run(options.run)
    specs, times_ms, references_ms = networks(view)
    times = times_ms / references_ms
    sizes = [size for size in (20, 50, 100, 150) if size + 20 <= len(specs)]
    if not sizes:
        sys.exit(f"{options.run}: timed {len(specs)} networks; at least 40 are needed")
    device = torch.device("cpu")  # nothing is measured here; the device of the numbers is the run's
    content = {
        "conditions": conditions(device),
        "command": "python -m benchmarks.block_table " + " ".join(sys.argv[1:]),
        "run": options.run.name,
        "run_device": view.run.manifest["device"],
        "networks": len(specs),
        "reference_ms": {"least": float(references_ms.min()), "most": float(references_ms.max())},
        "curves": curves(specs, times, sizes, options.draws),
        "calibration": calibration(specs, times, sizes, options.draws),
        "walk": walk(specs, times_ms, references_ms),
    }
    store(folder(device, options.out) / "block_table.json", content)
    for row in content["curves"]:
        print(
            f"n = {row['n']:3d}  {row['arm']:24s} Spearman {row['spearman']['median']:.3f}  tau {row['tau']['median']:.3f}  "
            f"median error {row['median_error']['median']:.1%}"
        )
    for row in content["calibration"]:
        print(
            f"n = {row['n']:3d}  left out {row['left_out_median_error']:.1%}, held out {row['held_out_median_error']:.1%}; "
            f"below two standard errors {row['below_two']:.1%}, below {FAR:g} {row['below_far']:.1%}"
        )
    first, *limits = content["walk"]
    print(
        f"walked in order: off by {first['median_error_ms']:.1%} in ms, {first['median_error_relative']:.1%} relative"
    )
    for row in limits:
        print(
            f"limit {row['limit_ms']:6.1f} ms: {row['beyond']} of {row['networks']} beyond, {row['foreseen']} foreseen, "
            f"{row['wrongly']} wrongly; with the bolder bound {row['bold']} and {row['bold_wrongly']}"
        )


if __name__ == "__main__":
    main()
