"""CIFAR-10 and CIFAR-100 as their authors distribute them: Python pickles, in a tar archive or a folder.

A pickle can run any program when it is read. These are read by an interpreter that knows plain containers and the
three names by which NumPy stores an array, and puts inert values of its own in the place of those.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from nas.data._arrays import of_mapping, read_arrays
from nas.data._tar import first_member, members, open_tar
from nas.data._types import SOURCES, Pixels, RawDataset, Source, identity, path_of, reason
from nas.errors import DataError

NAME = "cifar"
FOLDERS = ("cifar-10-batches-py", "cifar-100-python")
CIFAR_10 = tuple(f"data_batch_{number}" for number in range(1, 6))
ROW = 3 * 32 * 32
# The largest file, the training images of CIFAR-100, has 155 million bytes.
MAX_FILE_BYTES = 2**28


class _Dtype:
    """Stands for `numpy.dtype`."""

    def __init__(self, code: object = None, *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        pass  # byte order and the like, which bytes do not have


class _Array:
    """Stands for `numpy.ndarray`; its state is (version, shape, dtype, column order, content)."""

    state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


def _latin_1(text: object, encoding: object = None) -> bytes:
    """Stands for `_codecs.encode`, by which Python 3 writes bytes into the pickles that Python 2 can read."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("bytes in an unknown encoding")
    return text.encode("latin-1")


ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
    ("numpy._core.multiarray", "_reconstruct"): lambda *_: _Array(),
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _latin_1,
}


class _Inert(pickle.Unpickler):
    """Reads a pickle without running anything that it names."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise _ForbiddenError(f"{module}.{name}") from None


class _ForbiddenError(Exception):
    """A pickle that names something else than an array."""


def _matches(value: str) -> bool:
    path = path_of(value)
    if os.path.isdir(path):
        return _is_folder(path)
    return path.name.lower().endswith((".tar.gz", ".tgz", ".tar")) and first_member(path).removeprefix("./").startswith(
        FOLDERS
    )


def _is_folder(path: Path) -> bool:
    ten = any(os.path.isfile(path / name) for name in CIFAR_10)
    return ten or all(os.path.isfile(path / name) for name in ("train", "meta"))


def _read(value: str) -> RawDataset:
    path = path_of(value)
    stored = dict(_folder_files(path) if path.is_dir() else _archive_files(path))
    hundred = "train" in stored
    wanted = ("train",) if hundred else CIFAR_10
    missing = [name for name in (*wanted, "meta" if hundred else "batches.meta") if name not in stored]
    if missing:
        raise DataError(
            f"{value}: found no {', '.join(missing)}; all files of the original archive are needed. "
            f"Download it again from https://www.cs.toronto.edu/~kriz/cifar.html."
        )
    batches = [_batch(f"{path}: {name}", stored[name], "fine_labels" if hundred else "labels") for name in wanted]
    meta = stored["meta" if hundred else "batches.meta"]
    arrays: dict[str, object] = {
        "images": np.concatenate([images for images, _ in batches]),
        "labels": np.concatenate([labels for _, labels in batches]),
    }
    class_names = meta.get("fine_label_names" if hundred else "label_names")
    if class_names is not None:
        arrays["class_names"] = [_text(name) for name in class_names]
    names = sorted(path.iterdir()) if path.is_dir() else [path]
    untouched = "The test split (test_batch) was left untouched: nothing in it was read."
    return read_arrays(
        value,
        "cifar-100" if hundred else "cifar-10",
        arrays,
        of_mapping(value, arrays),
        files=tuple(identity(file, file.name) for file in names),
        notes=(untouched.replace("test_batch", "test") if hundred else untouched,),
    )


def _is_wanted(name: str) -> bool:
    return name in (*CIFAR_10, "batches.meta", "train", "meta")


def _folder_files(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(folder.iterdir()):
        if _is_wanted(path.name):
            try:
                with open(path, "rb") as file:
                    yield path.name, _load(str(path), file, path.stat().st_size)
            except OSError as error:
                raise _damaged(str(path), error) from error


def _archive_files(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with open_tar(path) as archive:
        for member in members(path, archive):
            name = member.name.rpartition("/")[2]
            file = archive.extractfile(member) if member.isreg() and _is_wanted(name) else None
            if file is not None:
                yield name, _load(f"{path}: {name}", file, member.size)


def _damaged(where: str, error: Exception) -> DataError:
    return DataError(
        f"{where}: cannot be read as a CIFAR file ({reason(error)}); a file of the original archive is expected. "
        f"Download it again from https://www.cs.toronto.edu/~kriz/cifar.html."
    )


def _load(where: str, file: IO[bytes], size: int) -> dict[str, Any]:
    """Read one pickle: a dictionary with text keys."""
    try:
        if size > MAX_FILE_BYTES:
            raise ValueError(f"more than {MAX_FILE_BYTES >> 20} MiB")
        loaded = _Inert(io.BytesIO(file.read(size)), encoding="bytes").load()
        if not isinstance(loaded, dict):
            raise ValueError(f"holds {type(loaded).__name__}, not dict")
        return {_text(key): value for key, value in loaded.items()}
    except _ForbiddenError as error:
        raise DataError(
            f"{where}: the pickle asks for {error}, which can run a program; arrays, numbers, text, lists and "
            f"dictionaries are allowed, and nothing was run. Do not use this file: download the original archive."
        ) from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise _damaged(where, error) from error


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _batch(where: str, stored: dict[str, Any], labels_key: str) -> tuple[Pixels, np.ndarray[Any, Any]]:
    """Return images (N, 3, 32, 32) and labels (N,) of one file."""
    array, labels = stored.get("data"), stored.get(labels_key)
    try:
        _, shape, dtype, column_order, content = array.state  # type: ignore[union-attr]
        if dtype.code not in ("u1", b"u1") or column_order or shape[1:] != (ROW,) or len(content) != shape[0] * ROW:
            raise ValueError("data is not bytes of shape N x 3072")
        images = np.frombuffer(content, dtype=np.uint8).reshape(-1, 3, 32, 32)
        if not isinstance(labels, list) or not all(type(label) is int for label in labels):
            raise ValueError(f"{labels_key} is not a list of numbers")
        if len(labels) != len(images):
            raise ValueError(f"{len(labels)} labels for {len(images)} images")
    except (AttributeError, TypeError, ValueError) as error:
        raise _damaged(where, error) from error
    return images, np.array(labels, dtype=np.int64)


SOURCES.register(
    NAME,
    Source(
        name=NAME,
        understands="cifar-10-python.tar.gz, cifar-100-python.tar.gz, or the folder in it",
        matches=_matches,
        read=_read,
    ),
)
