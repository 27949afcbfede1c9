"""The values that sources, packing and callers of `nas.data` exchange, and the registry of sources."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from nas.registry import Registry

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Split:
    """Decoded images and their labels.

    Args:
        images: uint8, (N, H, W, C), H = W. May be memory-mapped (copy on write, so the file never changes).
        labels: int64, (N,), indices into the class names.
    """

    images: Pixels
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """Packed images in a training and a validation split, ready to be copied to a device.

    Args:
        name: Short name for tables: the built-in name, or the last part of the path.
        train: Images to train on.
        val: Images to score on. Disjoint from `train`.
        class_names: Names in label order.
        fingerprint: 16 hex digits over packed pixels, labels, split and class names; not over the path.
        mean: Mean of each channel of the training images, in 0..1.
        std: Standard deviation of each channel of the training images, in 0..1, at least 1/255.
        notes: Sentences for people: how the split was made, what was left untouched, what was skipped.
    """

    name: str
    train: Split
    val: Split
    class_names: tuple[str, ...]
    fingerprint: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def in_channels(self) -> int:
        """Channels of an image: 1 (grey) or 3 (RGB)."""
        return int(self.train.images.shape[3])

    @property
    def size(self) -> int:
        """Height and width of the stored images, in pixels."""
        return int(self.train.images.shape[1])


@dataclass(frozen=True)
class RawImage:
    """One image that is not decoded yet.

    Args:
        where: The file, or the file and row, as an error message names it.
        open: Opens the image with Pillow. May raise anything; the caller names `where`.
    """

    where: str
    open: Callable[[], Image.Image]


@dataclass(frozen=True)
class RawDataset:
    """What a source knows before any image is decoded.

    Args:
        name: Short name for tables.
        class_names: Names in label order.
        labels: int64, (N,), in the order of `images`.
        in_val: bool, (N,), true for validation images; None where the source has no validation split.
        images: Starts an iteration over the N images. The order is the same each time.
        files: Relative name, size in bytes and mtime in ns of every file read: the identity of the cache
            entry. Empty where decoding is so cheap that no cache is wanted.
        notes: Sentences for people about what was read, left untouched or skipped.
    """

    name: str
    class_names: tuple[str, ...]
    labels: Labels
    in_val: Mask | None
    images: Callable[[], Iterator[RawImage]]
    files: tuple[tuple[str, int, int], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """One way of storing images.

    Args:
        name: Name in the registry.
        understands: What it reads, as a phrase for error messages.
        matches: Whether a `--data` value is one of its own. At most one source matches a value.
        read: Reads labels and file names of a value that matched. Raises `DataError`.
    """

    name: str
    understands: str
    matches: Callable[[str], bool]
    read: Callable[[str], RawDataset]


SOURCES: Registry[Source] = Registry("data source")
