"""Small image folders and parquet files, made on the fly."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, size: tuple[int, int] = (10, 10), mode: str = "RGB") -> Image.Image:
    channels = {"RGB": 3, "L": 1, "RGBA": 4}[mode]
    pixels = np.random.RandomState(seed).randint(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze() if channels == 1 else pixels)


def encoded(seed: int, size: tuple[int, int] = (10, 10), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    picture(seed, size, mode).save(buffer, "PNG")
    return buffer.getvalue()


def write_classes(
    root: Path,
    counts: dict[str, int],
    *,
    size: tuple[int, int] = (10, 10),
    mode: str = "RGB",
    suffix: str = ".png",
    first_seed: int = 0,
) -> Path:
    """Write `counts[name]` different images into `root/name/` for every class name."""
    seed = first_seed
    for name, count in counts.items():
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture(seed, size, mode).save(folder / f"{number:03}{suffix}")
            seed += 1
    return root


def write_parquet(
    path: Path,
    labels: Sequence[int | str | None],
    *,
    names: Iterable[str] | None = None,
    image: str = "image",
    label: str = "label",
    cells: Callable[[int], bytes | None] = encoded,
) -> Path:
    """Write a file in the layout of Hugging Face, with different images (the row is the seed)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [{"bytes": cells(row), "path": f"{row}.png"} for row in range(len(labels))]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({image: pa.array(images, kind), label: pa.array(labels)})
    if names is not None:
        features = {label: {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path
