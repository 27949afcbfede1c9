"""Does training on small images first save time, at what price in accuracy?

Trains one network by one recipe twice: *progressive*, as the recipe says, and *constant*, all epochs in the recipe's last
phase, that is at the final image size and with the final regularisation. Network, epochs, optimiser, learning rates, images
and the size that is scored at are the same. Both sides take turns in one process, seed by seed (progressive, constant,
progressive, ...), after a step of each size that is not counted, with the device to themselves.

    python -m benchmarks.progressive
    python -m benchmarks.progressive --arch efficientnetv2_s --data photos/ --recipe standard --epochs 60 --images 0 --device cuda

Writes `progressive.json` under the results folder of the device, anew after each pair.

The difference of accuracies has two errors: of training, from the differences seed by seed, and of the choice of images,
from the difference image by image, since both sides are scored on the same ones. The interval holds both, at Student's t
for the seeds. Times are those of training, without scoring; their ratio is taken seed by seed, from runs next to each other.
On a CPU that other processes use too, look at the time computed: the lane keeps away trainings of this package only.
"""

from __future__ import annotations

import argparse
import base64
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks._common import conditions, folder, store
from nas import catalog
from nas.cost import count
from nas.data import BUILTIN, Dataset, Split, load
from nas.devices import lane_name, pick_device
from nas.errors import NasError, UsageError
from nas.lane import lane
from nas.models import build
from nas.space import choices
from nas.spec import ArchSpec
from nas.train import full_loop, loop
from nas.train.config import TrainConfig, recipe_of
from nas.train.full_recipes import FullRecipe, full_phases, load_full_recipe

T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
               2.120, 2.110, 2.101, 2.093)  # fmt: skip
"""Student's t at 97.5 %, for 1, 2, ... degrees of freedom."""


@dataclass(frozen=True)
class Trained:
    """What one training showed.

    Args:
        accuracy: On all validation images, 0..1. seconds: Of training, without scoring. epoch_seconds: Epoch by epoch.
        cpu_seconds: That the process computed in that time. load: Processes that wanted a core at its end, on average.
        right: Which images are named right, one bit each, base64.
    """

    side: str
    seed: int
    accuracy: float
    images: int
    seconds: float
    epoch_seconds: list[float]
    cpu_seconds: float
    load: float
    train_loss: float
    right: str


def planned(name: str, epochs: int, batch_size: int | None) -> FullRecipe:
    """Return a recipe for so many epochs, with its warm-up and its falls as short or as long as `nas train` makes them.

    Raises:
        UsageError: it has one phase, or needs weights to begin from.
    """
    recipe = load_full_recipe(name)
    if recipe.needs_weights or recipe.progressive.phases == 1:
        raise UsageError(
            f"recipe {name}: found one phase, or weights to begin from; allowed: neither. Take another one."
        )
    return recipe_of(TrainConfig(recipe=name, epochs=epochs, batch_size=batch_size))


def sides(recipe: FullRecipe) -> dict[str, FullRecipe]:
    """Return the recipe, and the same with all epochs in its last phase."""
    return {"progressive": recipe, "constant": replace(recipe, progressive=replace(recipe.progressive, phases=1))}


def network(name: str, resolution: int | None) -> ArchSpec:
    """Return an architecture, of a space its baseline; with another resolution (pixels) if one is given."""
    space = catalog.load_space(name)
    if list(choices(space)):
        spec = catalog.baseline(space, num_classes=10, in_channels=3)
    else:
        spec = catalog.load_arch(name)
    return spec if resolution is None else replace(spec, resolution=resolution, resolution_mult=1.0)


def fewer(data: Dataset, most: int) -> Dataset:
    """Return the data with at most so many training images; 0 is all."""
    if not most or most >= len(data.train):
        return data
    rows = loop.sample(len(data.train), most).numpy()
    return replace(data, train=Split(np.ascontiguousarray(data.train.images[rows]), data.train.labels[rows]))


def warm_up(spec: ArchSpec, recipe: FullRecipe, data: loop.DeviceData, resolution: int) -> None:
    """Do one step at each size with a network that is thrown away, so that no first call falls into a measurement."""
    training = full_loop.begin(build(spec, seed=0), recipe, seed=0, device=data.device)
    one = replace(data, train_labels=data.train_labels[: recipe.batch_size])
    for phase in full_phases(recipe, resolution):
        full_loop.train_epoch(training, one, phase, phase.number)


def train(side: str, spec: ArchSpec, recipe: FullRecipe, data: loop.DeviceData, resolution: int, seed: int) -> Trained:
    """Train one network from fresh weights, and score it at the recipe's test size."""
    training = full_loop.begin(build(spec, seed=seed), recipe, seed=seed, device=data.device)
    seconds: list[float] = []
    began = time.process_time()
    for phase in full_phases(recipe, resolution):
        for _ in range(int(phase.epochs)):
            seen = full_loop.train_epoch(training, data, phase, len(seconds) + 1)
            seconds.append(seen.seconds)
    cpu_seconds = time.process_time() - began
    with full_loop.averaged(training) as scored:
        right = loop.correct(scored, data, recipe.test_resolution(resolution)).cpu().numpy()
    return Trained(
        side=side,
        seed=seed,
        accuracy=float(right.mean()),
        images=len(right),
        seconds=sum(seconds),
        epoch_seconds=seconds,
        cpu_seconds=cpu_seconds,
        load=os.getloadavg()[0],
        train_loss=seen.train_loss,
        right=base64.b64encode(np.packbits(right).tobytes()).decode(),
    )


def compared(rows: list[Trained]) -> dict[str, Any]:
    """Compare the sides, from complete pairs of the same seeds, at least two of them.

    Returns:
        Accuracies by seed; the mean difference (progressive less constant) with half its 95 % interval and the two errors in
        it; and the ratio of times (progressive over constant) by seed, with mean and range; the same of the time computed.
    """
    first, second = ([row for row in rows if row.side == side] for side in ("progressive", "constant"))
    assert [row.seed for row in first] == [row.seed for row in second]
    gaps = [mine.accuracy - other.accuracy for mine, other in zip(first, second, strict=True)]
    ratios = [mine.seconds / other.seconds for mine, other in zip(first, second, strict=True)]
    cpu_ratios = [mine.cpu_seconds / other.cpu_seconds for mine, other in zip(first, second, strict=True)]
    by_image = np.mean([_right(mine) - _right(other) for mine, other in zip(first, second, strict=True)], axis=0)
    training_error = statistics.stdev(gaps) / math.sqrt(len(gaps))
    images_error = float(by_image.std(ddof=1)) / math.sqrt(len(by_image))
    half = T_QUANTILES[len(gaps) - 2] * math.hypot(training_error, images_error)
    gap = statistics.fmean(gaps)
    return {
        "progressive": [row.accuracy for row in first],
        "constant": [row.accuracy for row in second],
        "difference": gap,
        "half_interval": half,
        "training_error": training_error,
        "images_error": images_error,
        "answer": "more accurate" if gap > half else "less accurate" if gap < -half else "cannot be told apart",
        "time_ratios": ratios,
        "time_ratio": statistics.fmean(ratios),
        "time_ratio_range": [min(ratios), max(ratios)],
        "cpu_time_ratio": statistics.fmean(cpu_ratios),
        "cpu_time_ratio_range": [min(cpu_ratios), max(cpu_ratios)],
    }


def _right(row: Trained) -> npt.NDArray[np.float64]:
    bits = np.unpackbits(np.frombuffer(base64.b64decode(row.right), np.uint8))[: row.images]
    return bits.astype(np.float64)


def run(
    spec: ArchSpec,
    recipe: FullRecipe,
    images: Dataset,
    device: torch.device,
    seeds: int,
    seen: Callable[[list[Trained]], None],
) -> list[Trained]:
    """Train both sides with each seed in turn.

    Args:
        seen: Called after each training with all so far.
    """
    resolution = spec.resolved().resolution
    data = loop.to_device(images, None, device)
    rows: list[Trained] = []
    with lane(lane_name(device), alone=True):
        warm_up(spec, recipe, data, resolution)
        for seed in range(seeds):
            for side, plan in sides(recipe).items():
                rows.append(train(side, spec, plan, data, resolution, seed))
                seen(rows)
    return rows


def main() -> None:
    """Run the comparison, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="v2_tiny", help="a network, or a space, whose baseline is taken")
    parser.add_argument("--data", default=BUILTIN)
    parser.add_argument("--images", type=int, default=4000, help="training images used, at most; 0 is all")
    parser.add_argument("--recipe", default="short")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch-size", type=int, help="in place of the recipe's")
    parser.add_argument("--resolution", type=int, help="pixels of the last phase, in place of the network's own")
    parser.add_argument("--seeds", type=int, default=3, choices=range(3, 21), metavar="3..20")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    device = pick_device(options.device)
    try:
        recipe = planned(options.recipe, options.epochs, options.batch_size)
    except NasError as error:
        sys.exit(str(error))
    spec = network(options.arch, options.resolution)
    resolution = spec.resolved().resolution
    images = fewer(load(options.data, resolution=max(resolution, recipe.test_resolution(resolution))), options.images)
    spec = replace(spec, num_classes=images.num_classes, in_channels=images.in_channels)
    plan = full_phases(recipe, resolution)
    path = folder(device, options.out) / "progressive.json"
    content: dict[str, Any] = {
        "conditions": conditions(device),
        "command": "python -m benchmarks.progressive " + " ".join(sys.argv[1:]),
        "arch": spec.document(),
        "arch_hash": spec.arch_hash,
        "num_params": count(spec).params,
        "recipe": recipe.document(),
        "phases": [asdict(phase) for phase in plan],
        "test_resolution": recipe.test_resolution(resolution),
        "data": {
            "name": images.name,
            "fingerprint": images.fingerprint,
            "train_images": len(images.train),
            "val_images": len(images.val),
        },
    }
    # Where time goes with the pixels, the ratio would be this; small networks and small images fall short of it.
    pixels = sum(phase.epochs * phase.resolution**2 for phase in plan) / (recipe.epochs * resolution**2)
    content["pixel_ratio"] = pixels

    def seen(rows: list[Trained]) -> None:
        row = rows[-1]
        store(path, content | {"trainings": [asdict(item) for item in rows]})
        print(f"seed {row.seed} {row.side:12s} accuracy {row.accuracy:.4f}  {row.seconds:7.1f} s", flush=True)

    rows = run(spec, recipe, images, device, options.seeds, seen)
    found = compared(rows)
    store(path, content | {"trainings": [asdict(item) for item in rows], "result": found})
    print(
        f"accuracy: progressive {statistics.fmean(found['progressive']):.4f}, constant "
        f"{statistics.fmean(found['constant']):.4f}; difference {found['difference']:+.4f} ± {found['half_interval']:.4f} "
        f"(95 %; {options.seeds} seeds, {rows[0].images} images): {found['answer']}"
    )
    print(f"training time: {_ratio(found, 'time_ratio')}; by pixels alone it would be {pixels:.3f}")
    if device.type == "cpu":
        print(f"time computed: {_ratio(found, 'cpu_time_ratio')}")
        if max(row.load for row in rows) > (os.cpu_count() or 1):
            print("other processes wanted the cores: the training time is theirs too, the time computed less so")


def _ratio(found: dict[str, Any], name: str) -> str:
    low, high = found[f"{name}_range"]
    return f"ratio {found[name]:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
