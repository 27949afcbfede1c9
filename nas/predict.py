"""Images named by a trained network, prepared as its validation images were, and scored where their folders are classes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from nas import catalog
from nas.data import load as load_data
from nas.data.augment import eval_batch
from nas.data.decode import Decoded, Layout
from nas.data.loose import Broken, RawImage, Result, broken_error, decoding, one_line
from nas.devices import out_of_memory
from nas.errors import DataError, DeviceError, UsageError
from nas.export.trained import (
    Trained,
    described,
    is_export,
    kind_of,
    metadata,
    of_export,
    of_file,
    of_search,
    of_training,
    run_images,
)
from nas.train.loop import proportion_error

PIXELS = 4_000_000
"""Pixels of a batch unless its size is given: small images go through in hundreds, large ones one by one."""

MOST = 250
"""Images of a batch, at most: as many as `nas.train.loop.correct` scores at a time."""

ALL = "all of them"
"""What the last row of a score is called."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Named:
    """What a network says of an image.

    Args:
        path: The image. folder: Name of the folder it lies in.
        classes, probabilities: The most probable ones, from the first.
    """

    path: str
    folder: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


@dataclass
class Score:
    """How often the images in folders named as a class were given that class.

    Args:
        classes: Of the network. images, right: Of each class that was seen.
        elsewhere: Images in folders of other names. other: One of those names.
    """

    classes: tuple[str, ...]
    images: dict[str, int] = field(default_factory=dict)
    right: dict[str, int] = field(default_factory=dict)
    elsewhere: int = 0
    other: str = ""

    def __post_init__(self) -> None:
        self._known = frozenset(self.classes)

    def add(self, found: Named) -> None:
        """Count an image."""
        folder = found.folder
        if folder not in self._known:
            self.elsewhere += 1
            self.other = self.other or folder
            return
        self.images[folder] = self.images.get(folder, 0) + 1
        self.right[folder] = self.right.get(folder, 0) + (found.classes[0] == folder)

    def rows(self) -> list[tuple[str, int, int, float, float]]:
        """Return class, images, right, accuracy (0..1) and its standard error, in the order of the classes; `ALL` last."""
        seen = [name for name in self.classes if name in self.images]
        counts = [(name, self.images[name], self.right[name]) for name in seen]
        if not counts:
            return []
        counts.append((ALL, sum(self.images.values()), sum(self.right.values())))
        return [(name, n, k, k / n, proportion_error(k, n)) for name, n, k in counts]


def load_trained(
    source: str | os.PathLike[str],
    *,
    weights: Path | None = None,
    data: str | None = None,
    progress: Progress = lambda done, total: None,
) -> Trained:
    """Return a network that is ready to name images.

    Args:
        source: The run of a search or a training, an export's folder, or an architecture by name or YAML file.
        weights: Of an architecture.
        data: The images it was trained on, where class names and normalisation are not with the weights.
        progress: Called with (images decoded, all of them) where `data` is read.

    Raises:
        UsageError: it is not known how its images must be prepared. NasError: one of the others, as they say.
    """
    if not Path(source).is_dir():
        if weights is None:
            catalog.load_arch(source)  # says it where there is none
            raise UsageError(
                f"{source}: is an architecture, and has no weights. Give them with --weights FILE, or name a run or an export."
            )
        return _prepared(of_file(os.fspath(source), weights), weights, data, progress)
    if weights is not None:
        raise UsageError(f"--weights: {source} has weights of its own. Leave it out, or name an architecture.")
    folder = Path(source)
    if is_export(folder):
        return _prepared(of_export(folder), folder, data, progress)
    trained = of_training(folder) if kind_of(folder) == "train" else of_search(folder)
    if data is None and trained.images is not None:
        return trained
    # Manifests of earlier versions do not say how images were normalised; the images do.
    return replace(trained, images=described(run_images(trained, data, progress)))


def _prepared(trained: Trained, where: Path, data: str | None, progress: Progress) -> Trained:
    """Return a network that is not of a run, with what is known of its images."""
    spec = trained.spec.resolved()
    if data is not None:
        found = load_data(data, resolution=spec.resolution, progress=progress)
        trained = replace(trained, images=described(found))
    images = trained.images
    if images is None or images.stored_size is None:
        if "val_accuracy" in metadata(where) and (where.parent / "manifest.json").is_file():
            raise UsageError(f"{where}: is of the run {where.parent}. Name the run in place of the architecture.")
        raise UsageError(
            f"{where}: does not say how its images were normalised, and a network is only right on images that are prepared as "
            "in its training. Name those images with --data, or name its run, or what `nas export` writes of it."
        )
    if (len(images.classes), len(images.mean), len(images.std)) != (spec.num_classes, *[spec.in_channels] * 2):
        raise DataError(
            f"{data or where}: found {len(images.classes)} classes and {len(images.mean)} channels; the network has "
            f"{spec.num_classes} and {spec.in_channels}. Name the images that it was trained on."
        )
    return trained


def predict(
    trained: Trained,
    images: Iterable[RawImage],
    *,
    top: int = 1,
    batch_size: int | None = None,
    device: torch.device | None = None,
    skip_broken: bool = False,
) -> Iterator[Named | Broken]:
    """Yield what a network says of each image, in order; of one that cannot be read, with `skip_broken`, what is wrong with it.

    An image is decoded and resized to the stored size of the training's data, then to the resolution that the network was
    scored at, by the functions that do it in a training. A batch of images is in memory, and a few that are being decoded.

    Args:
        trained: From `load_trained`. images: From `nas.data.loose.find`.
        top: Classes to name for an image. batch_size: Images in a batch; as many as `PIXELS` hold unless given.
        device: The CPU unless given. The network computes in float32 on all of them, as its exports do; on CUDA it is scored
            in bfloat16 while it trains.

    Raises:
        UsageError: more classes are asked for than there are. DataError: an image cannot be read. DeviceError: no memory for
            a batch.
    """
    known, device = trained.images, device or torch.device("cpu")
    assert known is not None and known.stored_size is not None
    if not 1 <= top <= len(known.classes):
        raise UsageError(
            f"--top: found {top}; the network tells {len(known.classes)} classes apart. Give 1 to that many."
        )
    size = batch_size or max(1, min(MOST, PIXELS // trained.resolution**2))
    namer = _Namer(trained, known.classes, torch.tensor(known.mean), torch.tensor(known.std), device, top)
    # Images that have the stored size already stay as they are, so resizing is right whether or not training did.
    with decoding(images, Layout(known.stored_size, len(known.mean), resize=True)) as results:
        while chunk := list(islice(results, size)):
            good: list[tuple[Result, Decoded]] = []
            for result in chunk:
                if isinstance(result.image, Decoded):
                    good.append((result, result.image))
                elif not skip_broken:
                    raise DataError(one_line(broken_error([result.image], 1)))
            named = iter(namer.name(good) if good else [])
            for result in chunk:
                yield result.image if isinstance(result.image, Broken) else next(named)


class _Namer:
    """A network on its device, and what its images are normalised with."""

    def __init__(
        self,
        trained: Trained,
        classes: Sequence[str],
        mean: torch.Tensor,
        std: torch.Tensor,
        device: torch.device,
        top: int,
    ) -> None:
        network = deepcopy(trained.network).to(device)
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # absent from the stubs
        self.mean, self.std, self.device = mean.to(device), std.to(device), device
        self.classes, self.resolution, self.top = classes, trained.resolution, top

    @torch.inference_mode()
    def name(self, found: Sequence[tuple[Result, Decoded]]) -> list[Named]:
        """Name a batch."""
        try:
            pixels = torch.from_numpy(np.stack([image.pixels for _, image in found])).to(self.device)
            batch = eval_batch(pixels, resolution=self.resolution, mean=self.mean, std=self.std)
            # In float32 as an export computes; TensorFloat-32, which convolutions on CUDA would take, has 10 bits of it.
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                scores = self.network(batch)
            # Stable: of equal scores the first class wins, as with `argmax` in training.
            classes = scores.sort(dim=1, descending=True, stable=True).indices[:, : self.top]
            shares = scores.float().softmax(1).gather(1, classes)
        except Exception as error:
            if not out_of_memory(error):
                raise
            raise DeviceError(
                f"{self.device}: no memory for a batch of {len(found)} images of {self.resolution} pixels. Give a smaller "
                "--batch-size."
            ) from None
        return [
            Named(result.where, result.folder, tuple(self.classes[label] for label in labels), tuple(row))
            for (result, _), labels, row in zip(found, classes.tolist(), shares.tolist(), strict=True)
        ]


def header(top: int) -> list[str]:
    """Return the names of the columns of a table of predictions."""
    return ["path", "class", "probability"] + [
        name for rank in range(2, top + 1) for name in (f"class_{rank}", f"probability_{rank}")
    ]


def row(found: Named) -> list[str]:
    """Return the row of an image, in the order of the columns."""
    cells = [found.path]
    for name, share in zip(found.classes, found.probabilities, strict=True):
        cells += [name, f"{share:.6f}"]
    return cells
