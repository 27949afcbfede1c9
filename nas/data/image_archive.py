"""A zip or tar archive of an image folder, read where it lies: nothing is extracted to disk.

Zip archives and plain tar archives are read member by member in the order of a folder, so the same images give
the same fingerprint. A compressed tar archive can only be read from its beginning, so its images come in the order
of the archive.
"""

from __future__ import annotations

import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from nas.data._tar import check_expansion, explained, is_compressed, members, open_tar
from nas.data._tree import LAYOUTS, SUFFIXES, File, Folder, Labelled, find_images
from nas.data._types import SOURCES, RawDataset, RawImage, Source, identity, path_of, unclaimed
from nas.data.decode import MAX_BYTES, open_image
from nas.errors import DataError

NAME = "image-archive"
ZIP_SUFFIXES = (".zip",)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)

Open = Callable[[], Image.Image]


@dataclass
class _Node:
    """A folder of an archive while its members are sorted into it."""

    folders: dict[str, _Node] = field(default_factory=dict)
    files: dict[str, File] = field(default_factory=dict)


def is_archive(path: Path) -> bool:
    """Return whether a file is an archive, by its name."""
    return path.name.lower().endswith((*ZIP_SUFFIXES, *TAR_SUFFIXES)) and os.path.isfile(path)


def tree_of(path: Path) -> Folder:
    """Return the folders and files of an archive.

    Raises:
        DataError: it cannot be read, holds no image, or is meant to do harm.
    """
    return _tree(path, _zip_members(path) if _is_zip(path) else _tar_members(path))


def images_of(path: Path, files: Sequence[File]) -> Iterator[RawImage]:
    """Yield some images of an archive: as they are given, or of a compressed tar archive in its own order."""
    if not _is_zip(path) and is_compressed(path):
        return _tar_images(path, files)
    return (RawImage(file.where, file.open, file.folder) for file in files)


def _is_zip(path: Path) -> bool:
    return path.name.lower().endswith(ZIP_SUFFIXES)


def _matches(value: str) -> bool:
    return is_archive(path_of(value)) and unclaimed(value, NAME)


def _read(value: str) -> RawDataset:
    path = path_of(value)
    found = find_images(tree_of(path))
    if _is_zip(path) or not is_compressed(path):
        return _dataset(path, found)
    found = _in_archive_order(found)
    return replace(_dataset(path, found), images=partial(_tar_images, path, found.files))


def _dataset(path: Path, found: Labelled) -> RawDataset:
    def iterate() -> Iterator[RawImage]:
        for file in found.files:
            yield RawImage(where=file.where, open=file.open)

    return RawDataset(
        name=re.sub(r"\.(zip|tgz|tbz2|txz|tar(\.\w+)?)$", "", path.name, flags=re.IGNORECASE),
        class_names=found.class_names,
        labels=found.labels,
        in_val=found.in_val,
        images=iterate,
        files=(identity(path, path.name),),
        notes=found.notes,
    )


def _tree(path: Path, listed: Iterator[tuple[str, Open | None, int]]) -> Folder:
    """Sort members into folders. A member is its name, how it is opened (None: a folder), and its place."""
    root, names = _Node(), []
    for name, opened, place in listed:
        _check_name(path, name)
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if not parts:
            continue  # "./", the root itself
        *above, last = parts if opened is not None else [*parts, ""]
        node = root
        for part in above:
            node = node.folders.setdefault(part, _Node())
        if opened is not None:
            names.append(name)
            below = "/".join(parts)
            # A name that comes twice is replaced by the later one, as in unpacking.
            node.files[last] = File(below, f"{path}: {below}", opened, (below, place, 0))
    if not any(name.lower().endswith(SUFFIXES) for name in names):
        first = f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""
        raise DataError(
            f"{path}: found no image among {len(names)} files{first}; understood are: {LAYOUTS}. "
            f"Pack the image folder itself: an archive in an archive is not opened."
        )
    return _folder(path, "", root)


def _folder(path: Path, below: str, node: _Node) -> Folder:
    def listed() -> tuple[Sequence[Folder], Sequence[File]]:
        inner = [_folder(path, f"{below}/{name}".lstrip("/"), child) for name, child in node.folders.items()]
        return inner, list(node.files.values())

    return Folder(below, f"{path}: {below}" if below else str(path), listed)


def _refuse(path: Path, name: str, found: str) -> DataError:
    return DataError(
        f"{path}: member {name!r} {found}; plain files and folders below the archive are allowed. "
        f"Unpack it where that can do no harm, look at it, and pack the image folder again."
    )


def _check_name(path: Path, name: str) -> None:
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[/\\]", name):
        raise _refuse(path, name, "has an absolute path")
    if ".." in re.split(r"[/\\]", name):
        raise _refuse(path, name, "leads out of the archive")


def _zip_members(path: Path) -> Iterator[tuple[str, Open | None, int]]:
    with explained(path, "zip"):
        # Closed when the last image is let go of: the members are opened later, in many threads, which it allows.
        archive = zipfile.ZipFile(path)
    check_expansion(path, sum(info.file_size for info in archive.infolist()))
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refuse(path, info.filename, "is a link" if kind == stat.S_IFLNK else "is a device or pipe")
        if info.flag_bits & 0x1:
            raise DataError(f"{path}: is encrypted; a zip without a password is expected. Pack it again without one.")
        if info.compress_type not in ZIP_METHODS:
            raise DataError(
                f"{path}: is compressed by method {info.compress_type}; stored, deflate, bzip2 and lzma are "
                f"understood. Pack it again."
            )
        opened = None if info.is_dir() else partial(_open_zipped, archive, info)
        yield info.filename.replace("\\", "/"), opened, info.header_offset


def _open_zipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Image.Image:
    with archive.open(info) as member:
        return open_image(member.read(min(info.file_size, MAX_BYTES + 1)))


def _tar_members(path: Path) -> Iterator[tuple[str, Open | None, int]]:
    with open_tar(path) as archive:
        for member in members(path, archive):
            if member.issym() or member.islnk():
                raise _refuse(path, member.name, "is a link")
            if member.issparse() or not (member.isfile() or member.isdir()):
                raise _refuse(path, member.name, "is a device, a pipe or a sparse file")
            opened = None if member.isdir() else partial(_open_tarred, path, member.offset_data, member.size)
            yield member.name, opened, member.offset_data


def _open_tarred(path: Path, offset: int, size: int) -> Image.Image:
    """Open a member of a plain tar archive."""
    with open(path, "rb") as file:
        file.seek(offset)
        return open_image(file.read(min(size, MAX_BYTES + 1)))


def _in_archive_order(found: Labelled) -> Labelled:
    order = np.argsort([file.identity[1] for file in found.files], kind="stable")
    return replace(
        found,
        files=tuple(found.files[index] for index in order),
        labels=found.labels[order],
        in_val=None if found.in_val is None else found.in_val[order],
    )


def _tar_images(path: Path, files: Sequence[File]) -> Iterator[RawImage]:
    """Read the images of a compressed tar archive in one pass. `files` are in the order of the archive."""
    wanted = {file.identity[1]: file for file in files}
    with open_tar(path) as archive:
        for member in members(path, archive):
            if file := wanted.get(member.offset_data):
                stream = archive.extractfile(member)
                encoded = stream.read(min(member.size, MAX_BYTES + 1)) if stream is not None else b""
                yield RawImage(file.where, partial(open_image, encoded), file.folder)


SOURCES.register(
    NAME,
    Source(
        name=NAME,
        understands="a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz of an image folder",
        matches=_matches,
        read=_read,
    ),
)
