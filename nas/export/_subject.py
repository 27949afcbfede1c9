"""What is to be handed over: a run's network with the weights of its training, or an architecture with a file of weights."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nas import catalog
from nas.data import load as load_data
from nas.errors import ExportError, UsageError
from nas.export._base import Subject
from nas.export.trained import (
    Progress,
    Trained,
    described,
    identifier,
    of_search,
    of_training,
    ready,
    run_images,
)
from nas.models import build
from nas.train.loop import DeviceData, proportion_error, to_device
from nas.train.recipes import RECIPES, from_document
from nas.weights import load_weights


@dataclass(frozen=True)
class Source:
    """A subject, and what is known of it besides.

    Args:
        data: Images to score on, with their labels; None where none were named.
        trained: What the run says of it; None for an architecture.
    """

    subject: Subject
    data: DeviceData | None = None
    trained: Trained | None = None


def of_run(folder: Path, *, trial: str | None, data: str | None, progress: Progress) -> Source:
    """Return the winner of a search, or another of its finalists.

    Args:
        trial: Number or hash of the finalist. data: Where the images of the run lie now.

    Raises:
        RunError: the run has no winner yet, no weights of it, or other images. UsageError: not a finalist.
    """
    trained = of_search(folder, trial=trial)
    assert trained.run is not None
    recipe = from_document(dict(trained.run.manifest["recipe"]), where=str(trained.run.path("manifest.json")))
    images = run_images(trained, data, progress)
    training = next(iter(trained.trainings.values()))
    score = _score(training["val_accuracy"], trained.run.manifest["data"]["used_val_images"], trained.resolution)
    subject = Subject(
        name=trained.name,
        spec=trained.spec,
        network=trained.network,
        origin=trained.origin,
        weights=trained.weights,
        images=described(images),
        searched=True,
        score=score,
    )
    return Source(subject, to_device(images, recipe, torch.device("cpu")), trained)


def of_train_run(folder: Path, *, data: str | None, progress: Progress) -> Source:
    """Return the network of a training with its best weights so far.

    Args:
        data: Where the images of the run lie now.

    Raises:
        RunError: the run has no weights yet, or other images.
    """
    trained = of_training(folder)
    assert trained.run is not None
    images = run_images(trained, data, progress)
    accuracy = trained.result.get("val_accuracy")
    subject = Subject(
        name=trained.name,
        spec=trained.spec,
        network=trained.network,
        origin=trained.origin,
        weights=trained.weights,
        images=described(images),
        score={} if accuracy is None else _score(accuracy, len(images.val), trained.resolution),
    )
    return Source(subject, to_device(images, RECIPES["standard"], torch.device("cpu")), trained)


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
    spec = catalog.load_arch(name)
    if weights is None and not random_weights:
        raise UsageError(
            f"{name}: is an architecture, and has no weights. Give them with --weights FILE (.safetensors, .pt, .pth), name a "
            "run in its place, or say --random-weights."
        )
    if weights is not None and random_weights:
        raise UsageError("--weights, --random-weights: found both; one of them is allowed.")
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
        network=ready(network),
        origin=f"the architecture {spec.name or Path(name).stem}",
        weights="random, not trained" if weights is None else f"from {weights.name}",
        images=None if images is None else described(images),
    )
    score = None if images is None else to_device(images, RECIPES["standard"], torch.device("cpu"))
    return Source(subject, score)


def is_run(source: str | os.PathLike[str]) -> bool:
    """Return whether a source names a run rather than an architecture."""
    return Path(source).is_dir()


def _score(accuracy: float, images: int, resolution: int) -> dict[str, Any]:
    """Return what is known of an accuracy (0..1)."""
    error = proportion_error(round(accuracy * images), images)
    return {"val_accuracy": accuracy, "val_error": error, "val_images": images, "test_resolution": resolution}
