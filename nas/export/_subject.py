"""What is to be handed over: a run's winner with the weights of its training, or an architecture with a file of weights."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from nas import catalog
from nas.data import Dataset, is_found
from nas.data import load as load_data
from nas.engine import checkpoints
from nas.errors import ExportError, RunError, UsageError
from nas.export._base import Images, Subject
from nas.models import Network, build
from nas.report import RunView, load_run
from nas.report.read import read_finalists
from nas.spec import ArchSpec
from nas.train.loop import DeviceData, to_device
from nas.train.recipes import RECIPES, from_document
from nas.weights import load_weights

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Source:
    """A subject, and what is known of it besides.

    Args:
        data: Images to score on, with their labels; None where none were named.
        view: The run it is from. finalist: What was measured again of it. trainings: Raw values of its fresh trainings by seed;
            the weights are those of the first.
    """

    subject: Subject
    data: DeviceData | None = None
    view: RunView | None = None
    finalist: Mapping[str, Any] = field(default_factory=dict)
    trainings: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)


def of_run(folder: Path, *, trial: str | None, data: str | None, progress: Progress) -> Source:
    """Return the winner of a run, or another of its finalists.

    Args:
        trial: Number or hash of the finalist. data: Where the images of the run lie now.

    Raises:
        RunError: the run has no winner yet, no weights of it, or other images. UsageError: not a finalist.
    """
    view = load_run(folder)
    spec = view.winner
    manifest = view.run.manifest
    finalist = _finalist(view, trial)
    record = finalist["record"]
    if record["arch_hash"] != spec.arch_hash:
        spec = _spec(finalist["document"])
    trainings = _trainings(view, record["arch_hash"])
    # The first, not the best: the best of several trainings was picked on the validation images, and its accuracy on them
    # would flatter what is handed over.
    seed = min(trainings)
    key = f"{record['arch_hash']}-s{seed}"
    path = checkpoints.path_of(folder / checkpoints.FOLDER, key)
    if not path.is_file():
        raise RunError(
            f"{path}: is not there, and the weights are taken from it (runs of earlier versions and published runs keep none). "
            f"Export {folder / 'winner.yaml'} with --weights FILE, or search again."
        )
    network = build(spec, seed=0)
    _, state = checkpoints.load(folder / checkpoints.FOLDER, key)
    network.load_state_dict((state or {})["network"], strict=True)
    config = manifest["config"]
    if data is None and not is_found(config["data"]):
        raise RunError(
            f"{folder}: its images are not at {config['data']}, where they were, and the export is compared on them. Put them "
            "back, or say where they are now with --data."
        )
    space = catalog.load_space(view.run.path("space.yaml"))
    recipe = from_document(dict(manifest["recipe"]), where=str(view.run.path("manifest.json")))
    images = load_data(
        data or config["data"],
        resolution=space.largest_input,
        progress=progress,
        skip_broken=config["skip_broken"],
    )
    if images.fingerprint != manifest["data"]["fingerprint"]:
        raise RunError(
            f"{data or config['data']}: found images of fingerprint {images.fingerprint}; the run was made with "
            f"{manifest['data']['fingerprint']}. Name its own images with --data."
        )
    subject = Subject(
        name="winner" if finalist is view.finalists[0] else f"trial_{record['number']}",
        spec=spec,
        network=_ready(network),
        origin=f"found by nas search, run {_plain(folder.resolve().name)}",
        weights=f"of the search's own short training (recipe {recipe.name}, {recipe.epochs:g} epochs, seed {seed})",
        images=_images(images),
        searched=True,
    )
    return Source(subject, to_device(images, recipe, torch.device("cpu")), view, finalist, trainings)


def of_arch(
    name: str,
    *,
    weights: Path | None,
    random_weights: bool,
    data: str | None,
    progress: Progress,
    skip_broken: bool = False,
) -> Source:
    """Return an architecture with the weights of a file, or with random ones where that is asked for.

    Args:
        data: Images it is meant for: they give class names, normalisation and an accuracy to compare.

    Raises:
        UsageError: no weights were named. WeightsError, ExportError: weights or images of another network.
    """
    if weights is None and not random_weights:
        raise UsageError(
            f"{name}: is an architecture, and has no weights. Give them with --weights FILE (.safetensors, .pt, .pth), name a "
            "run in its place, or say --random-weights."
        )
    if weights is not None and random_weights:
        raise UsageError("--weights, --random-weights: found both; one of them is allowed.")
    spec = catalog.load_arch(name)
    network = build(spec, seed=0)
    if weights is not None:
        load_weights(network, weights)
    images = None if data is None else load_data(data, resolution=spec.resolved().resolution, progress=progress)
    if images is not None and (images.num_classes, images.in_channels) != (spec.num_classes, spec.in_channels):
        raise ExportError(
            f"{data}: found {images.num_classes} classes and {images.in_channels} channels; {name} has {spec.num_classes} and "
            f"{spec.in_channels}. Give the images it was trained on, or an architecture with num_classes and in_channels of them."
        )
    subject = Subject(
        name=identifier(spec.name or Path(name).stem),
        spec=spec,
        network=_ready(network),
        origin=f"the architecture {_plain(spec.name or Path(name).stem)}",
        weights="random, not trained" if weights is None else f"from {_plain(weights.name)}",
        images=None if images is None else _images(images),
    )
    score = None if images is None else to_device(images, RECIPES["standard"], torch.device("cpu"))
    return Source(subject, score)


def identifier(name: str) -> str:
    """Return a name as Python allows it."""
    word = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_").lower() or "network"
    return word if not word[0].isdigit() else f"network_{word}"


def is_run(source: str | os.PathLike[str]) -> bool:
    """Return whether a source names a run rather than an architecture."""
    return Path(source).is_dir()


def _finalist(view: RunView, trial: str | None) -> Mapping[str, Any]:
    sound = [item for item in view.finalists if item.get("outcome", "ok") == "ok"]
    if trial is None:
        return sound[0]
    for item in sound:
        record = item["record"]
        if trial == str(record["number"]) or (len(trial) >= 6 and record["arch_hash"].startswith(trial)):
            return item
    known = ", ".join(f"{item['record']['number']} ({item['record']['arch_hash'][:8]})" for item in sound)
    raise UsageError(
        f"--trial: found {trial}; weights are kept of the trials that were measured again: {known}. Name one of them."
    )


def _trainings(view: RunView, arch_hash: str) -> dict[int, Mapping[str, Any]]:
    """Return the fresh trainings of a network by seed, in their order."""
    stored = read_finalists(view.run)["trainings"]
    seeds = sorted(int(name.rpartition("-")[2]) for name in stored if name.startswith(f"{arch_hash}-"))
    return {seed: stored[f"{arch_hash}-{seed}"] for seed in seeds}


def _spec(document: Mapping[str, Any]) -> ArchSpec:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "finalist.yaml"
        path.write_text(yaml.safe_dump(dict(document), sort_keys=False), encoding="utf-8")
        return catalog.load_arch(path)


def _ready(network: Network) -> Network:
    return network.to(device="cpu", dtype=torch.float32).eval()


def _images(data: Dataset) -> Images:
    return Images(data.name, data.fingerprint, data.class_names, data.mean, data.std)


def _plain(text: str) -> str:
    """Return a name that may stand in a docstring."""
    return text.replace("\\", "/").replace('"', "'")
