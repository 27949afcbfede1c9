"""A folder of images, one sub-folder for each class, with or without `train` and `val` around them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from nas.data._types import SOURCES, RawDataset, RawImage, Source
from nas.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
VAL_NAMES = ("val", "valid", "validation")
TEST_NAMES = ("test", "testing")
LAYOUTS = "<folder>/<class>/*.jpg or <folder>/{train,val}/<class>/*.jpg"


def _matches(value: str) -> bool:
    folder = Path(value).expanduser()
    holds_parquet = any(next(place.glob("*.parquet"), None) for place in (folder, folder / "data"))
    return folder.is_dir() and not holds_parquet


def _read(value: str) -> RawDataset:
    root = Path(value).expanduser()
    train, val, notes = _splits(value, root)
    in_train = _images_by_class(value, train, notes)
    in_val = _images_by_class(value, val, notes) if val is not None else {}
    class_names = tuple(sorted({*in_train, *in_val}))
    paths: list[Path] = []
    labels: list[int] = []
    for images in (in_train, in_val):
        for label, name in enumerate(class_names):
            paths += images.get(name, [])
            labels += [label] * len(images.get(name, []))
    num_train = sum(len(images) for images in in_train.values())

    def iterate() -> Iterator[RawImage]:
        for path in paths:
            yield RawImage(where=str(path), open=partial(Image.open, path))

    return RawDataset(
        name=root.resolve().name,
        class_names=class_names,
        labels=np.array(labels, dtype=np.int64),
        in_val=np.arange(len(labels)) >= num_train if val is not None else None,
        images=iterate,
        files=tuple(_identity(root, path) for path in paths),
        notes=tuple(notes),
    )


def _identity(root: Path, path: Path) -> tuple[str, int, int]:
    try:
        seen = path.stat()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be opened ({error.strerror}); a readable image is expected. Repair or remove it."
        ) from error
    return path.relative_to(root).as_posix(), seen.st_size, seen.st_mtime_ns


def _splits(value: str, root: Path) -> tuple[Path, Path | None, list[str]]:
    """Return the folders of the training and validation classes (None: no such split), and notes."""
    # A folder named "train" without folders in it is a class (of vehicles, say), not a split.
    holders = {folder.name: folder for folder in _folders(root) if _folders(folder)}
    train = _one(value, holders, ("train", "training"))
    val = _one(value, holders, VAL_NAMES)
    if train is None:
        if val is not None:
            raise DataError(f"{value}: found {val.name}/ but no train/; understood are: {LAYOUTS}. Add train/.")
        return root, None, []
    notes = []
    for folder in _folders(root):
        if folder.name.lower() in TEST_NAMES:
            notes.append(f"The test split ({folder.name}/) was left untouched: nothing in it was read.")
        elif folder not in (train, val):
            notes.append(f"The folder {folder.name}/ beside {train.name}/ is no split and was not read.")
    return train, val, notes


def _one(value: str, holders: dict[str, Path], names: Sequence[str]) -> Path | None:
    found = [folder for name, folder in holders.items() if name.lower() in names]
    if len(found) > 1:
        listed = ", ".join(f"{folder.name}/" for folder in found)
        raise DataError(f"{value}: found {listed}; only one of them is allowed. Remove or rename the others.")
    return found[0] if found else None


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be listed ({error.strerror}); a readable folder is expected. Change its permissions."
        ) from error


def _images_by_class(value: str, folder: Path, notes: list[str]) -> dict[str, list[Path]]:
    """Return the image files of each class, sorted by name, and note what else lies there."""
    classes = _folders(folder)
    if not classes:
        raise DataError(
            f"{folder}: found no class folder; understood are: {LAYOUTS}. "
            f"Put the images of each class into a folder of its own."
        )
    images: dict[str, list[Path]] = {}
    others: list[Path] = [entry for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES and entry.is_file()]
    for class_folder in classes:
        entries = sorted(entry for entry in class_folder.iterdir() if not entry.name.startswith("."))
        found = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and not entry.is_dir()]
        if not found:
            raise DataError(
                f"{class_folder}: a class folder without images; files ending in {', '.join(SUFFIXES)} are "
                f"read. Add images or remove the folder."
            )
        images[class_folder.name] = found
        others += [entry for entry in entries if entry not in set(found)]
    if others:
        first = others[0].relative_to(Path(value).expanduser())
        notes.append(
            f"{len(others)} files or folders are not images in a class folder and were skipped: {first}"
            f"{', ...' if len(others) > 1 else ''}."
        )
    return images


SOURCES.register(
    "image-folder",
    Source(
        name="image-folder",
        understands=f"a folder of images ({LAYOUTS})",
        matches=_matches,
        read=_read,
    ),
)
