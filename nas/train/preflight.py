"""Before a run: may its training steps be CUDA graphs? The baseline is trained for a few steps in both ways.

All networks of a run are trained and timed in one way, or their step times would not compare. So it is decided once, before
the manifest is written, and a run that is continued keeps to it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import torch

from nas.data import Dataset, Split
from nas.devices import lane_name
from nas.errors import DeviceError, UsageError
from nas.lane import lane
from nas.spec import ArchSpec
from nas.train import loop
from nas.train.graphs import WARMUP, Graphs, Mode, Replayer
from nas.train.recipes import Recipe
from nas.train.schedule import phases

Asked = Literal["auto", "eager", "graph"]
"""How the steps of a run may be asked for; `auto` is graphs on CUDA devices where they agree with eager steps."""

STEPS = WARMUP + 5
"""Steps that are compared. The first ones are done without a graph in both ways."""

TOLERANCE = 0.01
"""Share of a loss that two ways may differ by, besides the scatter of eager steps.

Sums on CUDA are made in another order from run to run, and optimisers enlarge that from step to step: so eager steps are done
twice, and a graph may be four times as far away as they are from each other. Where they agree to the bit this share is left:
bfloat16 has a relative step of 2^-8. A rate, an image or a random number that is frozen in a graph moves the loss by more.
"""


def check_asked(steps: str) -> None:
    """Refuse a word for the steps of a run that means nothing.

    Raises:
        UsageError: such a word.
    """
    if steps not in get_args(Asked):
        raise UsageError(f"--steps: found {steps}; allowed: {', '.join(get_args(Asked))}.")


def step_mode(
    asked: str,
    manifest: Mapping[str, Any] | None,
    device: torch.device,
    baseline: ArchSpec,
    recipe: Recipe,
    waiting: Callable[[], None] | None = None,
) -> tuple[Mode, str]:
    """Return how the steps of a run are done, and why not as graphs where they might have been.

    Args:
        asked: `auto`, `eager` or `graph`. manifest: Of the run, where it is continued: it keeps to its way.

    Raises:
        UsageError, DeviceError: graphs were asked for, or are those of the run, and cannot be had.
    """
    check_asked(asked)
    if manifest is not None:
        asked = manifest["device"].get("steps", "eager")
    if asked == "graph" and device.type != "cuda" and manifest is None:
        raise UsageError(f"--steps: found graph on {device}; CUDA graphs need a CUDA device. Give auto or eager.")
    if asked == "eager" or device.type != "cuda":
        return "eager", ""
    with lane(lane_name(device), alone=False, waiting=waiting):
        why = disagreement(device, baseline, recipe)
    if not why:
        return "graph", ""
    if asked == "graph":
        raise DeviceError(
            f"{device}: CUDA graphs of training steps cannot be used: {why}. "
            + ("The run was begun with them; start a new one." if manifest else "Give --steps eager.")
        )
    return "eager", (
        f"Training steps are done kernel by kernel, which is slow for small networks: their CUDA graphs cannot be used here "
        f"({why}). All networks of this run are trained and timed so."
    )


def disagreement(device: torch.device, baseline: ArchSpec, recipe: Recipe) -> str:
    """Return why graphed steps of the baseline cannot be used, or nothing where their losses are those of eager ones."""
    try:
        first, second = (losses(device, baseline, recipe, None) for _ in range(2))
        why = difference(first, second, losses(device, baseline, recipe, Graphs.on(device)))
    except RuntimeError as error:  # a capture fails with it, for whatever reason, and so does a full memory
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
    gc.collect()  # only here, after the traceback is gone, can the tensors of a step that failed be freed
    torch.cuda.empty_cache()
    return why


def losses(
    device: torch.device, spec: ArchSpec, recipe: Recipe, graphs: Replayer | None, steps: int = STEPS
) -> list[float]:
    """Return the first losses of a training in a recipe's last phase, at a network's own size, on noise."""
    spec = spec.resolved()
    phase = phases(recipe.progressive, spec.resolution, recipe.epochs)[-1]
    images = min(recipe.batch_size, 256)
    pixels = np.random.default_rng(0).integers(
        0, 256, (images, spec.resolution, spec.resolution, spec.in_channels), dtype=np.uint8
    )
    split = Split(pixels, np.arange(images) % spec.num_classes)
    half = (0.5,) * spec.in_channels
    noise = Dataset("noise", split, split, tuple(map(str, range(spec.num_classes))), "", half, half, ())
    recipe = replace(recipe, train_images=images)
    state = loop.start(spec, recipe, device, seed=0)
    data = loop.to_device(noise, recipe, device)
    found, before = [], 0.0
    phase = replace(phase, epochs=steps * recipe.batch_size / images)
    with loop.stepping(state, data, recipe, phase, graphs) as (order, step, total):
        for number, index in enumerate(order):
            step(number, index)
            found.append(float(total) - before)
            before = float(total)
    return found


def difference(first: list[float], second: list[float], graphed: list[float]) -> str:
    """Return where the losses of graphed steps differ from those of eager ones by more than rounding; nothing if nowhere.

    Args:
        first, second: Losses of the same eager steps, done twice.
    """
    scatter = 0.0
    for number, (one, two, other) in enumerate(zip(first, second, graphed, strict=True), 1):
        scatter = max(scatter, abs(one - two))
        if not abs(other - one) <= TOLERANCE * abs(one) + 4 * scatter:  # so written, a loss that is no number differs
            return f"loss {number} is {other:.5g} with them and {one:.5g} without"
    return ""
