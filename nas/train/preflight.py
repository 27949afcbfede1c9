"""Before a run: may its training steps be CUDA graphs? The baseline is trained for a few steps in both ways.

All networks of a run are trained and timed in one way, or their step times would not compare. So it is decided once, before
the manifest is written, and a run that is continued keeps to it.

It is tried in a process of its own: a capture that breaks may leave torch's allocator and its generators as if it still went
on, and whatever comes next in that process fails. `python -m nas.train.preflight` is that process: it reads a question from
stdin and answers on stdout, both in JSON.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO, Any, Literal, get_args

import torch
from torch import Tensor

from nas import blocks
from nas.data.noise import noise
from nas.devices import lane_name, out_of_memory, pick_device
from nas.errors import DeviceError, NasError, RunError, UsageError
from nas.lane import lane
from nas.space import decode, middle_choose
from nas.space.schema import build_space
from nas.spec import ArchSpec
from nas.train import loop
from nas.train.graphs import WARMUP, Graphs, Mode, Replayer, Work
from nas.train.places import Places
from nas.train.recipes import Recipe, from_document
from nas.train.schedule import phases

Asked = Literal["auto", "eager", "graph"]
"""How the steps of a run may be asked for; `auto` is graphs on CUDA devices where they agree with eager steps."""

STEPS = WARMUP + 5
"""Steps that are compared. The first ones are done without a graph in both ways."""

TOLERANCE = 0.05
"""Share of a loss that two ways may differ by, besides the scatter of eager steps.

Sums on CUDA are made in another order from run to run, and optimisers enlarge that from step to step: so eager steps are done
twice, and a graph may be four times as far away as they are from each other. Where they agree to the bit this share is left:
with bfloat16 in place of float32 (`v2_tiny` on a CPU, both recipes, batches of 32 to 128) losses moved by 0.01 to 0.05.
"""

MOVED = 0.1
"""Share of the length of a step in the weights' space that two ways may differ by, besides the scatter of eager steps.

A rate that is frozen moves the first losses less than rounding does. But AdamW's steps are as long as the rate says: with a
frozen one they were off by 0.13 in the first replay and by more than 5 in the last, with bfloat16 by at most 0.016.
"""

DROPPED = 0.2
"""Least rate of dropout and drop path in the check, so that torch's own generator is used whatever the baseline has."""

COMMAND = (sys.executable, "-P", "-m", "nas.train.preflight")
"""The process of the check. Not multiprocessing, whose spawned processes import the caller's script."""

SECONDS = 120.0
"""What the process of the check may take. It imports torch and does three times so many steps, which is seconds."""


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
        UsageError, DeviceError: graphs were asked for and cannot be had. RunError: they are those of the run, and cannot.
        DeviceError: the device's memory is full, so that nothing can be decided.
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
    found = f"{device}: CUDA graphs of training steps cannot be used: {why}."
    if manifest is not None:
        raise RunError(f"{found} The run was begun with them: try again where they can be had, or start a new one.")
    if asked == "graph":
        raise DeviceError(f"{found} Give --steps eager.")
    return "eager", (
        f"Training steps are done kernel by kernel, which is slow for small networks: their CUDA graphs cannot be used here "
        f"({why}). All networks of this run are trained and timed so."
    )


def disagreement(device: torch.device, baseline: ArchSpec, recipe: Recipe) -> str:
    """Return why graphed steps of the baseline cannot be used, or nothing where they do what eager ones do.

    Raises:
        DeviceError: the device's memory is full.
    """
    question = {"device": str(device), "spec": baseline.document(), "recipe": recipe.document()}
    try:
        done = subprocess.run(
            COMMAND,
            input=json.dumps(question),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"the process that tried them did not answer within {SECONDS:g} s"
    except OSError as error:
        return f"the process that tries them cannot be started ({error.strerror})"
    said = " / ".join(done.stderr.strip().splitlines()[-3:])[-400:] or "it said nothing"
    if done.returncode:
        how = f"was ended by signal {-done.returncode}" if done.returncode < 0 else f"failed with {done.returncode}"
        return f"the process that tried them {how} ({said})"
    try:
        found = json.loads(done.stdout)
        full, why = bool(found["full"]), str(found["why"])
    except (ValueError, TypeError, KeyError):
        return f"the process that tried them gave no answer that can be read ({said})"
    if full:
        raise DeviceError(
            f"{device}: the device's memory is full: the baseline {baseline.name} at batch {recipe.batch_size} and "
            f"{baseline.resolved().resolution} pixels does not fit in beside what is there ({why}). Free it, then give the same "
            "command again; a new run may have a recipe of a lower batch_size."
        )
    return why


def serve(questions: IO[str], answers: IO[str]) -> None:
    """Read a question, and write its answer: why not, empty where they agree, and whether the memory is full."""
    json.dump(answer(json.load(questions)), answers)
    answers.flush()


def answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """Compare both ways as a question asks.

    Args:
        question: `device`, `spec` and `recipe`, the last two as their documents.
    """
    try:
        space = build_space(question["spec"], {(): "baseline"}, blocks.rules(), default_name="baseline")
        recipe = from_document(question["recipe"], where="recipe")
        return {"why": compared(pick_device(question["device"]), decode(space, middle_choose), recipe), "full": False}
    except (
        RuntimeError,
        NasError,
    ) as error:  # a capture fails with the first, for whatever reason, and so does a full memory
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        return {"why": why, "full": out_of_memory(error)}


def compared(device: torch.device, spec: ArchSpec, recipe: Recipe) -> str:
    """Return where graphed steps differ from eager ones, or nothing.

    Raises:
        RuntimeError: the capture failed. A process in which that happened should do nothing more on the device.
    """
    first, second = (trace(device, spec, recipe, None) for _ in range(2))
    return difference(first, second, trace(device, spec, recipe, Graphs.on(device)))


@dataclass(frozen=True)
class Trace:
    """What the first steps of a training did, step by step.

    Args:
        losses: Of each step. moved: Length of the change of all weights. rates: The optimiser's learning rate.
        images: The indices of its batch, and once more those of the batch that would come next: they are drawn from the
            generator of the data. counts: How many steps have been done, by all that count them. random: The state of torch's
            own generator of the device.
    """

    losses: list[float]
    moved: list[float]
    rates: list[float]
    images: list[list[int]]
    counts: list[list[int]]
    random: list[bytes]


class _Seen:
    """Does what a replayer does, and keeps the places of the steps."""

    def __init__(self, graphs: Replayer) -> None:
        self.places: Places | None = None
        self._graphs = graphs

    @contextmanager
    def stepping(self, work: Work) -> Iterator[Callable[[], object]]:
        self.places = work.places
        with self._graphs.stepping(work) as step:
            yield step


def trace(device: torch.device, spec: ArchSpec, recipe: Recipe, graphs: Replayer | None, steps: int = STEPS) -> Trace:
    """Do the first steps of a training in a recipe's last phase, at a network's own size, on noise, and return what they did."""
    spec = spec.resolved()
    spec = replace(spec, drop_path=max(spec.drop_path, DROPPED))
    phase = phases(recipe.progressive, spec.resolution, recipe.epochs)[-1]
    images = min(recipe.batch_size, 256)
    # The rates are those of one step more, whose images are drawn only.
    phase = replace(phase, dropout=max(phase.dropout, DROPPED), epochs=(steps + 1) * recipe.batch_size / images)
    recipe = replace(recipe, train_images=images)
    state = loop.start(spec, recipe, device, seed=0)
    data = loop.to_device(noise(spec, images), recipe, device)
    seen = None if graphs is None else _Seen(graphs)
    found, before, was = Trace([], [], [], [], [], []), 0.0, _weights(state)
    with loop.stepping(state, data, recipe, phase, seen) as (order, step, total):
        for number, index in enumerate(order):
            if number == steps:
                found.images.append(index.tolist())
                break
            step(number, index)
            now, places = _weights(state), seen.places if seen else None
            found.losses.append(float(total) - before)
            found.moved.append(float((now - was).norm()))
            found.rates.append(float(state.optimizer.param_groups[0]["lr"]))
            found.images.append((index if places is None else places.index).tolist())
            counts = {int(item["step"]) for item in state.optimizer.state.values()}
            found.counts.append(sorted(counts if places is None else counts | {int(places.done)}))
            found.random.append(_generator(device).numpy().tobytes())
            before, was = float(total), now
    return found


def _weights(state: loop.TrainState) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in state.network.parameters()])


def _generator(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def difference(first: Trace, second: Trace, graphed: Trace) -> str:
    """Return where graphed steps differ from eager ones, in numbers by more than rounding; nothing if nowhere.

    Args:
        first, second: Of the same eager steps, done twice.
    """
    for what, ones, others in (
        ("the images", first.images, graphed.images),
        ("the count", first.counts, graphed.counts),
        ("torch's generator", first.random, graphed.random),
    ):
        for number, (mine, its) in enumerate(zip(ones, others, strict=True), 1):
            if mine != its:
                return f"{what} of step {number} differ{'' if what.endswith('images') else 's'} with them"
    for number, (one, other) in enumerate(zip(first.rates, graphed.rates, strict=True), 1):
        if not math.isclose(one, other, rel_tol=1e-6):  # the device has it in float32
            return f"rate {number} is {other:.5g} with them and {one:.5g} without"
    return _apart("move of the weights", MOVED, first.moved, second.moved, graphed.moved) or _apart(
        "loss", TOLERANCE, first.losses, second.losses, graphed.losses
    )


def _apart(what: str, share: float, first: list[float], second: list[float], graphed: list[float]) -> str:
    scatter = 0.0
    for number, (one, two, other) in enumerate(zip(first, second, graphed, strict=True), 1):
        scatter = max(scatter, abs(one - two))
        if not abs(other - one) <= share * abs(one) + 4 * scatter:  # so written, a loss that is no number differs
            return f"{what} {number} is {other:.5g} with them and {one:.5g} without"
    return ""


def main() -> None:
    """Answer one question, and end without tidying up: after a capture that broke, that might fail or hang."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a library that prints must not print into the answer
    serve(sys.stdin, answers)
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
