"""What every data source must do. A new source adds one function that makes sample data for it."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import zipfile
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


def image_archive(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Sample:
    file = folder / "photos.zip"

    def write(broken_row: int) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for row in range(NUM_IMAGES):
                content = png(row)[: 60 if row == broken_row else None]
                archive.writestr(f"photos/{'ab'[row % 2]}/{row:02}.png", content)

    write(-1)
    return Sample(str(file), lambda: write(3), r"photos\.zip: photos/b/03\.png:")


def arrow_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Sample:
    import pyarrow as pa

    root = folder / "photos"
    data = root / "train" / "data-00000-of-00001.arrow"
    data.parent.mkdir(parents=True)
    (root / "dataset_dict.json").write_text(json.dumps({"splits": ["train"]}))
    (root / "train" / "state.json").write_text(json.dumps({"_data_files": [{"filename": data.name}]}))
    features = {"label": {"names": ["a", "b"], "_type": "ClassLabel"}}
    (root / "train" / "dataset_info.json").write_text(json.dumps({"features": features}))

    def write(broken_row: int) -> None:
        cells = [{"bytes": png(row)[: 60 if row == broken_row else None]} for row in range(NUM_IMAGES)]
        table = pa.table({"image": cells, "label": [row % 2 for row in range(NUM_IMAGES)]})
        with pa.OSFile(str(data), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)

    write(-1)
    return Sample(str(root), lambda: write(3), r"data-00000-of-00001\.arrow: row 3:")


def arrays() -> dict[str, np.ndarray]:
    images = np.random.RandomState(0).randint(0, 256, (NUM_IMAGES, 8, 8, 3), dtype=np.uint8)
    return {"images": images, "labels": np.arange(NUM_IMAGES) % 2}


def npz(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Sample:
    file = folder / "photos.npz"
    np.savez(file, **arrays())

    def damage() -> None:
        content = bytearray(file.read_bytes())
        content[1000] ^= 1
        file.write_bytes(content)

    return Sample(str(file), damage, r"photos\.npz: cannot be read")


def idx(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Sample:
    root = folder / "digits"
    root.mkdir()
    images = root / "train-images-idx3-ubyte"
    header = bytes([0, 0, 8, 3]) + b"".join(length.to_bytes(4, "big") for length in (NUM_IMAGES, 8, 8))
    images.write_bytes(header + arrays()["images"][..., 0].tobytes())
    labels = arrays()["labels"].astype(np.uint8).tobytes()
    (root / "train-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1]) + NUM_IMAGES.to_bytes(4, "big") + labels)
    return Sample(str(root), lambda: images.write_bytes(images.read_bytes()[:-1]) and None, "train-images-idx3-ubyte")


def cifar(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Sample:
    root = folder / "cifar-10-batches-py"
    root.mkdir()
    (root / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"cat", b"dog"]}, protocol=2))
    for number in range(1, 6):
        pixels = np.random.RandomState(number).randint(0, 256, (8, 3072), dtype=np.uint8)
        content = pickle.dumps({b"data": pixels, b"labels": [0, 1] * 4}, protocol=2)
        (root / f"data_batch_{number}").write_bytes(content)
    second = root / "data_batch_2"
    return Sample(str(root), lambda: second.write_bytes(second.read_bytes()[:-50]) and None, "data_batch_2")


def python_callable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Sample:
    name = f"conformance_{folder.name}".replace("-", "_")
    images = folder / "images.npy"
    np.save(images, arrays()["images"])
    (folder / f"{name}.py").write_text(
        "import numpy\n\ndef photos():\n"
        f"    images = numpy.load({str(images)!r})\n    return images, numpy.arange(len(images)) % 2\n"
    )
    monkeypatch.chdir(folder)
    return Sample(f"{name}:photos", images.unlink, rf"{name}:photos: raised FileNotFoundError")


MAKERS = {
    "arrow-folder": arrow_folder,
    "cifar": cifar,
    "fashion-mnist-subset": built_in,
    "idx": idx,
    "image-archive": image_archive,
    "image-folder": image_folder,
    "npz": npz,
    "parquet": parquet,
    "python-callable": python_callable,
}


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
