"""CIFAR archives and folders, and the reader of pickles that runs nothing."""

from __future__ import annotations

import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.data import load
from nas.errors import DataError

META = {b"label_names": [b"cat", b"dog"]}


def batch(seed: int, count: int = 8, key: bytes = b"labels") -> dict[bytes, Any]:
    pixels = np.random.RandomState(seed).randint(0, 256, (count, 3072), dtype=np.uint8)
    return {b"data": pixels, key: [row % 2 for row in range(count)], b"filenames": [b"x.png"] * count}


def cifar_10(folder: Path, protocol: int = 2) -> Path:
    root = folder / "cifar-10-batches-py"
    root.mkdir()
    (root / "batches.meta").write_bytes(pickle.dumps(META, protocol=protocol))
    for number in range(1, 6):
        (root / f"data_batch_{number}").write_bytes(pickle.dumps(batch(number), protocol=protocol))
    (root / "test_batch").write_bytes(b"never read")
    (root / "readme.html").write_text("hello")
    return root


@pytest.mark.parametrize("protocol", [2, 4])
def test_folder(tmp_path: Path, protocol: int) -> None:
    data = load(str(cifar_10(tmp_path, protocol)), resolution=32)
    assert (data.name, data.class_names, data.size, data.in_channels) == ("cifar-10", ("cat", "dog"), 32, 3)
    assert (len(data.train), len(data.val)) == (34, 6)
    planes = batch(1)[b"data"][0].reshape(3, 32, 32)
    assert any(np.array_equal(image, np.moveaxis(planes, 0, 2)) for image in [*data.train.images, *data.val.images])
    assert any("test split (test_batch) was left untouched" in note for note in data.notes)


def test_archive_is_the_folder(tmp_path: Path) -> None:
    root = cifar_10(tmp_path)
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(root, root.name)
    packed = load(str(tmp_path / "cifar-10-python.tar.gz"), resolution=32)
    assert packed.fingerprint == load(str(root), resolution=32).fingerprint


def test_cifar_100_has_its_fine_labels(tmp_path: Path) -> None:
    root = tmp_path / "cifar-100-python"
    root.mkdir()
    names = {b"fine_label_names": [b"apple", b"bear"], b"coarse_label_names": [b"x"]}
    (root / "meta").write_bytes(pickle.dumps(names, protocol=2))
    (root / "train").write_bytes(pickle.dumps(batch(0, 40, b"fine_labels"), protocol=2))
    data = load(str(root), resolution=32)
    assert (data.name, data.class_names, len(data.train)) == ("cifar-100", ("apple", "bear"), 34)


class Calls:
    def __init__(self, function: Any, *arguments: object) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize(
    ("function", "arguments", "said"),
    [
        (eval, ("open('pwned', 'w')",), "asks for [_a-z]+[.]eval"),
        (getattr, ("", "join"), "asks for [_a-z]+[.]getattr"),
        (np.load, ("x.npy",), r"asks for numpy\.\S*load"),
        (np.ndarray, ((10**15,),), "cannot be read as a CIFAR file"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_is_run(
    tmp_path: Path, function: Any, arguments: tuple[Any, ...], said: str, protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = cifar_10(tmp_path)
    content = batch(1) | {b"extra": Calls(function, *arguments)}
    (root / "data_batch_1").write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(DataError, match=rf"data_batch_1: .*{said}"):
        load(str(root), resolution=32)
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({b"data": np.zeros((8, 100), dtype=np.uint8)}, "data is not bytes of shape N x 3072"),
        ({b"data": np.zeros((8, 3072), dtype=np.float32)}, "data is not bytes of shape N x 3072"),
        ({b"data": np.zeros((7, 3072), dtype=np.uint8)}, "8 labels for 7 images"),
        ({b"data": [1, 2]}, "cannot be read as a CIFAR file"),
        ({b"labels": "cat"}, "labels is not a list of numbers"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, change: dict[bytes, Any], said: str) -> None:
    root = cifar_10(tmp_path)
    (root / "data_batch_1").write_bytes(pickle.dumps(batch(1) | change, protocol=2))
    with pytest.raises(DataError, match=f"data_batch_1: .*{said}"):
        load(str(root), resolution=32)
