"""IDX folders under their usual names, and Fashion-MNIST from its Debian package."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from nas.data import SOURCES, idx, load
from nas.errors import DataError


def write(path: Path, array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def images(count: int = 12, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.RandomState(seed).randint(0, 256, (count, 7, 7), dtype=np.uint8)


def labels(count: int = 12) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return (np.arange(count) % 3).astype(np.uint8)


@pytest.mark.parametrize(
    "names", ["{}-{}-idx{}-ubyte", "{}-{}.idx{}-ubyte", "{}-{}-idx{}-ubyte.gz", "emnist-x-{}-{}-idx{}-ubyte"]
)
def test_usual_names(tmp_path: Path, names: str) -> None:
    root = tmp_path / "digits"
    write(root / names.format("train", "images", 3), images())
    write(root / names.format("train", "labels", 1), labels())
    (root / names.format("t10k", "images", 3)).write_bytes(b"never read")
    data = load(str(root), resolution=32)
    assert (data.name, data.class_names, data.in_channels, data.size) == ("digits", ("0", "1", "2"), 1, 7)
    assert {image.tobytes() for image in [*data.train.images, *data.val.images]} == {
        image.tobytes() for image in images()
    }
    assert any("test split (test_images) was left untouched" in note for note in data.notes)


def test_a_validation_split(tmp_path: Path) -> None:
    for name, count in (("train", 12), ("validation", 6)):
        write(tmp_path / "digits" / f"{name}-images-idx3-ubyte", images(count, seed=count))
        write(tmp_path / "digits" / f"{name}-labels-idx1-ubyte", labels(count))
    data = load(str(tmp_path / "digits"), resolution=32)
    assert np.array_equal(data.val.images[..., 0], images(6, seed=6))
    assert data.val.labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_both_forms_of_a_file(tmp_path: Path) -> None:
    for suffix in ("", ".gz"):
        write(tmp_path / "digits" / f"train-images-idx3-ubyte{suffix}", images())
    with pytest.raises(DataError, match=r"found train-images-idx3-ubyte and train-images-idx3-ubyte\.gz; one of them"):
        load(str(tmp_path / "digits"), resolution=32)


def test_interchanged_images_and_labels(tmp_path: Path) -> None:
    write(tmp_path / "digits" / "train-images-idx3-ubyte", labels())
    write(tmp_path / "digits" / "train-labels-idx1-ubyte", labels())
    with pytest.raises(DataError, match="train-images-idx3-ubyte: has 1 axes; 3 are expected"):
        load(str(tmp_path / "digits"), resolution=32)


def test_a_file_that_goes_on(tmp_path: Path) -> None:
    write(tmp_path / "digits" / "train-images-idx3-ubyte", images())
    write(tmp_path / "digits" / "train-labels-idx1-ubyte", labels())
    with open(tmp_path / "digits" / "train-labels-idx1-ubyte", "ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="train-labels-idx1-ubyte: goes on after 12 values"):
        load(str(tmp_path / "digits"), resolution=32)


def test_a_damaged_gz(tmp_path: Path) -> None:
    write(tmp_path / "digits" / "train-images-idx3-ubyte.gz", images())
    write(tmp_path / "digits" / "train-labels-idx1-ubyte", labels())
    path = tmp_path / "digits" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: cannot be read \(.*\); a whole IDX file"):
        load(str(tmp_path / "digits"), resolution=32)


def test_fashion_mnist_by_its_name() -> None:
    if not idx.FASHION_FOLDER.is_dir():
        pytest.skip("needs the Debian package dataset-fashion-mnist")
    raw = SOURCES["idx"].read("fashion-mnist")
    assert (raw.name, raw.class_names[9]) == ("fashion-mnist", "Ankle boot")
    assert np.bincount(raw.labels).tolist() == [6_000] * 10
    assert [name for name, _, _ in raw.files] == ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"]
    first = next(raw.images())
    assert (raw.labels[0], first.open().size) == (9, (28, 28))
