"""The image-folder source: layouts, splits, colour, and every message it can end with."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from data_samples import picture, write_classes
from PIL import Image

from nas.data import Dataset, load
from nas.errors import DataError


def rows(dataset: Dataset, split: str) -> set[bytes]:
    return {image.tobytes() for image in getattr(dataset, split).images}


def test_a_folder_of_classes_is_split_by_class(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "photos", {"cat": 20, "dog": 40, "emu": 2})
    data = load(str(root), resolution=32)
    assert data.name == "photos"
    assert data.class_names == ("cat", "dog", "emu")
    assert np.bincount(data.val.labels).tolist() == [3, 6, 1]
    assert np.bincount(data.train.labels).tolist() == [17, 34, 1]
    assert not rows(data, "train") & rows(data, "val")
    assert len(rows(data, "train") | rows(data, "val")) == 62
    assert data.train.images.dtype == np.uint8
    assert data.train.labels.dtype == np.int64
    assert data.train.images.shape == (52, 10, 10, 3)
    assert (data.num_classes, data.in_channels, data.size, len(data.val)) == (3, 3, 10, 10)
    assert "10 of 62 images (16% of each class, seed 0)" in data.notes[0]


def test_images_keep_their_labels(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "photos", {"cat": 20, "dog": 20})
    data = load(str(root), resolution=32)
    for split in (data.train, data.val):
        for image, label in zip(split.images, split.labels, strict=True):
            files = (root / data.class_names[label]).iterdir()
            assert any(np.array_equal(np.asarray(Image.open(file)), image) for file in files)


def test_the_seed_fixes_the_split(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "photos", {"cat": 20, "dog": 20})
    first, again, other = (load(str(root), resolution=32, seed=seed) for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert rows(first, "val") == rows(again, "val") != rows(other, "val")


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_validation_folder_is_used_and_a_test_folder_is_not_read(tmp_path: Path, name: str) -> None:
    root = tmp_path / "photos"
    write_classes(root / "train", {"cat": 5, "dog": 5})
    write_classes(root / name, {"cat": 2, "dog": 1}, first_seed=50)
    (root / "test" / "cat").mkdir(parents=True)
    (root / "test" / "cat" / "broken.jpg").write_bytes(b"never read")
    (root / "extra").mkdir()
    data = load(str(root), resolution=32)
    assert (len(data.train), len(data.val)) == (10, 3)
    assert any("test split (test/) was left untouched" in note for note in data.notes)
    assert any("extra/ beside train/" in note for note in data.notes)
    assert any("source's own: 3 images" in note for note in data.notes)


def test_a_train_folder_alone_is_split(tmp_path: Path) -> None:
    write_classes(tmp_path / "photos" / "train", {"cat": 10, "dog": 10})
    data = load(str(tmp_path / "photos"), resolution=32)
    assert (len(data.train), len(data.val)) == (16, 4)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    data = load(str(write_classes(tmp_path / "vehicles", {"train": 4, "car": 4})), resolution=32)
    assert data.class_names == ("car", "train")


def test_other_files_are_skipped_and_counted(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "photos", {"cat": 4, "dog": 4})
    (root / "cat" / "notes.txt").write_text("meow")
    (root / "cat" / ".DS_Store").write_text("")
    (root / "dog" / "puppies").mkdir()
    picture(99).save(root / "loose.png")
    data = load(str(root), resolution=32)
    assert len(data.train) + len(data.val) == 8
    assert any(note.startswith("3 files or folders are not images in a class folder") for note in data.notes)


def test_large_images_are_cropped_to_the_centre_and_resized(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "photos", {"cat": 3, "dog": 3}, size=(60, 20))
    pixels = np.zeros((20, 60, 3), dtype=np.uint8)
    pixels[:, 20:40] = 200
    Image.fromarray(pixels).save(root / "cat" / "000.png")
    data = load(str(root), resolution=14)
    assert data.size == 16
    images = np.concatenate([data.train.images, data.val.images])
    # As in resizing the whole picture and cropping it then, two columns at the edges see their neighbours.
    assert any((image[:, 2:-2] == 200).all() for image in images)


def test_mixed_small_sizes_are_enlarged_and_said(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "photos", {"cat": 3, "dog": 3}, size=(12, 12))
    picture(77, (50, 70)).save(root / "cat" / "big.png")
    data = load(str(root), resolution=32)
    assert data.size == 40
    assert "6 of 7 images were smaller than 40 px and were enlarged." in data.notes


def test_small_uniform_images_stay_as_they_are(tmp_path: Path) -> None:
    data = load(str(write_classes(tmp_path / "photos", {"cat": 3, "dog": 3})), resolution=32)
    assert data.size == 10
    assert any("All images are 10 px" in note for note in data.notes)


def test_grey_only_if_all_are_grey(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "photos", {"cat": 3, "dog": 3}, mode="L")
    grey = load(str(root), resolution=32)
    assert (grey.in_channels, len(grey.mean), len(grey.std)) == (1, 1, 1)
    picture(50).save(root / "dog" / "colour.png")
    assert load(str(root), resolution=32).in_channels == 3


def test_rotation_transparency_and_16_bits(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "photos", {"cat": 2, "dog": 2}, size=(8, 8))
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    clear.save(root / "cat" / "clear.png")
    deep = np.full((8, 8), 100 << 8, dtype=np.uint16)
    Image.fromarray(deep).save(root / "cat" / "deep.png")
    upright = picture(5, (8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by 90 degrees to the left; to be shown turned to the right
    upright.transpose(Image.Transpose.ROTATE_90).save(root / "cat" / "turned.png", exif=exif)
    data = load(str(root), resolution=32)
    images = list(np.concatenate([data.train.images, data.val.images]))
    assert any((image == 255).all() for image in images)
    assert any((image == 100).all() for image in images)
    assert any(np.array_equal(image, np.asarray(upright)) for image in images)


def test_mean_and_std_are_of_the_training_images(tmp_path: Path) -> None:
    data = load(str(write_classes(tmp_path / "photos", {"cat": 9, "dog": 9})), resolution=32)
    pixels = data.train.images.reshape(-1, 3) / 255
    np.testing.assert_allclose(data.mean, pixels.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(data.std, pixels.std(axis=0), rtol=1e-9)


def test_a_constant_channel_keeps_a_usable_std(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (8, 8), (10 * number, 20 * number, 0)).save(root / name / f"{number}.png")
    assert load(str(root), resolution=32).std[2] == 1 / 255


def fails(root: Path, *parts: str) -> None:
    with pytest.raises(DataError) as caught:
        load(str(root), resolution=32)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert re.search(part, message), f"{part!r} is not in {message!r}"


def test_no_class_folder(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    picture(0).save(tmp_path / "photos" / "a.png")
    fails(tmp_path / "photos", "photos: found no class folder", "<class>/", "folder of its own")


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "photos", {"cat": 3, "dog": 3})
    (root / "emu").mkdir()
    fails(root, "emu: a class folder without images", "remove the folder")


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    fails(write_classes(tmp_path / "photos", {"cat": 3}), r"one class \('cat'\)", "at least 2 classes")


def test_a_class_with_one_image_is_named(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "photos", {"cat": 3, "dog": 1})
    fails(root, "class 'dog' has 1 image;", "at least 2 are needed")


def test_a_validation_class_unknown_in_training_is_named(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    write_classes(root / "train", {"cat": 3, "dog": 3})
    write_classes(root / "val", {"cat": 1, "emu": 1})
    fails(root, "class 'emu' is in the validation split but not in the training split", "cat, dog")


def test_validation_without_training(tmp_path: Path) -> None:
    write_classes(tmp_path / "photos" / "val", {"cat": 3, "dog": 3})
    fails(tmp_path / "photos", "found val/ but no train/")


def test_two_validation_folders(tmp_path: Path) -> None:
    for name in ("train", "val", "valid"):
        write_classes(tmp_path / "photos" / name, {"cat": 3, "dog": 3})
    fails(tmp_path / "photos", "found val/, valid/; only one")


def test_broken_files_are_named(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "photos", {"cat": 9, "dog": 9}, suffix=".jpg", size=(40, 40))
    whole = (root / "cat" / "003.jpg").read_bytes()
    (root / "cat" / "003.jpg").write_bytes(whole[: len(whole) // 2])
    fails(root, r"cat/003\.jpg: cannot be decoded \(.*truncated.*\); every image must be readable", "Repair")
    (root / "dog" / "001.jpg").write_bytes(b"not an image")
    fails(root, r"cat/003\.jpg: cannot be decoded", r"Also broken: \S*dog/001\.jpg")


def test_a_link_to_nowhere_is_named(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "photos", {"cat": 3, "dog": 3})
    (root / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    fails(root, r"cat/gone\.png: cannot be opened")


def test_the_fingerprint_of_a_folder_stays_what_it_was(tmp_path: Path) -> None:
    # Made before archives were understood: names, order, split and pixels of a plain folder do not move.
    root = write_classes(tmp_path / "photos", {"cat": 20, "dog": 20}, size=(40, 30))
    assert load(str(root), resolution=16).fingerprint == "09dbc8d3b14ced52"


@pytest.mark.parametrize("outer", ["pets", "pets/inner"])
def test_folders_that_wrap_others_are_passed(tmp_path: Path, outer: str) -> None:
    write_classes(tmp_path / "photos" / outer / "Train", {"cat": 4, "dog": 4})
    write_classes(tmp_path / "photos" / outer / "Validation", {"cat": 1, "dog": 1}, first_seed=60)
    (tmp_path / "photos" / "README.md").write_text("photographs")
    (tmp_path / "photos" / "__MACOSX").mkdir()
    data = load(str(tmp_path / "photos"), resolution=32)
    assert (data.name, len(data.train), len(data.val)) == ("photos", 8, 2)


def test_a_test_folder_is_not_even_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path / "photos" / "train", {"cat": 4, "dog": 4})
    (tmp_path / "photos" / "test" / "cat").mkdir(parents=True)
    listed: list[str] = []
    iterdir = Path.iterdir

    def watched(folder: Path) -> object:
        listed.append(folder.name)
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", watched)
    load(str(tmp_path / "photos"), resolution=32)
    assert "train" in listed
    assert "test" not in listed


def test_a_link_to_the_folder_itself_ends(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "again").symlink_to(tmp_path / "photos")
    fails(tmp_path / "photos", "photos/again")
