"""A folder of images, one sub-folder for each class, with or without `train` and `val` around them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from nas.data._tree import LAYOUTS, File, Folder, find_images
from nas.data._types import SOURCES, RawDataset, RawImage, Source, identity, path_of, unclaimed
from nas.data.decode import read_image
from nas.errors import DataError

NAME = "image-folder"


def _matches(value: str) -> bool:
    return os.path.isdir(path_of(value)) and unclaimed(value, NAME)


def _read(value: str) -> RawDataset:
    root = path_of(value)
    found = find_images(_folder(root, root))

    def iterate() -> Iterator[RawImage]:
        for file in found.files:
            yield RawImage(where=file.where, open=file.open)

    return RawDataset(
        name=root.resolve().name,
        class_names=found.class_names,
        labels=found.labels,
        in_val=found.in_val,
        images=iterate,
        files=tuple(file.identity for file in found.files),
        notes=found.notes,
    )


def _folder(path: Path, root: Path) -> Folder:
    return Folder(_below(path, root), str(path), partial(_list, path, root))


def _below(path: Path, root: Path) -> str:
    return "" if path == root else path.relative_to(root).as_posix()


def _list(folder: Path, root: Path) -> tuple[list[Folder], list[File]]:
    try:
        paths = list(folder.iterdir())
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be listed ({error.strerror}); a readable folder is expected. Change its permissions."
        ) from error
    # A link that leads nowhere is a file here: opening it fails, and says which one it is.
    inner = {path for path in paths if os.path.isdir(path)}
    return [_folder(path, root) for path in inner], [_file(path, root) for path in paths if path not in inner]


def _file(path: Path, root: Path) -> File:
    below = _below(path, root)
    return File(below, str(path), partial(read_image, path), identity(path, below))


SOURCES.register(
    NAME,
    Source(
        name=NAME,
        understands=f"a folder of images ({LAYOUTS})",
        matches=_matches,
        read=_read,
    ),
)
