"""Arrays, CIFAR and IDX files, tables and functions that cannot be used, and caches that cannot be written."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_inputs import Make, case, two_classes
from data_samples import encoded, write_parquet

from nas.data import _store, idx

# ---------------------------------------------------------------- arrays


def npz_of(folder: Path, **arrays: Any) -> str:
    images = np.random.RandomState(0).randint(0, 256, (8, 6, 6, 3), dtype=np.uint8)
    np.savez(folder / "photos.npz", **({"x_train": images, "y_train": np.arange(8) % 2} | arrays))
    return "photos.npz"


@case("npz", "a file that is no npz", "photos.npz: cannot be read as npz (", foreign=True)
def no_npz(folder: Path, patch: pytest.MonkeyPatch) -> object:
    (folder / "photos.npz").write_bytes(b"nothing of the kind")
    return "photos.npz"


@case("npz", "an array of Python objects", "photos.npz: x_train: holds Python objects", "can run code")
def object_array(folder: Path, patch: pytest.MonkeyPatch) -> object:
    return npz_of(folder, x_train=np.array([np.zeros((2, 2)), np.zeros((3, 3))], dtype=object))


@case("npz", "fewer labels than images", "y_train: holds 5 labels for the 8 images of photos.npz: x_train")
def few_labels(folder: Path, patch: pytest.MonkeyPatch) -> object:
    return npz_of(folder, y_train=np.arange(5) % 2)


@case("npz", "images without labels", "x_train has no labels beside it; y_train is needed")
def no_labels(folder: Path, patch: pytest.MonkeyPatch) -> object:
    np.savez(folder / "photos.npz", x_train=np.zeros((4, 2, 2), dtype=np.uint8))
    return "photos.npz"


@case("npz", "arrays of other names", "found the arrays a, b; arrays called x_train and y_train")
def other_names(folder: Path, patch: pytest.MonkeyPatch) -> object:
    np.savez(folder / "photos.npz", a=np.zeros(3), b=np.zeros(3))
    return "photos.npz"


@case("npz", "floats that were normalised", "x_train: image 0 has pixels from -1 to 1; floats in 0..1 or 0..255")
def normalised(folder: Path, patch: pytest.MonkeyPatch) -> object:
    return npz_of(folder, x_train=np.tile(np.array([-1.0, 1.0]), (8, 4, 2)))


@case("npz", "a pixel that is not a number", "x_train: image 5 has pixels from nan to nan")
def not_a_number(folder: Path, patch: pytest.MonkeyPatch) -> object:
    images = np.zeros((8, 4, 4))
    images[5, 1, 1] = np.nan
    return npz_of(folder, x_train=images)


@case("npz", "images in 64-bit integers", "x_train: is int64; uint8, or floats")
def wide_integers(folder: Path, patch: pytest.MonkeyPatch) -> object:
    return npz_of(folder, x_train=np.zeros((8, 4, 4), dtype=np.int64))


@case("npz", "channels that could be first or last", "x_train: has shape 8x3x9x3; (N, H, W)")
def ambiguous(folder: Path, patch: pytest.MonkeyPatch) -> object:
    return npz_of(folder, x_train=np.zeros((8, 3, 9, 3), dtype=np.uint8))


@case("npz", "a negative label", "y_train: row 7 has label -1; 0 and more are allowed")
def negative_label(folder: Path, patch: pytest.MonkeyPatch) -> object:
    return npz_of(folder, y_train=np.array([0, 1, 0, 1, 0, 1, 0, -1]))


@case("npz", "one-hot labels", "y_train: is float64 of shape 8x2; one whole number", "labels.argmax(axis=1)")
def one_hot(folder: Path, patch: pytest.MonkeyPatch) -> object:
    return npz_of(folder, y_train=np.eye(2)[np.arange(8) % 2])


# ---------------------------------------------------------------- CIFAR and IDX


def cifar_of(folder: Path) -> Path:
    root = folder / "cifar-10-batches-py"
    root.mkdir()
    (root / "batches.meta").write_bytes(pickle.dumps({"label_names": ["cat", "dog"]}))
    for number in range(1, 6):
        pixels = np.random.RandomState(number).randint(0, 256, (4, 3072), dtype=np.uint8)
        (root / f"data_batch_{number}").write_bytes(pickle.dumps({"data": pixels, "labels": [0, 1] * 2}, protocol=2))
    return root


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch pwned",)


@case("cifar", "a pickle that runs a program", "the pickle asks for posix.system, which can run", "nothing was run")
def evil_pickle(folder: Path, patch: pytest.MonkeyPatch) -> object:
    root = cifar_of(folder)
    (root / "data_batch_3").write_bytes(pickle.dumps({"data": Evil(), "labels": []}))
    return root.name


@case("cifar", "a pickle that ends early", "data_batch_2: cannot be read as a CIFAR file (", foreign=True)
def cut_pickle(folder: Path, patch: pytest.MonkeyPatch) -> object:
    second = cifar_of(folder) / "data_batch_2"
    second.write_bytes(second.read_bytes()[:-100])
    return "cifar-10-batches-py"


@case("cifar", "a missing batch", "found no data_batch_4; all files of the original archive")
def missing_batch(folder: Path, patch: pytest.MonkeyPatch) -> object:
    (cifar_of(folder) / "data_batch_4").unlink()
    return "cifar-10-batches-py"


def idx_of(folder: Path, *, labels: int = 6, magic: bytes = b"\0\0\x08\x03", images: int = 6) -> str:
    root = folder / "digits"
    root.mkdir()
    content = magic + struct.pack(">III", 6, 5, 5) + np.random.RandomState(0).bytes(images * 25)
    (root / "train-images-idx3-ubyte").write_bytes(content)
    text = b"\0\0\x08\x01" + struct.pack(">I", labels) + bytes(row % 2 for row in range(labels))
    (root / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(text))
    return "digits"


@case("idx", "another magic number", "train-images-idx3-ubyte: begins with 00 00 0d 03; an IDX file")
def magic_number(folder: Path, patch: pytest.MonkeyPatch) -> object:
    return idx_of(folder, magic=b"\0\0\x0d\x03")


@case("idx", "a file that ends early", "train-images-idx3-ubyte: ends in row 4 of 6")
def cut_idx(folder: Path, patch: pytest.MonkeyPatch) -> object:
    return idx_of(folder, images=4)


@case("idx", "fewer labels than images", "train-labels-idx1-ubyte.gz: holds 5 labels for the 6 images of")
def idx_counts(folder: Path, patch: pytest.MonkeyPatch) -> object:
    return idx_of(folder, labels=5)


@case("idx", "test files only", "found t10k-images-idx3-ubyte; train-images-idx3-ubyte and")
def idx_test_only(folder: Path, patch: pytest.MonkeyPatch) -> object:
    (folder / "digits").mkdir()
    (folder / "digits" / "t10k-images-idx3-ubyte").write_bytes(b"never read")
    return "digits"


@case("idx", "`fashion-mnist` that is not installed", "apt-get install dataset-fashion-mnist", "fashion-mnist-subset")
def no_fashion(folder: Path, patch: pytest.MonkeyPatch) -> object:
    patch.setattr(idx, "_files", lambda _: [])
    return "fashion-mnist"


# ---------------------------------------------------------------- tables


@case("parquet", "a file that is no parquet", "photos.parquet: cannot be read as parquet (", foreign=True)
def no_parquet(folder: Path, patch: pytest.MonkeyPatch) -> object:
    (folder / "photos.parquet").write_bytes(b"nothing of the kind")
    return "photos.parquet"


@case("parquet", "no image column", "found no image column among photo (", "may be called image or img")
def no_image_column(folder: Path, patch: pytest.MonkeyPatch) -> object:
    return write_parquet(folder / "photos.parquet", [0, 1] * 3, image="photo").name


@case("parquet", "a row without label", "row 4 has no label")
def null_label(folder: Path, patch: pytest.MonkeyPatch) -> object:
    return write_parquet(folder / "photos.parquet", [0, 1, 0, 1, None]).name


@case("parquet", "a label column of nothing", "column 'label' is null; whole numbers or text")
def null_labels(folder: Path, patch: pytest.MonkeyPatch) -> object:
    return write_parquet(folder / "photos.parquet", [None] * 4).name


@case("parquet", "a label beyond the class names", "row 3 has label 2; 0 to 1 are allowed")
def label_out_of_range(folder: Path, patch: pytest.MonkeyPatch) -> object:
    return write_parquet(folder / "photos.parquet", [0, 1, 0, 2], names=["cat", "dog"]).name


@case("parquet", "a missing part", "part 0 of 2 is missing beside train-00001-of-00002.parquet")
def missing_part(folder: Path, patch: pytest.MonkeyPatch) -> object:
    write_parquet(folder / "photos" / "train-00001-of-00002.parquet", [0, 1])
    return None


@case("parquet", "a row without image", "photos.parquet: row 2: cannot be decoded (the row has no image bytes)")
def null_image(folder: Path, patch: pytest.MonkeyPatch) -> object:
    cells: Callable[[int], bytes | None] = lambda row: None if row == 2 else encoded(row)  # noqa: E731
    return write_parquet(folder / "photos.parquet", [0, 1] * 4, cells=cells).name


def arrow_of(folder: Path, splits: list[str], content: bytes = b"nothing of the kind") -> str:
    root = folder / "photos"
    root.mkdir()
    (root / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
    for split in splits:
        (root / split).mkdir()
        files = [{"filename": "data-00000-of-00001.arrow"}]
        (root / split / "state.json").write_text(json.dumps({"_data_files": files}))
        (root / split / "dataset_info.json").write_text("{}")
        (root / split / "data-00000-of-00001.arrow").write_bytes(content)
    return "photos"


@case("arrow", "no training split", "found the splits test, validation; a split called train is needed")
def arrow_without_train(folder: Path, patch: pytest.MonkeyPatch) -> object:
    return arrow_of(folder, ["test", "validation"])


@case("arrow", "a file that is no Arrow stream", "data-00000-of-00001.arrow: cannot be read as Arrow", foreign=True)
def no_arrow(folder: Path, patch: pytest.MonkeyPatch) -> object:
    return arrow_of(folder, ["train"])


@case("arrow", "a split without its state", "photos/train/state.json: cannot be read (No such file or directory)")
def arrow_without_state(folder: Path, patch: pytest.MonkeyPatch) -> object:
    arrow_of(folder, ["train"])
    (folder / "photos" / "train" / "state.json").unlink()
    return None


# ---------------------------------------------------------------- Python functions

MODULE = """
import numpy as np
from nas.data import RawDataset

number = 3

def fails():
    return {}["missing"]

def rubbish():
    return [1, 2, 3]

def nothing():
    pass

def ragged():
    return [np.zeros((2, 2)), np.zeros((3, 3))], [0, 1]

def raw(count=4, top=2):
    labels = np.arange(4) % top
    return RawDataset("raw", ("a", "b"), labels, None, lambda: iter(()), (), ())

def out_of_range():
    return raw(top=3)
"""


def function(name: str) -> Make:
    def make(folder: Path, patch: pytest.MonkeyPatch) -> object:
        (folder / "bad_photos.py").write_text(MODULE)
        (folder / "bad_import.py").write_text("import bad_photos_helper")
        return name

    return make


for _value, _name, _says, _foreign in (
    ("no_such_photos:load", "a module that does not exist", "there is no module 'no_such_photos'", False),
    ("bad_import:load", "a module that cannot be imported", "importing bad_import raised ModuleNotFoundError (", True),
    ("bad_photos:fail", "a function that does not exist", "bad_photos has no 'fail'", False),
    ("bad_photos:number", "something that is no function", "is int; a function is needed", False),
    ("bad_photos:fails", "a function that fails", "raised KeyError ('missing')", False),
    ("bad_photos:rubbish", "a function that returns something else", "returned list of 3; (images, labels)", False),
    ("bad_photos:nothing", "a function that returns nothing", "returned nothing (None); (images, labels)", False),
    ("bad_photos:ragged", "images of several shapes", "images: list of which numpy.asarray makes no array", False),
    ("bad_photos:raw", "fewer images than labels", "found 0 images for 4 labels", False),
    ("bad_photos:out_of_range", "labels without a class", "with labels from 0 to 2 for 2 class names", False),
):
    case("function", _name, _says, foreign=_foreign)(function(_value))


# ---------------------------------------------------------------- the cache


@case("cache", "a disk that fills up", "cannot be written (No space left on device)", "set NAS_CACHE to another folder")
def disk_full(folder: Path, patch: pytest.MonkeyPatch) -> object:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    two_classes(folder)
    patch.setattr(_store.os, "fsync", full)
    return None


@case("cache", "a cache that cannot be written", "packs: the packed images cannot be written (Not a directory)")
def unwritable_cache(folder: Path, patch: pytest.MonkeyPatch) -> object:
    two_classes(folder)
    (folder / "cache").write_text("a file where the folder should be")
    patch.setenv("NAS_CACHE", str(folder / "cache"))
    return None
