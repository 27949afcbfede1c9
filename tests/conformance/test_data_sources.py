"""What every data source must do. A new source adds one function that makes sample data for it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.data import SOURCES, fashion_mnist, load
from nas.errors import DataError

NUM_IMAGES = 40


@dataclass(frozen=True)
class Sample:
    """A value for `--data`, how to break one image of it, and a pattern that names the broken place."""

    value: str
    break_one: Callable[[], None]
    named: str


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.RandomState(seed).randint(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def built_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Sample:
    own = folder / "subset.npz"
    shutil.copy(fashion_mnist.FILE, own)
    monkeypatch.setattr(fashion_mnist, "FILE", own)
    return Sample(fashion_mnist.NAME, lambda: own.write_bytes(own.read_bytes()[:5000]) and None, r"subset\.npz")


def image_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Sample:
    for row in range(NUM_IMAGES):
        file = folder / "photos" / "ab"[row % 2] / f"{row:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(row))
    broken = folder / "photos" / "b" / "03.png"
    return Sample(str(folder / "photos"), lambda: broken.write_bytes(png(3)[:60]) and None, r"b/03\.png")


def parquet(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Sample:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = folder / "photos.parquet"

    def write(broken_row: int) -> None:
        cells = [{"bytes": png(row)[: 60 if row == broken_row else None]} for row in range(NUM_IMAGES)]
        pq.write_table(pa.table({"image": cells, "label": [row % 2 for row in range(NUM_IMAGES)]}), file)

    write(-1)
    return Sample(str(file), lambda: write(3), r"photos\.parquet: row 3:")


MAKERS = {"fashion-mnist-subset": built_in, "image-folder": image_folder, "parquet": parquet}


@pytest.fixture(params=list(SOURCES))
def sample(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sample:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    assert request.param in MAKERS, f"add a function that makes sample data for {request.param!r}"
    return MAKERS[request.param](tmp_path, monkeypatch)


def test_exactly_one_source_matches(sample: Sample) -> None:
    assert sum(SOURCES[name].matches(sample.value) for name in SOURCES) == 1


def test_splits_are_disjoint_and_labels_in_range(sample: Sample) -> None:
    data = load(sample.value, resolution=32)
    train, val = ({image.tobytes() for image in split.images} for split in (data.train, data.val))
    assert not train & val
    for split in (data.train, data.val):
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int64
        assert split.images.shape == (len(split), data.size, data.size, data.in_channels)
        assert set(split.labels.tolist()) == set(range(data.num_classes))
    assert len(data.mean) == len(data.std) == data.in_channels
    assert data.notes


def test_the_fingerprint_is_stable(sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(sample.value, resolution=32)
    cached = load(sample.value, resolution=32)
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "other"))
    again = load(sample.value, resolution=32)
    assert first.fingerprint == cached.fingerprint == again.fingerprint


def test_a_broken_file_is_named(sample: Sample) -> None:
    sample.break_one()
    with pytest.raises(DataError, match=sample.named):
        load(sample.value, resolution=32)
