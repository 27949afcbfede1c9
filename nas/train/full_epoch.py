"""One epoch of a full training, whatever happens in it: it is trained, scored and written down, or begun again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from nas import runs
from nas.devices import out_of_memory
from nas.errors import DeviceError
from nas.runs import Run
from nas.train import full_loop
from nas.train.full_checkpoint import LAST, WEIGHTS, load_last, save_last, save_weights
from nas.train.full_loop import EpochTraining, Training
from nas.train.full_report import write_history
from nas.train.loop import DeviceData, proportion_error
from nas.train.schedule import Phase
from nas.train.watch import EpochRow, Watcher


@dataclass(frozen=True)
class State:
    """A training so far.

    Args:
        best: `epoch`, and `classes`: for each class its validation images and how many of them are named right; empty at first.
        notes: What happened that a reader of the result should know.
    """

    history: tuple[EpochRow, ...] = ()
    best: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Return the state as plain data, for the file that a training continues from."""
        return {"history": [row.document() for row in self.history], "best": self.best, "notes": list(self.notes)}


@dataclass(frozen=True)
class Place:
    """What all epochs of a training have in common.

    Args:
        test_resolution: Of the images that are scored (pixels). device: Its name.
        between: Called within an epoch with its number, its phase, the steps done and those of the epoch.
    """

    run: Run
    training: Training
    data: DeviceData
    test_resolution: int
    device: str
    watcher: Watcher
    between: Callable[[int, Phase, int, int], None]


def one_epoch(place: Place, state: State, phase: Phase, epoch: int) -> State:
    """Train one epoch, score it, and write down all of it; with smaller parts of a batch where memory does not suffice.

    Raises:
        Diverged: loss, weights or scores are not finite; the epoch before is as it was.
        DeviceError: no part of a batch is small enough.
    """
    began = time.perf_counter()
    run, training = place.run, place.training
    shown, state = _trained(place, state, phase, epoch)
    classes, weights, state = _scored(place, state, epoch)
    n, k = (int(value) for value in classes.sum(0))
    # Of equals the later one: it has seen larger images.
    best = k / n >= max((before.val_accuracy for before in state.history), default=0.0)
    row = EpochRow(
        epoch=epoch,
        phase=phase.number,
        resolution=phase.resolution,
        learning_rate=shown.learning_rate,
        train_loss=shown.train_loss,
        val_accuracy=k / n,
        val_error=proportion_error(k, n),
        seconds=time.perf_counter() - began,
        images_per_second=shown.images / shown.seconds,
        micro_batch=training.micro_batch,
        device=place.device,
    )
    state = replace(
        state,
        history=(*state.history, row),
        best={"epoch": epoch, "classes": classes.tolist()} if best else state.best,
    )
    if training.group.leads:
        save_last(run.path(LAST), training, state.document())  # from here on the epoch counts
        if best:
            save_best(run, weights, state)
        write_history(run, state.history)
    place.watcher.epoch(row, best)
    return state


def _trained(place: Place, state: State, phase: Phase, epoch: int) -> tuple[EpochTraining, State]:
    """Train an epoch; where memory does not suffice, again from its start in smaller parts of a batch."""
    while True:
        try:
            return full_loop.train_epoch(
                place.training, place.data, phase, epoch, lambda done, steps: place.between(epoch, phase, done, steps)
            ), state
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        # Only here, after the traceback is gone, can the failed step's tensors be freed.
        state = _smaller(place, state, phase, epoch)


def _scored(place: Place, state: State, epoch: int) -> tuple[Tensor, Mapping[str, Tensor], State]:
    """Score an epoch; return its classes as `full_loop.scores` does, the weights that were scored, and what was to be said.

    Raises:
        Diverged: weights or scores are not finite. DeviceError: memory does not suffice for one image.
    """
    training, device = place.training, place.training.device
    before = min(training.score_batch, 2 * training.micro_batch)
    full_loop.check_finite(training, "the weights")
    try:
        with full_loop.averaged(training) as network:
            full_loop.check_finite(training, "the averaged weights")
            classes = full_loop.scores(training, place.data, place.test_resolution)
            weights = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise DeviceError(
            f"{device}: out of memory for the averaged weights beside the others, in epoch {epoch}. Free memory of the "
            "device, or go on with another --device."
        ) from error
    if training.group.any(training.score_batch < before):
        state = _noted(
            place,
            state,
            f"Out of memory while scoring after epoch {epoch}, with {before} images of {place.test_resolution} pixels: they "
            f"are now scored {training.score_batch} at a time. The training does not depend on it, nor the accuracy but for "
            "rounding.",
        )
    return classes, weights, state


def _smaller(place: Place, state: State, phase: Phase, epoch: int) -> State:
    """Bring a training back to the start of an epoch, with half the images in a forward pass.

    Raises:
        DeviceError: there are too few images in it already, or several processes train.
    """
    run, training = place.run, place.training
    device = training.device
    what = f"{device}: out of memory in epoch {epoch}, with {training.micro_batch} images of {phase.resolution} pixels"
    batch, smaller = len(training.group.part(training.recipe.batch_size)), -(-training.micro_batch // 2)
    if full_loop.smallest_part(batch, smaller) < 2:  # batch norm cannot do with one image
        raise DeviceError(
            f"{what}. Train anew with a smaller network or --resolution, or free memory of the device or name another --device "
            "to go on."
        )
    if (
        training.group.size > 1
    ):  # the others are within a step and wait for its gradients: they cannot be asked to begin again
        raise DeviceError(
            f"{what} in each of {training.group.size} processes. Give --micro-batch {smaller} to go on (batch norm then sees "
            "fewer images at a time), or start more processes, with a device for each."
        )
    full_loop.free(device)
    load_last(run.path(LAST), training)
    training.micro_batch = smaller
    return _noted(
        place,
        state,
        f"Out of memory in epoch {epoch} at {phase.resolution} pixels: a batch of {batch} is now computed in parts of "
        f"{smaller} images, and the epoch began again. The gradients are those of the whole batch, but batch norm sees "
        f"{smaller} images at a time, so that results differ from those of a larger device.",
    )


def _noted(place: Place, state: State, sentence: str) -> State:
    """Say what happened, now, in the manifest and in the report."""
    notes = (*state.notes, sentence)
    place.watcher.note(sentence)
    if place.training.group.leads:
        runs.update(place.run, {"micro_batch": place.training.micro_batch, "remarks": list(notes)})
    return replace(state, notes=notes)


def save_best(run: Run, weights: Mapping[str, Tensor], state: State) -> None:
    """Replace the best weights by those of the last epoch of a state."""
    row = state.history[-1]
    facts = {"arch_hash": run.manifest["arch"]["hash"], "epoch": row.epoch, "val_accuracy": row.val_accuracy}
    save_weights(run.path(WEIGHTS), weights, facts)
