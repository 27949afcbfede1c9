"""The values that sources, packing and callers of `nas.data` exchange, and the registry of sources."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

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
        images: uint8, (N, H, W, C), H = W. May be memory-mapped, and is read-only then.
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
        open: Opens the image with Pillow, in any thread. May raise anything; the caller names `where`.
        folder: Name of the folder it lies in, made printable, for images whose class is not known otherwise.
    """

    where: str
    open: Callable[[], Image.Image]
    folder: str = ""


@dataclass(frozen=True)
class RawDataset:
    """What a source knows before any image is decoded. A `module:function` of yours may return one.

    Args:
        name: Short name for tables.
        class_names: Names in label order.
        labels: int64, (N,), in the order of `images`.
        in_val: bool, (N,), true for validation images; None where the source has no validation split.
        images: Starts an iteration over the N images. The order is the same each time.
        files: Relative name, size in bytes and mtime in ns of every file read: the identity of the cache
            entry, which is made again when it changes. Empty: no cache, the decoded images are held in memory.
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
        matches: Whether a `--data` value is one of its own. At most one source matches a value. Never raises.
        read: Reads labels and file names of a value that matched. Raises `DataError`.
        names: Values that are names, also where a file or folder of that name lies in the current directory.
    """

    name: str
    understands: str
    matches: Callable[[str], bool]
    read: Callable[[str], RawDataset]
    names: tuple[str, ...] = ()


SOURCES: Registry[Source] = Registry("data source")


def path_of(value: str) -> Path:
    """Return a `--data` value as a path, with `~` expanded."""
    return Path(os.path.expanduser(value))


def unclaimed(value: str, own: str) -> bool:
    """Return whether no source but `own` matches a value: the question of sources that take what is left."""
    return not any(SOURCES[name].matches(value) for name in SOURCES if name != own)


def identity(path: Path, name: str) -> tuple[str, int, int]:
    """Return name, size and mtime of a file, as `RawDataset.files` wants them; -1 where it cannot be looked at.

    That is no error yet: reading it will be, and says which image it is.
    """
    try:
        seen = path.stat()
    except OSError:
        return name, -1, -1
    return name, seen.st_size, seen.st_mtime_ns


def one_line(text: object) -> str:
    """Return text that prints on one line everywhere: control characters and undecodable bytes are escaped."""
    plain = str(text).encode("utf-8", "backslashreplace").decode()
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in plain)


def reason(error: BaseException) -> str:
    """Return what an exception says, in one line without a full stop, or its kind where it says nothing."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return one_line(" ".join(said.split()).rstrip(".")) or type(error).__name__
