"""One full training, from an architecture to its weights: opens the run, loads the images, trains epoch by epoch, reports."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from nas import catalog, runs
from nas.data import Dataset, is_found, located
from nas.data import load as load_data
from nas.devices import lane_name, out_of_memory
from nas.errors import DeviceError, RunError, UsageError
from nas.lane import lane
from nas.models import Network, build
from nas.owner import owned
from nas.runs import Run
from nas.spec import ArchSpec
from nas.train import config as configs
from nas.train import distributed, full_loop
from nas.train.config import TrainConfig, recipe_of
from nas.train.distributed import Group
from nas.train.full_checkpoint import LAST, load_last, save_last
from nas.train.full_epoch import Place, State, one_epoch, save_best
from nas.train.full_facts import changed, device_name, manifest, remarks
from nas.train.full_loop import Training
from nas.train.full_recipes import FullRecipe, full_checked, full_from_document, full_phases
from nas.train.full_report import finished, write_history
from nas.train.full_weights import begun_with, check_weights
from nas.train.loop import Diverged, to_device
from nas.train.schedule import Phase
from nas.train.watch import EpochRow, TrainResult, Watcher


def train_network(
    spec: ArchSpec,
    config: TrainConfig | None = None,
    *,
    source: str = "",
    phi: float | None = None,
    watcher: Watcher | None = None,
    **settings: Any,
) -> TrainResult:
    """Train an architecture on images, to be used.

    Args:
        spec: The architecture; its numbers of classes and channels are set to those of the images.
        config: The settings; or give them by name: `train_network(spec, data="photos/", recipe="standard")`.
        source: What the user named, and `phi` where it was scaled; for the record.
        watcher: Sees the training go on.

    Raises:
        NasError: one of its kinds, for anything a user can mend.
    """
    if not isinstance(spec, ArchSpec):
        raise UsageError(
            f"train_network: found {spec!r}; allowed: an architecture. Load one: nas.train_network(nas.load_arch(name))."
        )
    if config is not None and settings:
        raise UsageError(f"train_network: found config and {', '.join(settings)}; give one or the other.")
    config = config or configs.from_settings(settings, "train_network")
    recipe = recipe_of(config)
    # The run may be continued from another folder.
    weights = None if config.weights is None else config.weights.absolute()
    config = replace(config, data=located(config.data), weights=weights)
    named = {"source": source or spec.name, "phi": phi}
    with distributed.joined(config.device) as (group, device):
        return _run(_Task(spec, config, recipe, named, group, device, None, config.micro_batch, watcher or Watcher()))


def resume_training(
    folder: Path,
    *,
    device: str | None = None,
    data: str | None = None,
    micro_batch: int | None = None,
    compile: bool | None = None,
    watcher: Watcher | None = None,
) -> TrainResult:
    """Continue a training from its folder, with its own settings, from the end of its last whole epoch.

    Args:
        device: Another one. data: Where the same images are now, if they have moved.
        micro_batch: Images that a device computes at a time from now on. compile: Whether the step is compiled from now on.

    Raises:
        RunError: no run there, or its images are not what they were. UsageError: not a training.
    """
    run = runs.open_training(folder)
    where = str(run.path("manifest.json"))
    config = configs.from_document(dict(run.manifest["config"]))
    config = replace(
        config,
        device=device or config.device,
        data=config.data if data is None else located(data),
        micro_batch=config.micro_batch if micro_batch is None else micro_batch,
        compile=config.compile if compile is None else compile,
    )
    if data is None and not is_found(config.data):
        raise RunError(
            f"{folder}: its images are not at {config.data}, where they were. Put them back, or say where they are now: "
            f"{continued(folder)} --data PATH"
        )
    recipe = full_checked(full_from_document(dict(run.manifest["recipe"]), where), where)
    spec = catalog.load_arch(run.path("arch.yaml"))
    with distributed.joined(config.device) as (group, place):
        return _run(_Task(spec, config, recipe, {}, group, place, run, micro_batch, watcher or Watcher()))


def continued(folder: Path) -> str:
    """Return the command that continues a training."""
    return f"nas train --resume {shlex.quote(str(folder))}"


@dataclass(frozen=True)
class _Task:
    """What is to be trained, by whom and where; `run` where it was begun before; `micro_batch` where the user gave it now."""

    spec: ArchSpec
    config: TrainConfig
    recipe: FullRecipe
    named: Mapping[str, Any]
    group: Group
    device: torch.device
    run: Run | None
    micro_batch: int | None
    watcher: Watcher


def _run(task: _Task) -> TrainResult:
    group, config = task.group, task.config
    share = len(group.part(task.recipe.batch_size))
    if share < 2 or task.recipe.batch_size % group.size:
        raise UsageError(
            f"batch_size: found {task.recipe.batch_size} for {group.size} processes; allowed: a multiple of their number, and "
            "at least 2 images each. "
            + ("Start another number of processes." if task.run else "Give another --batch-size.")
        )
    if config.micro_batch and full_loop.smallest_part(share, config.micro_batch) < 2:
        raise UsageError(
            f"--micro-batch: found {config.micro_batch} for {share} images, of which one would be alone; allowed: 2 or more in "
            f"each part. Give {config.micro_batch + 1}."
        )
    folder = task.run.folder if task.run else None
    if folder is None and group.leads:
        label = f"{task.spec.name or 'network'}-{task.device.type}"
        folder = runs.new_folder(None, "train", label, config.out)
    folder = Path(group.agreed(str(folder)))
    with owned(folder) if group.leads else nullcontext():
        try:
            return _owned(task, folder)
        except Diverged as error:
            raise RunError(
                f"{folder}: {error}. Train anew with a lower --learning-rate; the weights of the epoch before are kept."
            ) from error
        except RuntimeError as error:  # before the first step; an epoch has an answer of its own
            if not out_of_memory(error):
                raise
            raise DeviceError(
                f"{task.device}: out of memory before the first step. Free memory of the device, or train a smaller network."
            ) from error
        except DeviceError as error:
            if not (folder / "manifest.json").exists():
                raise
            raise DeviceError(f"{error} Continue with: {continued(folder)}") from error


def _owned(task: _Task, folder: Path) -> TrainResult:
    config, recipe, group, device, watcher = task.config, task.recipe, task.group, task.device, task.watcher
    resolution = config.resolution or task.spec.resolved().resolution
    # Files that other processes may write are looked for before these meet to load the images.
    fresh = task.run is None or not any(task.run.path(name).exists() for name in (LAST, "history.csv"))
    begin_with = config.weights if fresh else None
    if begin_with is not None:
        check_weights(task.spec, begin_with)  # what is wrong with a file need not wait for thousands of images
    plan = full_phases(recipe, resolution)
    test_resolution = recipe.test_resolution(plan[-1].resolution)
    images = _images(config, max(test_resolution, *(phase.resolution for phase in plan)), task)
    spec = replace(
        task.spec,
        num_classes=images.num_classes,
        in_channels=images.in_channels,
        resolution=resolution,
        resolution_mult=1.0,
    )
    network = build(spec, seed=config.seed)
    notes = begun_with(network, spec, begin_with, recipe) if begin_with is not None else ()
    facts = manifest(
        spec,
        config,
        recipe,
        images,
        device=device,
        processes=group.size,
        named=task.named,
        resolution=plan[-1].resolution,
        test_resolution=test_resolution,
    )
    run = _opened(task, folder, spec, facts)
    watcher.opened(run)
    with lane(lane_name(device), alone=False, waiting=watcher.waiting) as held:
        data = to_device(images, None, device)
        training, state = _begun(task, network, run, fresh, notes)

        def between(epoch: int, phase: Phase, done: int, steps: int) -> None:
            """Step aside for a timing that waits for one of the devices: all processes at once, or they would wait for it."""
            if group.any(held.wanted()):
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                held.give_way()
            watcher.stepped(epoch, phase.resolution, done, steps)

        place = Place(run, training, data, test_resolution, device_name(facts["device"]), watcher, between)
        if task.run and len(state.history) < recipe.epochs:  # kept with the next epoch, if there is one
            state = replace(state, notes=(*state.notes, *changed(task.run, facts, len(state.history) + 1)))
        said = (*remarks(recipe, images), *state.notes)
        watcher.started(run, state.history, said)
        ends = [sum(int(phase.epochs) for phase in plan[: index + 1]) for index in range(len(plan))]
        for epoch in range(len(state.history) + 1, recipe.epochs + 1):
            phase = next(phase for phase, end in zip(plan, ends, strict=True) if epoch <= end)
            state = one_epoch(place, state, phase, epoch)
    group.wait()
    return finished(run, spec, state.history, state.best, state.notes, write=group.leads)


def _begun(task: _Task, network: Network, run: Run, fresh: bool, notes: tuple[str, ...]) -> tuple[Training, State]:
    """Return the network at the end of the last whole epoch, or before the first, with the notes of its weights."""
    config = task.config
    training = full_loop.begin(
        network, task.recipe, seed=config.seed, device=task.device, group=task.group, compiled=config.compile
    )
    share = training.micro_batch
    if fresh:
        training.micro_batch = min(share, config.micro_batch or share)
        state = State(notes=(*notes, *_split(share, training)))
        if task.group.leads:
            save_last(run.path(LAST), training, state.document())
        return training, state
    stored = load_last(run.path(LAST), training)
    state = State(tuple(EpochRow(**row) for row in stored["history"]), stored["best"], tuple(map(str, stored["notes"])))
    before = training.micro_batch
    # What the user says now may be larger too; what was said before is in the file, unless no epoch has ended since.
    training.micro_batch = min(share, task.micro_batch or min(before, config.micro_batch or before))
    state = replace(state, notes=(*state.notes, *_split(before, training)))
    # A run killed between the file it continues from and what is written after it lacks the latter.
    if state.best is not None and state.best["epoch"] == len(state.history):
        with full_loop.averaged(training) as best:  # in all processes: they agree on the weights
            if task.group.leads:
                save_best(run, best.state_dict(), state)
    if task.group.leads and state.history:
        write_history(run, state.history)
    return training, state


def _split(before: int, training: Training) -> tuple[str, ...]:
    """Say from when on a batch is computed in other parts than before, where the user asked for it."""
    now, share = training.micro_batch, len(training.group.part(training.recipe.batch_size))
    if now == before:
        return ()
    return (
        f"From step {training.steps + 1} on the {share} images of a batch on a device are computed {now} at a time, as asked. "
        f"Batch norm sees as many, so that results differ from those of other parts.",
    )


def _images(config: TrainConfig, resolution: int, task: _Task) -> Dataset:
    """Load the images; with several processes the first one decodes them, and the others read its pack."""

    def load() -> Dataset:
        return load_data(
            config.data, resolution=resolution, progress=task.watcher.packing, skip_broken=config.skip_broken
        )

    if task.group.leads:
        found = load()
        task.group.wait()
        return found
    task.group.wait()
    return load()


def _opened(task: _Task, folder: Path, spec: ArchSpec, facts: Mapping[str, Any]) -> Run:
    """Return the run: a new one with its manifest, or the old one if its images and its network are what they were."""
    if task.run is None:
        if task.group.leads:
            runs.write_text(folder / "arch.yaml", yaml.safe_dump(spec.document(), sort_keys=False))
            return runs.create(folder, "train", facts)  # a run has begun when it has a manifest
        return Run(folder, facts)
    runs.check_same(task.run, facts, ("data.fingerprint", "arch.hash"))
    if not task.group.leads:
        return task.run
    return runs.update(task.run, {"config": facts["config"]})  # the device or the place of the images may be others
