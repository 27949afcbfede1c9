"""The parquet source: Hugging Face files and folders, and every message it can end with."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from data_samples import encoded, write_parquet

from nas.data import Dataset, load
from nas.errors import DataError

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"


def rows(dataset: Dataset, split: str) -> set[bytes]:
    return {image.tobytes() for image in getattr(dataset, split).images}


def test_one_file_with_names_in_its_metadata(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "pets.parquet", [0, 2, 1] * 20, names=["cat", "dog", "emu"])
    data = load(str(path), resolution=32)
    assert data.name == "pets"
    assert data.class_names == ("cat", "dog", "emu")
    assert np.bincount(data.val.labels).tolist() == [3, 3, 3]
    assert len(data.train) == 51
    assert not rows(data, "train") & rows(data, "val")


def test_names_without_images_are_left_out(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "pets.parquet", [0, 2] * 20, names=["cat", "dog", "emu"])
    data = load(str(path), resolution=32)
    assert data.class_names == ("cat", "emu")
    assert set(data.train.labels.tolist()) == {0, 1}
    assert any("1 class names of the file have no image and were left out (dog" in n for n in data.notes)


@pytest.mark.parametrize(
    ("labels", "names"), [(["b", "a"] * 9, ("a", "b")), ([7, 3] * 9, ("3", "7")), ([10, 9] * 9, ("9", "10"))]
)
def test_labels_without_metadata(tmp_path: Path, labels: list[int | str | None], names: tuple[str, ...]) -> None:
    path = write_parquet(tmp_path / "x.parquet", labels, image="img", label="fine_label")
    data = load(str(path), resolution=32)
    assert data.class_names == names
    assert set(data.train.labels.tolist()) == {0, 1}


@pytest.mark.parametrize("below", ["", "data"])
def test_a_folder_of_splits(tmp_path: Path, below: str) -> None:
    root = tmp_path / "pets"
    write_parquet(root / below / "train-00000-of-00002.parquet", ["a", "b"] * 5)
    write_parquet(root / below / "train-00001-of-00002.parquet", ["a", "b"] * 4)
    write_parquet(root / below / "validation-00000-of-00001.parquet", ["a"] * 3)
    (root / below / "test-00000-of-00001.parquet").write_bytes(b"never read")
    (root / below / "other.parquet").write_bytes(b"never read")
    data = load(str(root), resolution=32)
    assert data.name == "pets"
    assert (len(data.train), len(data.val)) == (18, 3)
    assert any("test split (test-00000-of-00001.parquet) was left untouched" in n for n in data.notes)
    assert any("other.parquet is neither" in n for n in data.notes)
    assert any("It has no image of: b." in n for n in data.notes)


def test_a_folder_without_validation_is_split(tmp_path: Path) -> None:
    write_parquet(tmp_path / "pets" / "train.parquet", ["a", "b"] * 10)
    data = load(str(tmp_path / "pets"), resolution=32)
    assert (len(data.train), len(data.val)) == (16, 4)


def fails(path: Path, *parts: str) -> None:
    with pytest.raises(DataError) as caught:
        load(str(path), resolution=32)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert re.search(part, message), f"{part!r} is not in {message!r}"


def test_not_parquet(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"nothing of the kind")
    fails(tmp_path / "x.parquet", r"x\.parquet: cannot be read as parquet", "again")


@pytest.mark.parametrize(("image", "label", "missing"), [("photo", "label", "image"), ("image", "y", "label")])
def test_a_missing_column_lists_what_was_found(tmp_path: Path, image: str, label: str, missing: str) -> None:
    path = write_parquet(tmp_path / "x.parquet", [0, 1] * 3, image=image, label=label)
    fails(
        path,
        f"found no {missing} column among {image} ",
        rf"{label} \(int64\)",
        f"may be called {missing} or",
    )


def test_an_image_column_of_another_type(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [1, 2], "label": [0, 1]}), tmp_path / "x.parquet")
    fails(tmp_path / "x.parquet", "column 'image' is int64; a struct with a field 'bytes'")


def test_a_label_column_of_another_type(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", [0.5, 1.5])  # type: ignore[list-item]
    fails(path, "column 'label' is double; whole numbers or text")


def test_rows_without_label_or_out_of_range(tmp_path: Path) -> None:
    fails(write_parquet(tmp_path / "a.parquet", [0, 1, None]), "row 2 has no label")
    for label in (-1, 2):
        path = write_parquet(tmp_path / "b.parquet", [0, 1, 1, 0, label], names=["cat", "dog"])
        fails(path, f"row 4 has label {label}; 0 to 1 are allowed")


def test_no_row_at_all(tmp_path: Path) -> None:
    fails(write_parquet(tmp_path / "a.parquet", []), "column 'label' is null|found no class")


def test_numbers_and_text_do_not_mix(tmp_path: Path) -> None:
    write_parquet(tmp_path / "x" / "train.parquet", ["a", "b"] * 3)
    write_parquet(tmp_path / "x" / "val.parquet", [0, 1])
    fails(tmp_path / "x", "some files have labels in numbers, others in text")


def test_a_validation_class_unknown_in_training(tmp_path: Path) -> None:
    write_parquet(tmp_path / "x" / "train.parquet", ["a", "b"] * 3)
    write_parquet(tmp_path / "x" / "val.parquet", ["a", "c"])
    fails(tmp_path / "x", "class 'c' is in the validation split but not in the training split", "a, b")


def test_an_empty_validation_split(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    train = write_parquet(tmp_path / "x" / "train.parquet", ["a", "b"] * 3)
    pq.write_table(pq.read_table(train).slice(0, 0), tmp_path / "x" / "val.parquet")
    fails(tmp_path / "x", "validation split holds no image")


def test_a_folder_without_training_files(tmp_path: Path) -> None:
    write_parquet(tmp_path / "x" / "pets.parquet", [0, 1])
    fails(tmp_path / "x", r"found pets\.parquet; a folder needs train\*\.parquet")


def test_a_missing_part(tmp_path: Path) -> None:
    write_parquet(tmp_path / "x" / "train-00001-of-00002.parquet", [0, 1])
    fails(tmp_path / "x", "part 0 of 2 is missing")


@pytest.mark.parametrize("cell", [b"not an image", None])
def test_an_undecodable_row_is_named(tmp_path: Path, cell: bytes | None) -> None:
    path = write_parquet(
        tmp_path / "x.parquet", [0, 1] * 300, cells=lambda row: cell if row == 451 else encoded(row, (4, 4))
    )
    fails(path, r"x\.parquet: row 451: cannot be decoded", "Repair or remove it")


def test_real_file_cifar10_test() -> None:
    path = SHARED / "cifar10-test.parquet"
    if not path.exists():
        pytest.skip("needs ../shared/data/cifar10-test.parquet beside the checkout")
    data = load(str(path), resolution=32)
    assert data.class_names[:2] == ("airplane", "automobile")
    assert data.train.images.shape == (8500, 32, 32, 3)
    assert np.bincount(data.val.labels).tolist() == [150] * 10


@pytest.mark.slow
def test_real_file_cifar10_train() -> None:
    path = SHARED / "cifar10-train.parquet"
    if not path.exists():
        pytest.skip("needs ../shared/data/cifar10-train.parquet beside the checkout")
    seen: list[tuple[int, int]] = []
    data = load(str(path), resolution=32, progress=lambda done, total: seen.append((done, total)))
    assert data.train.images.shape == (42_500, 32, 32, 3)
    assert np.bincount(data.val.labels).tolist() == [750] * 10
    assert seen[-1] == (50_000, 50_000)
    np.testing.assert_allclose(data.mean, (0.491, 0.482, 0.447), atol=0.005)
