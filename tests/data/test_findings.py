"""What is said about broken, equal and animated images and uneven classes, and that it stays with the pack."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from data_samples import picture, write_classes, write_parquet

from nas.data import Dataset, _stream, load
from nas.errors import DataError


def both(root: Path, monkeypatch: pytest.MonkeyPatch, **options: bool) -> Dataset:
    """Load twice, the second time from the cache, and see that nothing differs."""
    first = load(str(root), resolution=32, **options)
    with monkeypatch.context() as patch:
        patch.setattr(_stream, "decode", None)
        second = load(str(root), resolution=32, **options)
    assert (first.fingerprint, first.notes) == (second.fingerprint, second.notes)
    assert np.array_equal(first.train.images, second.train.images)
    assert np.array_equal(first.train.labels, second.train.labels)
    return second


def test_broken_images_are_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_classes(tmp_path / "photos", {"cat": 300, "dog": 30}, size=(4, 4))
    whole = load(str(root), resolution=32)
    for row in (7, 150, 151, 299):
        (root / "cat" / f"{row:03}.png").write_bytes(b"")
    (root / "cat" / "gone.png").symlink_to("nowhere")
    with pytest.raises(
        DataError, match=r"cat/007\.png: cannot be decoded .* or leave such images out with --skip-broken"
    ):
        load(str(root), resolution=32)
    data = both(root, monkeypatch, skip_broken=True)
    assert len(data.train) + len(data.val) == 326
    assert data.fingerprint != whole.fingerprint
    note = next(note for note in data.notes if "skipped" in note)
    listed = (
        "cat/007.png (the file is empty), cat/150.png (the file is empty), cat/151.png (the file is empty) and 2 more"
    )
    assert note == f"5 of 331 images could not be read and were skipped: {listed}."
    # Every image that is left has its own label still.
    dogs = {picture(300 + row, (4, 4)).tobytes() for row in range(30)}
    for split in (data.train, data.val):
        for image, label in zip(split.images, split.labels, strict=True):
            assert (image.tobytes() in dogs) == (label == 1)


def test_skipping_nothing_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_classes(tmp_path / "photos", {"cat": 9, "dog": 9})
    data = both(root, monkeypatch, skip_broken=True)
    plain = load(str(root), resolution=32)
    assert (data.fingerprint, data.notes) == (plain.fingerprint, plain.notes)


def test_a_broken_image_in_memory_is_left_out_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_broken.py").write_text(
        "import numpy as np\nfrom PIL import Image\nfrom nas.data import RawDataset, RawImage\n"
        "def photos():\n"
        "    def opened(row):\n        if row % 9 == 4:\n            raise OSError('no such picture')\n"
        "        return Image.fromarray(np.full((4, 4), row, np.uint8))\n"
        "    read = lambda: (RawImage(f'row {row}', lambda row=row: opened(row)) for row in range(40))\n"
        "    return RawDataset('x', ('a', 'b'), np.arange(40) % 2, None, read, (), ())\n"
    )
    monkeypatch.chdir(tmp_path)
    data = load("half_broken:photos", resolution=32, skip_broken=True)
    assert len(data.train) + len(data.val) == 36
    for split in (data.train, data.val):
        assert np.array_equal(split.images[:, 0, 0, 0] % 2, split.labels)


def test_validation_that_is_lost(tmp_path: Path) -> None:
    write_classes(tmp_path / "photos" / "train", {"cat": 5, "dog": 5})
    write_classes(tmp_path / "photos" / "val", {"cat": 1})
    (tmp_path / "photos" / "val" / "cat" / "000.png").write_bytes(b"")
    with pytest.raises(DataError, match="no readable validation image is left"):
        load(str(tmp_path / "photos"), resolution=32, skip_broken=True)


def test_equal_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "photos"
    write_classes(root / "train", {"cat": 6, "dog": 6})
    write_classes(root / "val", {"cat": 4, "dog": 4}, first_seed=50)
    shutil.copy(root / "train" / "cat" / "002.png", root / "val" / "cat" / "leak.png")
    shutil.copy(root / "train" / "dog" / "003.png", root / "train" / "dog" / "copy.png")
    picture(1).save(root / "train" / "dog" / "wrong.bmp")  # the pixels of cat/001.png in another file
    data = both(root, monkeypatch)
    leak, copies, disputed = data.notes[-4:-1]
    assert leak == (
        "1 validation image is also in the training split, pixel for pixel (val/cat/leak.png = train/cat/002.png): "
        "validation accuracy is too good. Remove the copies."
    )
    assert copies.startswith("2 images are a copy of another one in the same split, pixel for pixel (train/dog/")
    assert disputed == (
        "2 images are equal to one with another label, pixel for pixel (train/cat/001.png = train/dog/wrong.bmp): "
        "not all of them can be right. Correct the labels or remove them."
    )


def test_equal_rows_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from data_samples import encoded

    path = write_parquet(tmp_path / "x.parquet", [0, 1] * 20, cells=lambda row: encoded(min(row, 37)))
    notes = " ".join(both(path, monkeypatch).notes)
    assert "pixel for pixel (row " in notes


def test_different_images_are_no_copies(tmp_path: Path) -> None:
    data = load(str(write_classes(tmp_path / "photos", {"cat": 200, "dog": 200}, size=(3, 3))), resolution=32)
    assert not any("pixel for pixel" in note for note in data.notes)


@pytest.mark.parametrize(("cats", "said"), [(20, False), (21, True)])
def test_uneven_classes(tmp_path: Path, cats: int, said: bool) -> None:
    data = load(str(write_classes(tmp_path / "photos", {"cat": cats, "dog": 2}, size=(3, 3))), resolution=32)
    notes = [note for note in data.notes if note.startswith("The classes are uneven: 'cat' has 21 images, 'dog' 2.")]
    assert bool(notes) == said


def test_names_that_would_break_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_classes(tmp_path / "photos", {"cat\n": 4, "dog\udcff": 4})
    data = both(root, monkeypatch)
    assert data.class_names == (r"cat\n", r"dog\udcff")
    assert all(note.isprintable() for note in data.notes)
