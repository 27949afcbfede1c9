"""IDX files, the format of MNIST and its family, and Fashion-MNIST by its name.

The format is that of http://yann.lecun.com/exdb/mnist/: two zero bytes, a type, the number of axes, the length of
each axis as a big-endian 32-bit number, then the values.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from nas.data._arrays import Array, Block, of_memory, read_arrays, stream
from nas.data._types import SOURCES, RawDataset, Source, identity, path_of, reason
from nas.data.fashion_mnist import CLASS_NAMES
from nas.errors import DataError

NAME = "idx"
FASHION_MNIST = "fashion-mnist"
FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
SPLITS = {"train": "train|training", "val": "val|valid|validation", "test": "test|testing|t10k"}
# "train-images-idx3-ubyte.gz", "train-images.idx3-ubyte", "emnist-letters-test-labels-idx1-ubyte.gz"
FILE = re.compile(r"(?:.*-)?(?P<split>[a-z0-9]+)-(?P<kind>images|labels)[-.]idx\d-ubyte(?:\.gz)?", re.IGNORECASE)
UINT8 = 0x08


def _matches(value: str) -> bool:
    return value == FASHION_MNIST or bool(_files(path_of(value)))


def _read(value: str) -> RawDataset:
    if value != FASHION_MNIST:
        return _read_folder(value, path_of(value))
    if not _files(FASHION_FOLDER):
        raise DataError(
            f"{value}: {FASHION_FOLDER} holds no IDX files; the Debian package dataset-fashion-mnist puts them there. "
            f"Install it with apt-get install dataset-fashion-mnist, or use fashion-mnist-subset, which is built in."
        )
    return _read_folder(value, FASHION_FOLDER, CLASS_NAMES)


def _read_folder(value: str, folder: Path, class_names: tuple[str, ...] | None = None) -> RawDataset:
    paths: dict[str, Path] = {}
    for path in _files(folder):
        name = _array_name(path)
        if name in paths:
            raise DataError(
                f"{value}: found {paths[name].name} and {path.name}; one of them is allowed. "
                f"Remove or rename the other one."
            )
        paths[name] = path

    def get(name: str) -> Array:
        return of_memory(f"{value}: class names", class_names) if name == "class_names" else _array(paths[name])

    if "train_images" not in paths:
        raise DataError(
            f"{value}: found {', '.join(path.name for path in paths.values())}; train-images-idx3-ubyte and "
            f"train-labels-idx1-ubyte are needed, plain or as .gz. Add or rename them."
        )
    names = [*paths, *(["class_names"] if class_names else [])]
    used = [path for name, path in paths.items() if not name.startswith("test")]
    files = tuple(identity(path, path.name) for path in used)
    return read_arrays(value, value if class_names else folder.resolve().name, names, get, files=files)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*-ubyte*") if FILE.fullmatch(path.name))


def _array_name(path: Path) -> str:
    match = FILE.fullmatch(path.name)
    assert match is not None
    known = [split for split, names in SPLITS.items() if match["split"].lower() in names.split("|")]
    return f"{known[0] if known else match['split']}_{match['kind'].lower()}"


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    try:
        with open(path, "rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
        opener: Any = gzip.open if packed else open
        with opener(path, "rb") as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: cannot be read ({reason(error)}); a whole IDX file is expected. Download it again."
        ) from error


def _array(path: Path) -> Array:
    with _open(path) as file:
        shape = _header(path, file)
    axes = 1 if "labels" in path.name.lower() else 3
    if len(shape) != axes:
        raise DataError(
            f"{path}: has {len(shape)} axes; {axes} {'is' if axes == 1 else 'are'} expected. "
            f"Look whether images and labels were interchanged."
        )
    return Array(str(path), shape, np.dtype(np.uint8), partial(_blocks, path, shape))


def _header(path: Path, file: IO[bytes]) -> tuple[int, ...]:
    """Read the header of a file, of which the values follow. Returns the shape."""
    start = file.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] != UINT8:
        raise DataError(
            f"{path}: begins with {start.hex(' ') or 'nothing'}; an IDX file of bytes begins with 00 00 08. "
            f"Download it again."
        )
    lengths = file.read(4 * start[3])
    if len(lengths) < 4 * start[3]:
        raise DataError(f"{path}: ends in its header; a whole IDX file is expected. Download it again.")
    return struct.unpack(f">{start[3]}I", lengths)


def _blocks(path: Path, shape: tuple[int, ...]) -> Iterator[Block]:
    with _open(path) as file:
        _header(path, file)
        yield from stream(str(path), file, shape, np.dtype(np.uint8))
        if file.read(1):
            raise DataError(
                f"{path}: goes on after {math.prod(shape):,} values; its header says that there are no more. "
                f"Download it again."
            )


SOURCES.register(
    NAME,
    Source(
        name=NAME,
        understands=f"a folder of IDX files (MNIST family), or {FASHION_MNIST!r} (a Debian package)",
        matches=_matches,
        read=_read,
        names=(FASHION_MNIST,),
    ),
)
