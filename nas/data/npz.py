"""NumPy archives (`.npz`), read row by row, so that an array may be larger than memory; nothing in them is run."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from nas.data._arrays import Array, Block, check_plain, read_arrays, stream
from nas.data._types import SOURCES, RawDataset, Source, identity, path_of, reason
from nas.errors import DataError

NAME = "npz"
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def _matches(value: str) -> bool:
    path = path_of(value)
    return path.suffix.lower() == ".npz" and os.path.isfile(path)


def _read(value: str) -> RawDataset:
    path = path_of(value)
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    except Exception as error:  # OSError, BadZipFile, struct.error and others on damaged files
        raise _damaged(path, error) from error
    return read_arrays(value, path.stem, names, partial(_array, path), files=(identity(path, path.name),))


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path}: cannot be read as npz ({reason(error)}); a whole file of numpy.savez is expected. "
        f"Download or write it again."
    )


def _array(path: Path, name: str) -> Array:
    where = f"{path}: {name}"
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
            shape, fortran_order, dtype = _header(member)
            left = archive.getinfo(f"{name}.npy").file_size - member.tell()
    except Exception as error:
        raise _damaged(path, error) from error
    check_plain(where, dtype)
    if fortran_order and len(shape) > 1:
        raise DataError(
            f"{where}: is in column order; row order is needed. Save numpy.ascontiguousarray(array) instead."
        )
    if left != math.prod(shape) * dtype.itemsize:
        raise DataError(
            f"{where}: holds {left:,} bytes; its shape asks for {math.prod(shape) * dtype.itemsize:,}. "
            f"Download or write it again."
        )
    return Array(where, shape, dtype, partial(_blocks, path, name, shape, dtype))


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(member)
    if version not in HEADERS:
        raise ValueError(f"array format {version}")
    return HEADERS[version](member)


def _blocks(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[Block]:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
            _header(member)
            yield from stream(f"{path}: {name}", member, shape, dtype)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(path, error) from error


SOURCES.register(
    NAME,
    Source(
        name=NAME,
        understands="a .npz of arrays x_train, y_train or images, labels",
        matches=_matches,
        read=_read,
    ),
)
