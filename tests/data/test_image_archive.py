"""Archives of image folders: the same data as the folder, read where they lie."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from data_samples import encoded, picture, write_classes

from nas.data import SOURCES, _tar, load
from nas.errors import DataError

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_classes(tmp_path / "photos" / "Training", {"cat": 20, "dog": 20}, size=(12, 12))
    write_classes(tmp_path / "photos" / "VALID", {"cat": 4, "dog": 3}, size=(12, 12), first_seed=90)
    (tmp_path / "photos" / "Test" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "Test" / "cat" / "broken.jpg").write_bytes(b"never read")
    return tmp_path / "photos"


def rows(dataset: object, split: str) -> list[bytes]:
    return sorted(image.tobytes() for image in getattr(dataset, split).images)


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar", "bztar", "xztar"])
def test_an_archive_is_the_folder_in_it(photos: Path, kind: str) -> None:
    archive = shutil.make_archive(str(photos), kind, photos.parent, "photos")
    folder, packed = load(str(photos), resolution=16), load(archive, resolution=16)
    assert (packed.name, packed.class_names) == ("photos", ("cat", "dog"))
    assert (len(packed.train), len(packed.val)) == (40, 7)
    assert any("test split (Test/) was left untouched" in note for note in packed.notes)
    for split in ("train", "val"):
        assert rows(packed, split) == rows(folder, split)
    if kind in ("zip", "tar"):  # the others come in the order of the archive
        assert packed.fingerprint == folder.fingerprint


def test_a_compressed_tar_keeps_each_label_with_its_image(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "photos", {"cat": 20, "dog": 20})
    files = sorted(root.glob("*/*.png"), key=lambda path: (path.name, path.parent.name))
    with tarfile.open(tmp_path / "photos.tgz", "w:gz") as archive:
        for path in files:
            archive.add(path, f"./photos/{path.parent.name}/{path.name}")
    data = load(str(tmp_path / "photos.tgz"), resolution=16)
    of_class = {
        name: {picture(s).tobytes() for s in seeds} for name, seeds in (("cat", range(20)), ("dog", range(20, 40)))
    }
    for split in (data.train, data.val):
        for image, label in zip(split.images, split.labels, strict=True):
            assert image.tobytes() in of_class[data.class_names[label]]
    assert len(data.train) + len(data.val) == 40


def test_what_archivers_leave_is_ignored_and_wrappers_are_passed(tmp_path: Path) -> None:
    path = tmp_path / "photos.ZIP"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("README.txt", "photographs")
        archive.writestr("__MACOSX/a/._0.png", b"resource fork")
        for row in range(12):
            archive.writestr(f"a\\b/train/{'cat' if row % 2 else 'dog'}/{row}.png", encoded(row))
        archive.writestr("a/b/train/cat/.DS_Store", b"")
        archive.writestr("a/b/train/cat/notes.txt", b"meow")
    data = load(str(path), resolution=16)
    assert (data.name, data.class_names, len(data.train) + len(data.val)) == ("photos", ("cat", "dog"), 12)
    assert any("1 files or folders are not images" in note and "cat/notes.txt" in note for note in data.notes)


def test_a_changed_archive_is_seen(tmp_path: Path, cache: Path) -> None:
    root = write_classes(tmp_path / "photos", {"cat": 4, "dog": 4})
    first = load(shutil.make_archive(str(root), "zip", tmp_path, "photos"), resolution=16)
    write_classes(root, {"emu": 4}, first_seed=50)
    second = load(shutil.make_archive(str(root), "zip", tmp_path, "photos"), resolution=16)
    assert (first.num_classes, second.num_classes) == (2, 3)
    assert len(list((cache / "packs").iterdir())) == 2


def test_a_tar_that_unpacks_to_too_much_is_refused_before_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tar, "FREE_BYTES", 1 << 20)
    with tarfile.open(tmp_path / "photos.tar.xz", "w:xz") as archive:
        info = tarfile.TarInfo("cat/0.bmp")
        info.size = 8 << 20
        archive.addfile(info, io.BytesIO(bytes(info.size)))
    with pytest.raises(DataError, match=r"unpack to 8,\d+,\d+ or more; .*a decompression bomb is suspected"):
        load(str(tmp_path / "photos.tar.xz"), resolution=16)


def test_a_header_cannot_ask_for_all_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tar, "MAX_BYTES", 4096)
    with tarfile.open(tmp_path / "photos.tar.gz", "w:gz", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("cat/" + "x" * 9000 + ".png"))
    with pytest.raises(DataError, match=r"cannot be read as tar \(a header of 9,216 bytes\)"):
        load(str(tmp_path / "photos.tar.gz"), resolution=16)


def test_an_empty_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w"):
        pass
    with pytest.raises(DataError, match=r"photos\.zip: found no image among 0 files; understood are"):
        load(str(tmp_path / "photos.zip"), resolution=16)


def test_real_file_clothing() -> None:
    path = SHARED / "clothing-160.zip"
    if not path.exists():
        pytest.skip("needs ../shared/data/clothing-160.zip beside the checkout")
    raw = SOURCES["image-archive"].read(str(path))
    assert raw.in_val is not None
    assert (len(raw.labels), int(raw.in_val.sum()), len(raw.class_names)) == (3409, 341, 10)
    assert np.bincount(raw.labels[raw.in_val]).min() == 12
    first = next(raw.images())
    assert "clothing/train/dress/" in first.where
    with first.open() as image:
        assert min(image.size) == 160
