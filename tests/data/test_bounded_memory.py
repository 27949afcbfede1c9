"""Packing holds a few images at a time, whatever the source: far less memory than the images take."""

from __future__ import annotations

import io
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.data import load

COUNT = 400
SIDE = 180  # 97,200 bytes in colour, 39 MB for all
TOTAL = COUNT * SIDE * SIDE * 3


def pixels(row: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.full((SIDE, SIDE, 3), (row % 251, row // 251, 7), dtype=np.uint8)


def bmp(row: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(row)).save(buffer, "BMP")
    return buffer.getvalue()


def name(row: int) -> str:
    return f"{'cat' if row % 2 else 'dog'}/{row}.bmp"


def a_zip(folder: Path) -> str:
    with zipfile.ZipFile(folder / "x.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for row in range(COUNT):
            archive.writestr(name(row), bmp(row))
    return str(folder / "x.zip")


def a_tar(folder: Path, suffix: str = ".tar.gz") -> str:
    with tarfile.open(folder / f"x{suffix}", f"w:{suffix.rpartition('.')[2]}", compresslevel=1) as archive:
        for row in range(COUNT):
            content = bmp(row)
            info = tarfile.TarInfo(name(row))
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(folder / f"x{suffix}")


def an_npz(folder: Path) -> str:
    images = np.stack([pixels(row) for row in range(COUNT)])
    np.savez(folder / "x.npz", x=images, y=np.arange(COUNT) % 2)
    return str(folder / "x.npz")


def floats(folder: Path) -> str:
    images = np.stack([pixels(row)[:90, :90] for row in range(COUNT)]).astype(np.float32)
    np.savez_compressed(folder / "x.npz", x=images, y=np.arange(COUNT) % 2)
    return str(folder / "x.npz")


def a_function(folder: Path) -> str:
    (folder / "large_photos.py").write_text(
        "import numpy as np\nfrom PIL import Image\nfrom nas.data import RawDataset, RawImage\n"
        f"def image(row):\n    return Image.fromarray(np.full(({SIDE}, {SIDE}, 3), row % 251, np.uint8))\n"
        f"def images():\n    for row in range({COUNT}):\n        yield RawImage(str(row), lambda row=row: image(row))\n"
        "def load():\n"
        f"    labels = np.arange({COUNT}) % 2\n"
        "    return RawDataset('large', ('a', 'b'), labels, None, images, (('1', 0, 0),), ())\n"
    )
    return "large_photos:load"


@pytest.mark.parametrize("make", [a_zip, a_tar, an_npz, floats, a_function])
@pytest.mark.parametrize("resolution", [32, 180])  # resized by threads, and as they are
def test_the_peak_is_a_fraction_of_the_images(
    tmp_path: Path, make: Callable[[Path], str], resolution: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "large_photos", raising=False)
    value = make(tmp_path)
    tracemalloc.start()
    try:
        data = load(value, resolution=resolution)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(data.train.images, np.memmap)
    assert len(data.train) + len(data.val) == COUNT
    # Chunks of 2 MiB are held a few times while they are split, counted and written; the rest is small.
    assert peak < TOTAL // 2
