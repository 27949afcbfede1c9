"""Images as they lie, without a split: what a trained network is asked to name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nas.data._findings import Broken, broken_error
from nas.data._stream import Result, decoding
from nas.data._tree import SUFFIXES, File, Folder, is_image, is_litter, listed
from nas.data._types import RawImage, one_line, path_of
from nas.data.decode import read_image
from nas.data.image_archive import images_of, is_archive, tree_of
from nas.errors import DataError

__all__ = ["Broken", "Loose", "RawImage", "Result", "broken_error", "decoding", "find", "one_line"]


@dataclass(frozen=True)
class Loose:
    """Images of files, folders and archives, in their order; within a folder by name, its own before those of its folders.

    Args:
        paths: What was named. count: How many images there were when they were counted.
    """

    paths: tuple[Path, ...]
    count: int

    def __iter__(self) -> Iterator[RawImage]:
        """Yield the images, not opened yet. Of a folder the names alone are in memory, and of one level at a time."""
        for path in self.paths:
            if is_archive(path):
                yield from images_of(path, list(_in_tree(tree_of(path))))
            elif path.is_dir():
                yield from map(_image, _below(path))
            else:
                yield _image(str(path))


def find(paths: Sequence[str | os.PathLike[str]]) -> Loose:
    """Return the images of files, folders (with the folders in them) and zip or tar archives.

    In folders and archives files are known by their endings; a file that is named itself is taken for an image.

    Raises:
        DataError: a path is not there, or has no image.
    """
    found, count = [path_of(os.fspath(path)) for path in paths], 0
    for path in found:
        if is_archive(path):
            here = sum(1 for _ in _in_tree(tree_of(path)))
        elif path.is_dir():
            here = sum(1 for _ in _below(path))
        elif os.path.lexists(path):
            here = 1
        else:
            raise DataError(
                f"{path}: no such file or folder; images, folders and archives of images are read. Check it."
            )
        if not here:
            raise DataError(
                f"{path}: found no image; files ending in {', '.join(SUFFIXES)} are read. Check the path, or name files."
            )
        count += here
    return Loose(tuple(found), count)


def _image(path: str) -> RawImage:
    folder = os.path.basename(os.path.dirname(os.path.abspath(path)))
    return RawImage(path, partial(read_image, Path(path)), one_line(folder))


def _below(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield the image files of a folder, then those of the folders in it; a link back to one above it is not followed."""
    here = os.path.realpath(folder)
    if here in above:
        return
    try:
        names = sorted(name for name in os.listdir(folder) if not is_litter(name))
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be listed ({error.strerror}); a readable folder is expected. Change its permissions."
        ) from error
    inner = []
    for name in names:
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            inner.append(path)
        elif is_image(name):
            yield path
    for path in inner:
        yield from _below(Path(path), above | {here})


def _in_tree(folder: Folder) -> Iterator[File]:
    folders, files = listed(folder)
    yield from (file for file in files if is_image(file.name))
    for inner in folders:
        yield from _in_tree(inner)
