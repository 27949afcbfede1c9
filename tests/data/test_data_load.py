"""What `load` does whichever source answers: choosing the source, splitting, and its own messages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_samples import write_classes

from nas.data import BUILTIN, SOURCES, load, located
from nas.data.pack import pack_size
from nas.data.split import stratified
from nas.errors import DataError, UsageError


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(str(tmp_path / "nowhere"), resolution=32)
    message = str(caught.value)
    assert "nowhere: no such file or folder; understood are: " in message
    for part in (BUILTIN, "a folder of images", ".parquet"):
        assert part in message


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"notes\.txt: not something that holds images; understood are"):
        load(str(tmp_path / "notes.txt"), resolution=32)


def test_resolution_must_be_positive() -> None:
    with pytest.raises(UsageError, match="resolution: found 0"):
        load(BUILTIN, resolution=0)


def test_sources_are_registered() -> None:
    assert list(SOURCES) == [
        "arrow-folder",
        "cifar",
        "fashion-mnist-subset",
        "idx",
        "image-archive",
        "image-folder",
        "npz",
        "parquet",
        "python-callable",
    ]


@pytest.mark.parametrize(("resolution", "size"), [(224, 256), (32, 40), (28, 32), (128, 152), (1, 8)])
def test_pack_size(resolution: int, size: int) -> None:
    assert pack_size(resolution) == size


def test_stratified_keeps_the_cap_and_every_class() -> None:
    labels = np.repeat(np.arange(4), [200_000, 50_000, 50, 2])
    in_val = stratified(labels, ("a", "b", "c", "d"), seed=0, where="x")
    assert np.bincount(labels[in_val]).tolist() == [7998, 2000, 2, 1]


def test_progress_reaches_the_total(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "photos", {"cat": 150, "dog": 4}, size=(4, 4))
    seen: list[tuple[int, int]] = []
    load(str(root), resolution=32, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(128, 154), (154, 154)]
    load(str(root), resolution=32, progress=lambda done, total: seen.append((done, total)))
    assert len(seen) == 2


def test_a_path_is_made_absolute_and_a_name_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "fashion-mnist", "fashion-mnist-subset"):
        (tmp_path / name).mkdir()
    kept = ("fashion-mnist", "fashion-mnist-subset", "bad_photos:load", "photoz")
    assert [located(value) for value in kept] == list(kept)
    assert located("photos") == str(tmp_path / "photos")


def test_a_mistyped_source_has_a_near_match(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match=r"Did you mean .*/photos\?$"):
        load(str(tmp_path / "photoz"), resolution=32)
    with pytest.raises(DataError, match=r"Did you mean fashion-mnist-subset\?$"):
        load("fashion-mnist-subst", resolution=32)
