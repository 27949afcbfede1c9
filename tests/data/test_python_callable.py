"""`module:function`: what it may return, and that nothing of the process is changed by asking it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from nas.data import load
from nas.errors import DataError

MODULE = """
import numpy as np
from PIL import Image
from nas.data import RawDataset, RawImage

images = np.random.RandomState(0).randint(0, 256, (20, 6, 6, 3), dtype=np.uint8)
labels = np.arange(20) % 2

def pair():
    return images, labels

def lists():
    return images.tolist() and [Image.fromarray(each) for each in images], ["cat" if each else "ant" for each in labels]

def splits():
    return {"x_train": images[:14], "y_train": labels[:14], "x_val": images[14:], "y_val": labels[14:],
            "class_names": ["ant", "cat"]}

def raw(files=()):
    def read():
        for row, each in enumerate(images):
            yield RawImage(f"row {row}", lambda each=each: Image.fromarray(each))
    return RawDataset("mine", ("ant", "cat"), labels.astype(np.int64), None, read, files, ("From my camera.",))

def cached():
    return raw((("version 1", 20, 0),))

def breaks():
    def read():
        yield RawImage("row 0", lambda: Image.fromarray(images[0]))
        raise RuntimeError("the camera is off")
    return RawDataset("mine", ("ant", "cat"), labels.astype(np.int64), None, read, (), ())

class Shelf:
    pair = staticmethod(pair)
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "camera_shelf.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "camera_shelf", raising=False)


def test_pairs_lists_and_nested_names_are_the_same_pixels(cache: Path) -> None:
    before = list(sys.path)
    pair = load("camera_shelf:pair", resolution=32)
    assert sys.path == before
    assert (pair.name, pair.class_names, len(pair.train), len(pair.val)) == ("pair", ("0", "1"), 16, 4)
    lists = load("camera_shelf:lists", resolution=32)
    assert lists.class_names == ("ant", "cat")
    assert np.array_equal(lists.train.images, pair.train.images)
    assert load("camera_shelf:Shelf.pair", resolution=32).fingerprint == pair.fingerprint
    assert not cache.exists()


def test_a_dict_of_splits() -> None:
    data = load("camera_shelf:splits", resolution=32)
    assert (data.class_names, len(data.train), len(data.val)) == (("ant", "cat"), 14, 6)


def test_a_raw_dataset_is_cached_only_if_it_says_when_it_changes(cache: Path) -> None:
    plain = load("camera_shelf:raw", resolution=32)
    assert "From my camera." in plain.notes
    assert not cache.exists()
    cached = load("camera_shelf:cached", resolution=32)
    assert cached.fingerprint == plain.fingerprint
    assert isinstance(cached.train.images, np.memmap)
    assert len(list((cache / "packs").iterdir())) == 1


def test_images_that_cannot_be_gone_over() -> None:
    with pytest.raises(DataError, match=r"reading its images raised RuntimeError after 1 of 20 \(the camera is off\)"):
        load("camera_shelf:breaks", resolution=32)


def test_a_file_of_that_name_is_no_module(tmp_path: Path) -> None:
    (tmp_path / "camera_shelf:pair").write_text("hello")
    with pytest.raises(DataError, match="not something that holds images"):
        load("camera_shelf:pair", resolution=32)
