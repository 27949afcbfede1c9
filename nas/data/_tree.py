"""Which files of a tree are the images of which class and split; the tree may be a folder or an archive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from nas.data._types import Labels, Mask, one_line
from nas.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".avif", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation")
TEST_NAMES = ("test", "testing")
SPLIT_NAMES = (*TRAIN_NAMES, *VAL_NAMES, *TEST_NAMES)
# What file managers and archivers leave behind. Names that begin with a dot are passed over as well.
LITTER = ("__macosx", "thumbs.db", "desktop.ini", "@eadir")
MAX_WRAPPERS = 8
LAYOUTS = "<class>/*.jpg or {train,val}/<class>/*.jpg"


@dataclass(frozen=True)
class File:
    """A file of the tree.

    Args:
        path: Its place below the root, with "/" between the parts.
        where: The file as an error message names it.
        open: Opens it with Pillow.
        identity: Path, size in bytes and mtime in ns.
    """

    path: str
    where: str
    open: Callable[[], Image.Image]
    identity: tuple[str, int, int]

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """The name of the folder it lies in, as class names are printed; "" at the root."""
        return one_line(self.path.rpartition("/")[0].rpartition("/")[2])


@dataclass(frozen=True)
class Folder:
    """A folder of the tree. It is listed when it is asked for, so a test split never is.

    Args:
        path: Its place below the root, with "/" between the parts; "" for the root.
        where: The folder as an error message names it.
        list: Returns the folders and the files in it, in any order. Raises `DataError`.
    """

    path: str
    where: str
    list: Callable[[], tuple[Sequence[Folder], Sequence[File]]]

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Labelled:
    """The images of a tree: training before validation, then by class, then by name.

    Args:
        files: The N image files.
        labels: int64, (N,), indices into the class names.
        in_val: bool, (N,), true for validation images; None where there is no validation split.
        class_names: Names in label order.
        notes: Sentences for people on what else was found.
    """

    files: tuple[File, ...]
    labels: Labels
    in_val: Mask | None
    class_names: tuple[str, ...]
    notes: tuple[str, ...]


def find_images(root: Folder) -> Labelled:
    """Find classes and splits in a tree, also below folders that only wrap others.

    Raises:
        DataError: the tree has no layout that is understood, or a class has no image.
    """
    train, val, notes = _splits(_unwrapped(root))
    in_train = _images_by_class(train, notes)
    in_val = _images_by_class(val, notes) if val is not None else {}
    class_names = tuple(sorted({*in_train, *in_val}))
    files: list[File] = []
    labels: list[int] = []
    for images in (in_train, in_val):
        for label, name in enumerate(class_names):
            files += images.get(name, [])
            labels += [label] * len(images.get(name, []))
    num_train = sum(len(images) for images in in_train.values())
    return Labelled(
        files=tuple(files),
        labels=np.array(labels, dtype=np.int64),
        in_val=np.arange(len(labels)) >= num_train if val is not None else None,
        class_names=class_names,
        notes=tuple(notes),
    )


def listed(folder: Folder) -> tuple[list[Folder], list[File]]:
    """Return what is in a folder, sorted by name, without litter and hidden files."""
    folders, files = folder.list()
    return (
        sorted((entry for entry in folders if not is_litter(entry.name)), key=lambda entry: entry.name),
        sorted((entry for entry in files if not is_litter(entry.name)), key=lambda entry: entry.name),
    )


def is_litter(name: str) -> bool:
    """Return whether a file or folder is none of the user's: hidden, or left behind by a program."""
    return name.startswith(".") or name.lower() in LITTER


def is_image(name: str) -> bool:
    """Return whether a file is an image, by its name."""
    return name.lower().endswith(SUFFIXES)


def _unwrapped(root: Folder) -> Folder:
    """Go down while a folder holds nothing but one other folder of folders, which is no split."""
    for _ in range(MAX_WRAPPERS):
        folders, files = listed(root)
        if len(folders) != 1 or any(is_image(file.name) for file in files) or folders[0].name.lower() in SPLIT_NAMES:
            break
        inner_folders, inner_files = listed(folders[0])
        if not inner_folders or any(is_image(file.name) for file in inner_files):
            break  # a class, with something else beside its images
        root = folders[0]
    return root


def _splits(root: Folder) -> tuple[Folder, Folder | None, list[str]]:
    """Return the folders of the training and validation classes (None: no such split), and notes."""
    folders, _ = listed(root)
    train, val = _split(root, folders, TRAIN_NAMES), _split(root, folders, VAL_NAMES)
    if train is None:
        if val is not None:
            raise DataError(f"{root.where}: found {val.name}/ but no train/; understood are: {LAYOUTS}. Add train/.")
        return root, None, []
    notes = []
    for folder in folders:
        if folder.name.lower() in TEST_NAMES:
            notes.append(f"The test split ({folder.name}/) was left untouched: nothing in it was read.")
        elif folder not in (train, val):
            notes.append(f"The folder {folder.name}/ beside {train.name}/ is no split and was not read.")
    return train, val, notes


def _split(root: Folder, folders: Sequence[Folder], names: Sequence[str]) -> Folder | None:
    # A folder named "train" without folders in it is a class (of vehicles, say), not a split.
    found = [folder for folder in folders if folder.name.lower() in names and listed(folder)[0]]
    if len(found) > 1:
        both = ", ".join(f"{folder.name}/" for folder in found)
        raise DataError(f"{root.where}: found {both}; only one of them is allowed. Remove or rename the others.")
    return found[0] if found else None


def _images_by_class(folder: Folder, notes: list[str]) -> dict[str, list[File]]:
    """Return the image files of each class, sorted by name, and note what else lies there."""
    classes, loose = listed(folder)
    others: list[File | Folder] = [file for file in loose if is_image(file.name)]
    if not classes:
        instead = f" (images without one: {len(others)})" if others else ""
        raise DataError(
            f"{folder.where}: found no class folder{instead}; understood are: {LAYOUTS}. "
            f"Put the images of each class into a folder of its own."
        )
    images: dict[str, list[File]] = {}
    for class_folder in classes:
        inner, files = listed(class_folder)
        images[class_folder.name] = [file for file in files if is_image(file.name)]
        if not images[class_folder.name]:
            raise DataError(
                f"{class_folder.where}: a class folder without images; files ending in {', '.join(SUFFIXES)} are "
                f"read. Add images or remove the folder."
            )
        others += [*inner, *(file for file in files if not is_image(file.name))]
    if others:
        notes.append(
            f"{len(others)} files or folders are not images in a class folder and were skipped: {others[0].path}"
            f"{', ...' if len(others) > 1 else ''}."
        )
    return images
