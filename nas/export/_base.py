"""What is handed over, what an exporter is, and the registry that the files of this folder fill."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt

from nas.errors import ExportError
from nas.models import Network
from nas.registry import Registry
from nas.spec import ArchSpec

Array = npt.NDArray[Any]
Predict = Callable[[Array], Array]


@dataclass(frozen=True)
class Images:
    """What a network must be given: how its training images were normalised, and the classes it tells apart.

    Args:
        name, fingerprint: Of the data. classes: Names in the order of the outputs.
        mean, std: Of each channel, for pixels in 0..1.
        stored_size: Height and width that an image is brought to first, in pixels; None where that is not known.
    """

    name: str
    fingerprint: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stored_size: int | None = None


def plain(text: str) -> str:
    """Return a name as it may stand in a docstring: on one line, with nothing that ends it. Names are given by others."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(line.split()).replace("\\", "/").replace('"', "'")


@dataclass(frozen=True)
class Subject:
    """A network with its weights, to be handed over.

    Args:
        name: What its files and its model are called: a Python name.
        network: On the CPU, float32, in evaluation mode.
        origin: Where it is from, as a phrase: `found by nas search, run NAME`. weights: Where its weights are from.
        images: None where nothing is known of them. searched: Whether it was found by a search.
        score: Of these weights as plain data: val_accuracy, val_error, val_images, and the test_resolution of all that.
    """

    name: str
    spec: ArchSpec
    network: Network
    origin: str
    weights: str
    images: Images | None
    searched: bool = False
    score: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("origin", "weights"):  # they stand in docstrings of the files that are written, and hold names
            object.__setattr__(self, name, plain(getattr(self, name)))

    @property
    def title(self) -> str:
        """Its name for people, as its file gives it, but on one line and without what would end a docstring."""
        return plain(self.spec.name or self.name)

    @property
    def model(self) -> str:
        """Its name among other models: a network of the literature is not to take the place of another one's."""
        return self.name if self.searched else f"{self.name}_nas"

    @property
    def shape(self) -> tuple[int, int, int]:
        """C, H, W of an input."""
        spec = self.spec.resolved()
        return spec.in_channels, spec.resolution, spec.resolution


@dataclass(frozen=True)
class Exporter:
    """One format.

    Args:
        write: Writes a subject's files into a folder and returns their names. Raises `CannotExpress`.
        reload: Returns the written network as a function of images, float32 (N, C, H, W), to scores (N, num_classes). It
            is given the folder and the name, and runs in a fresh process from its source alone: it imports what it
            needs itself, and nothing of this module.
        imports: Packages besides numpy that `reload` may import; all others of `BLOCKED` are out of its reach.
        tolerance: Largest difference of two scores, as a share of the largest score of the source.
        usage: How to load it, as Python for the model card, with {name} and {model}.
        example: A command that shows the written network, with {folder}, {name} and {model}.
        packages: What must be installed to write and check it. extra: The extra that brings them.
    """

    write: Callable[[Subject, Path], tuple[str, ...]]
    reload: Callable[[str, str], Predict]
    imports: tuple[str, ...]
    tolerance: float
    usage: str
    example: str
    packages: tuple[str, ...] = ()
    extra: str = ""


BLOCKED = ("nas", "optuna", "torch", "torchvision", "timm", "onnx", "onnxruntime", "safetensors")
"""What a reloaded network could lean on without saying so."""

EXPORTERS: Registry[Exporter] = Registry("export format")


class CannotExpress(ExportError):
    """A format has no exact way to say what a network is."""


def facts(subject: Subject) -> Mapping[str, Any]:
    """Return what travels with the weights as plain data."""
    spec, images = subject.spec.resolved(), subject.images
    known: dict[str, Any] = dict(subject.score)
    if images is not None:
        known |= {"classes": images.classes, "mean": images.mean, "std": images.std}
        known |= {} if images.stored_size is None else {"stored_size": images.stored_size}
    return {
        "origin": subject.origin,
        "weights": subject.weights,
        "arch_hash": subject.spec.arch_hash,
        "in_channels": spec.in_channels,
        "resolution": spec.resolution,
        "num_classes": spec.num_classes,
        **known,
    }
