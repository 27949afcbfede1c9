"""Arrays by name, from an npz and from a function: names, layouts, floats, labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.data import load
from nas.errors import DataError

LABELS = np.arange(12) % 2


def pixels(*shape: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.RandomState(seed).randint(0, 256, (12, *shape), dtype=np.uint8)


def saved(path: Path, **arrays: Any) -> str:
    np.savez_compressed(path, **arrays)
    return str(path)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("x_train", "y_train"),
        ("X_train", "y_train"),
        ("train_images", "train_labels"),
        ("images", "labels"),
        ("x", "y"),
        ("X", "Y"),
        ("data", "labels"),
        ("train_data", "train_targets"),
    ],
)
def test_names(tmp_path: Path, images: str, labels: str) -> None:
    data = load(saved(tmp_path / "a.npz", **{images: pixels(5, 5), labels: LABELS}), resolution=32)
    assert (data.name, data.class_names, data.in_channels, data.size) == ("a", ("0", "1"), 1, 5)
    assert (len(data.train), len(data.val)) == (10, 2)


@pytest.mark.parametrize("val", [("x_val", "y_val"), ("val_images", "val_labels"), ("validation_x", "validation_y")])
def test_the_splits_of_the_file_are_kept_and_test_is_not_read(tmp_path: Path, val: tuple[str, str]) -> None:
    train, validation = pixels(5, 5, 3), pixels(5, 5, 3, seed=1)[:4]
    arrays = {"x_train": train, "y_train": LABELS, val[0]: validation, val[1]: LABELS[:4, None]}
    never_read = {"x_test": np.array([None], dtype=object), "y_test": np.zeros(3)}
    data = load(saved(tmp_path / "a.npz", **arrays, **never_read, extra=np.zeros(2)), resolution=32)
    assert np.array_equal(data.train.images, train)
    assert np.array_equal(data.val.images, validation)
    assert data.val.labels.tolist() == [0, 1, 0, 1]
    assert "The test split (x_test, y_test) was left untouched: nothing in it was read." in data.notes
    assert "Other arrays were not read: extra." in data.notes


def test_layouts_hold_the_same_pixels(tmp_path: Path) -> None:
    images = pixels(6, 6, 3)
    last = load(saved(tmp_path / "last.npz", x=images, y=LABELS), resolution=32)
    first = load(saved(tmp_path / "first.npz", x=np.moveaxis(images, 3, 1).copy(), y=LABELS), resolution=32)
    assert first.fingerprint == last.fingerprint
    with_alpha = np.concatenate([images, np.full((12, 6, 6, 1), 255, np.uint8)], axis=3)
    assert load(saved(tmp_path / "a.npz", x=with_alpha, y=LABELS), resolution=32).fingerprint == last.fingerprint
    grey = load(saved(tmp_path / "g.npz", x=images[..., :1], y=LABELS), resolution=32)
    assert grey.fingerprint == load(saved(tmp_path / "h.npz", x=images[..., 0], y=LABELS), resolution=32).fingerprint


@pytest.mark.parametrize(("dtype", "scale"), [(np.float32, 255), (np.float64, 255), (np.float32, 1), (np.float16, 1)])
def test_floats_are_the_same_as_bytes(tmp_path: Path, dtype: type, scale: int) -> None:
    images = pixels(6, 6, 3)
    bytes_ = load(saved(tmp_path / "bytes.npz", x=images, y=LABELS), resolution=32)
    floats = load(saved(tmp_path / "floats.npz", x=(images / scale).astype(dtype), y=LABELS), resolution=32)
    assert floats.fingerprint == bytes_.fingerprint


def test_one_rule_for_floats_holds_for_both_splits(tmp_path: Path) -> None:
    dark = np.full((12, 4, 4), 1.0, dtype=np.float32)
    arrays = {"x_train": pixels(4, 4).astype(np.float32), "y_train": LABELS, "x_val": dark, "y_val": LABELS}
    data = load(saved(tmp_path / "a.npz", **arrays), resolution=32)
    assert (data.val.images == 1).all()


def test_labels_with_names_in_text_and_with_gaps(tmp_path: Path) -> None:
    named = load(saved(tmp_path / "a.npz", x=pixels(4, 4), y=LABELS, class_names=["cat", "dog"]), resolution=32)
    assert named.class_names == ("cat", "dog")
    text = load(saved(tmp_path / "b.npz", x=pixels(4, 4), y=np.array(["dog", "cat"])[LABELS]), resolution=32)
    assert text.class_names == ("cat", "dog")
    gaps = load(saved(tmp_path / "c.npz", x=pixels(4, 4), y=LABELS * 7 + 3), resolution=32)
    assert gaps.class_names == ("3", "10")
    with pytest.raises(DataError, match="row 1 has label 1; 0 to 0 are allowed"):
        load(saved(tmp_path / "d.npz", x=pixels(4, 4), y=LABELS, class_names=["cat"]), resolution=32)


def test_column_order_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", x=np.asfortranarray(pixels(4, 4)), y=LABELS)
    with pytest.raises(DataError, match=r"a\.npz: x: is in column order; row order is needed"):
        load(path, resolution=32)


def test_two_arrays_for_one_thing(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", x=pixels(4, 4), images=pixels(4, 4), y=LABELS)
    with pytest.raises(DataError, match="found x and images; one of them is allowed"):
        load(path, resolution=32)
