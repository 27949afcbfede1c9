"""The built-in source: 14,000 images of Fashion-MNIST, so that a first search needs no download.

Fashion-MNIST (Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747) is MIT-licensed; see `builtin/LICENSE`. The
subset takes 1,200 training and 200 validation images of each class from the 60,000 training images; the
10,000 test images of the original stay untouched.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from nas.data._types import SOURCES, Pixels, RawDataset, RawImage, Source
from nas.errors import DataError

NAME = "fashion-mnist-subset"
FILE = Path(__file__).parent / "builtin" / "fashion_mnist_subset.npz"
TRAIN_PER_CLASS = 1_200
VAL_PER_CLASS = 200
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def make_subset(folder: Path) -> dict[str, Pixels]:
    """Take the subset from the training files of Fashion-MNIST.

    The built-in file is `numpy.savez_compressed(FILE, **make_subset(folder))`, with the `folder` of the
    Debian package `dataset-fashion-mnist`: `/usr/share/datasets/fashion-mnist`.

    Args:
        folder: Holds `train-images-idx3-ubyte.gz` and `train-labels-idx1-ubyte.gz`.

    Returns:
        `train_images` (12000, 28, 28), `train_labels` (12000,), `val_images` (2000, 28, 28) and
        `val_labels` (2000,), all uint8, each in the order of the original file.
    """
    # IDX: a header of 16 bytes before the images and 8 before the labels, then plain bytes.
    images = _bytes_of(folder / "train-images-idx3-ubyte.gz", header=16).reshape(-1, 28, 28)
    labels = _bytes_of(folder / "train-labels-idx1-ubyte.gz", header=8)
    random = np.random.RandomState(0)
    train: list[npt.NDArray[np.int64]] = []
    val: list[npt.NDArray[np.int64]] = []
    for label in range(len(CLASS_NAMES)):
        chosen = random.permutation(np.flatnonzero(labels == label))[: TRAIN_PER_CLASS + VAL_PER_CLASS]
        train.append(chosen[:TRAIN_PER_CLASS])
        val.append(chosen[TRAIN_PER_CLASS:])
    train_rows, val_rows = np.sort(np.concatenate(train)), np.sort(np.concatenate(val))
    return {
        "train_images": images[train_rows],
        "train_labels": labels[train_rows],
        "val_images": images[val_rows],
        "val_labels": labels[val_rows],
    }


def _bytes_of(path: Path, *, header: int) -> Pixels:
    with gzip.open(path, "rb") as file:
        return np.frombuffer(file.read(), dtype=np.uint8)[header:]


def _read(source: str) -> RawDataset:
    try:
        with open(FILE, "rb") as file, np.load(file) as arrays:
            images = np.concatenate([arrays["train_images"], arrays["val_images"]])
            labels = np.concatenate([arrays["train_labels"], arrays["val_labels"]]).astype(np.int64)
            num_val = len(arrays["val_labels"])
    except Exception as error:  # absent or damaged: zipfile, zlib and NumPy each have their own error types
        raise DataError(
            f"{FILE}: the built-in images cannot be read ({error}); the file of the package is expected. "
            f"Install the package again."
        ) from error

    def iterate() -> Iterator[RawImage]:
        for row, image in enumerate(images):
            yield RawImage(where=f"{source}: image {row}", open=partial(Image.fromarray, image))

    in_val = np.arange(len(labels)) >= len(labels) - num_val
    note = (
        "A subset of the 60,000 training images of Fashion-MNIST (MIT licence, Zalando SE), "
        "the same number of each class. The 10,000 test images of the original are not part of it."
    )
    # No `files`: decompressing takes a fraction of a second, so a copy in the cache would only cost space.
    return RawDataset(
        name=NAME,
        class_names=CLASS_NAMES,
        labels=labels,
        in_val=in_val,
        images=iterate,
        files=(),
        notes=(note,),
    )


SOURCES.register(
    NAME,
    Source(
        name=NAME,
        understands=f"{NAME!r} (built in)",
        matches=lambda value: value == NAME,
        read=_read,
        names=(NAME,),
    ),
)
