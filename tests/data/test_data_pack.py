"""The cache of packed images: when it answers, when it must not, and what the fingerprint depends on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from data_samples import picture, write_classes

from nas.data import _store, _stream, load
from nas.errors import DataError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "photos", {"cat": 8, "dog": 8})


def packs(cache: Path) -> list[Path]:
    return sorted((cache / "packs").iterdir())


def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(_stream, "decode", refuse)


def test_the_second_load_decodes_nothing(photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(str(photos), resolution=32)
    assert [sorted(file.name for file in folder.iterdir()) for folder in packs(cache)] == [
        ["pack.json", "train.npy", "val.npy"]
    ]
    no_decoding(monkeypatch)
    second = load(str(photos), resolution=32)
    assert first.fingerprint == second.fingerprint
    assert (first.mean, first.std, first.notes) == (second.mean, second.std, second.notes)
    assert np.array_equal(first.train.images, second.train.images)
    assert np.array_equal(first.val.labels, second.val.labels)


def test_arrays_are_mapped_read_only(photos: Path) -> None:
    """A file larger than memory cannot be mapped in another way, and nobody can change the pack by accident."""
    data = load(str(photos), resolution=32)
    assert isinstance(data.train.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        data.train.images[0] = 0


def test_the_fingerprint_is_of_the_content(photos: Path, tmp_path: Path) -> None:
    data = load(str(photos), resolution=32)
    shutil.copytree(photos, tmp_path / "elsewhere")
    copy = load(str(tmp_path / "elsewhere"), resolution=32)
    assert copy.fingerprint == data.fingerprint
    assert len(data.fingerprint) == 16


@pytest.mark.parametrize("change", ["pixel", "label", "class name"])
def test_any_change_changes_the_fingerprint(photos: Path, change: str) -> None:
    before = load(str(photos), resolution=32).fingerprint
    if change == "pixel":
        image = picture(3)
        red, green, blue = image.getpixel((2, 2))  # type: ignore[misc]
        image.putpixel((2, 2), (red ^ 1, green, blue))
        image.save(photos / "cat" / "003.png")
    elif change == "label":
        # The file is last in cat and would be first in dog: the same pixels in the same order.
        (photos / "cat" / "007.png").rename(photos / "dog" / "!.png")
    else:
        (photos / "dog").rename(photos / "dogs")
    assert load(str(photos), resolution=32).fingerprint != before


def test_a_changed_file_is_seen(photos: Path, cache: Path) -> None:
    load(str(photos), resolution=32)
    os.utime(photos / "cat" / "000.png", ns=(1, 1))
    load(str(photos), resolution=32)
    assert len(packs(cache)) == 2


def test_a_killed_process_leaves_no_pack(photos: Path, cache: Path) -> None:
    program = (
        "import os, sys\nfrom nas.data import load\n"
        "load(sys.argv[1], resolution=32, progress=lambda done, total: os._exit(9))"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(photos)], check=False)
    assert killed.returncode == 9
    left = packs(cache)
    assert len(left) == 1
    assert ".tmp-" in left[0].name
    data = load(str(photos), resolution=32)
    assert len(data.train) == 14
    # What was left is kept for a day, in case its process still works on it, and then removed.
    assert left[0] in packs(cache)
    os.utime(left[0], (0, time.time() - 2 * 24 * 3600))
    load(str(photos), resolution=64)
    assert left[0] not in packs(cache)


def test_an_interrupted_pack_cleans_up(photos: Path, cache: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(str(photos), resolution=32, progress=interrupt)
    assert packs(cache) == []


@pytest.mark.parametrize("name", ["pack.json", "train.npy"])
@pytest.mark.parametrize("damage", [None, b"half"])
def test_a_damaged_pack_is_made_again(photos: Path, cache: Path, name: str, damage: bytes | None) -> None:
    before = load(str(photos), resolution=32)
    file = packs(cache)[0] / name
    file.unlink()
    if damage is not None:
        file.write_bytes(damage)
    after = load(str(photos), resolution=32)
    assert after.fingerprint == before.fingerprint
    assert np.array_equal(after.train.images, before.train.images)


def test_a_pack_whose_pixels_have_changed_is_made_again(photos: Path, cache: Path) -> None:
    before = load(str(photos), resolution=32)
    pixels = np.array(before.train.images)  # a copy: they are mapped from the file that is changed
    file = packs(cache)[0] / "train.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    after = load(str(photos), resolution=32)
    assert after.fingerprint == before.fingerprint
    assert np.array_equal(after.train.images, pixels)
    assert file.read_bytes() != content


def test_a_faster_packer_wins(photos: Path, cache: Path) -> None:
    other: list[str] = []

    def overtake(done: int, total: int) -> None:
        if not other:
            other.append("running")
            other.append(load(str(photos), resolution=32).fingerprint)

    data = load(str(photos), resolution=32, progress=overtake)
    assert other[1] == data.fingerprint
    assert len(packs(cache)) == 1


def test_a_cache_that_cannot_be_written(photos: Path, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"cannot be written .* MiB of writable space .* set NAS_CACHE"):
        load(str(photos), resolution=32)


def test_a_full_disk(photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(photos)._replace(free=100)
    monkeypatch.setattr(_store.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"cannot be written \(0 MiB are free\); 1 MiB .* set NAS_CACHE"):
        load(str(photos), resolution=32)
    assert packs(cache) == []


def test_the_cache_is_below_home_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NAS_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _store.cache_folder() == tmp_path / ".cache" / "phinas" / "packs"


def test_packs_that_nobody_opens_are_removed(photos: Path, tmp_path: Path, cache: Path) -> None:
    def aged(folder: Path) -> None:
        os.utime(folder / "pack.json", (0, time.time() - 61 * 24 * 3600))

    load(str(photos), resolution=32)
    (unused,) = packs(cache)
    data = load(str(photos), resolution=16, seed=1)
    (used,) = set(packs(cache)) - {unused}
    before = data.train.images.copy()
    aged(unused)
    aged(used)
    load(str(photos), resolution=16, seed=1)  # opens it, so it is not old any more
    load(str(photos), resolution=64, seed=2)
    assert unused not in packs(cache)
    assert used in packs(cache)
    assert len(packs(cache)) == 2
    # One that is removed under a process that has it mapped stays readable there.
    aged(used)
    load(str(photos), resolution=64, seed=3)
    assert used not in packs(cache)
    assert np.array_equal(data.train.images, before)


def test_a_cache_that_is_read_only_still_answers(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    before = load(str(photos), resolution=32)
    monkeypatch.setattr(_store.os, "utime", refuse)
    no_decoding(monkeypatch)
    assert load(str(photos), resolution=32).fingerprint == before.fingerprint


def test_a_full_disk_while_writing_leaves_nothing(photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_store, "_write_header", full)
    with pytest.raises(DataError, match=r"cannot be written \(No space left on device\)"):
        load(str(photos), resolution=32)
    assert packs(cache) == []
