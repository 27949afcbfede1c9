"""Labelled images from folders, archives, tables, arrays or a function of yours, as packed uint8 arrays.

`load` is the one entry. A source is one file in this folder that registers a `Source`; adding one edits
nothing else. The test split of a dataset is never read here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np

from nas.data._types import SOURCES, Dataset, Mask, RawDataset, RawImage, Source, Split, one_line, path_of
from nas.data.pack import pack_images
from nas.data.split import stratified
from nas.errors import DataError, UsageError, nearest
from nas.registry import import_folder

__all__ = [
    "BUILTIN",
    "SOURCES",
    "Dataset",
    "RawDataset",
    "RawImage",
    "Source",
    "Split",
    "is_found",
    "load",
    "located",
    "native_size",
]

BUILTIN = "fashion-mnist-subset"


def load(
    source: str,
    *,
    resolution: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    skip_broken: bool = False,
) -> Dataset:
    """Read a data source: its images, decoded once and cached, in a training and a validation split.

    Images are stored square at no more than 8/7 of `resolution` (up to a multiple of 8); images that are all
    square, of one size, and smaller stay as they are.

    Args:
        source: `fashion-mnist-subset` (built in), `fashion-mnist`, `module:function`, or the path of a folder or
            file. `docs/data.md` lists what is understood.
        resolution: Largest input resolution of the networks, in pixels.
        seed: Fixes the validation split where the source has none of its own. Nothing else depends on it.
        progress: Called with (images decoded, all images) now and then; not called where the cache answers.
        skip_broken: Leave out images that cannot be read, and say in a note how many and which. It is an error all
            the same where they are more than half, or all training images of a class.

    Raises:
        DataError: no source understands the value, the images cannot be read or split, or the cache cannot
            be written. The message is one line.
        UsageError: `resolution` is not positive.
    """
    if resolution < 1:
        raise UsageError(f"resolution: found {resolution}; a positive number of pixels is allowed. Give 32 or more.")
    try:
        chosen = _source_of(source)
        raw = chosen.read(source)
        in_val, note = _split(raw, source, seed)
        noted = replace(raw, class_names=tuple(map(one_line, raw.class_names)), notes=(*raw.notes, note))
        return pack_images(
            noted,
            in_val,
            path=source,
            source_name=chosen.name,
            resolution=resolution,
            seed=seed,
            progress=progress,
            skip_broken=skip_broken,
        )
    except DataError as error:
        # Names of files may hold line ends, and bytes that are no text: no message may break on them.
        if one_line(error) != str(error):
            raise DataError(one_line(error)) from error
        raise


def located(source: str) -> str:
    """Return a source that means the same from every working directory: a path is made absolute, a name is kept."""
    named = any(source in SOURCES[name].names for name in SOURCES)
    return source if named or not os.path.exists(path_of(source)) else os.path.abspath(path_of(source))


def native_size(source: str, most: int = 200) -> int | None:
    """Return the median of the smaller side of the images in pixels, by the headers of a sample; None where none can be read.

    Args:
        most: Images to look at, evenly from the first ten times as many.
    """
    found = []
    for place, image in enumerate(islice(_source_of(source).read(source).images(), 10 * most)):
        if place % 10:
            continue
        with suppress(Exception), image.open() as opened:  # what cannot be read is named where it is decoded
            found.append(min(opened.size))
    return int(median(found)) if found else None


def is_found(source: str) -> bool:
    """Return whether some source understands a value, whatever may be wrong with its images."""
    return any(SOURCES[name].matches(source) for name in SOURCES)


def _source_of(value: str) -> Source:
    for name in SOURCES:
        if SOURCES[name].matches(value):
            return SOURCES[name]
    found = "not something that holds images" if os.path.exists(value) else "no such file or folder"
    understood = "; ".join(SOURCES[name].understands for name in SOURCES)
    names = [*(name for each in SOURCES for name in SOURCES[each].names), *_beside(path_of(value))]
    raise DataError(f"{value}: {found}; understood are: {understood}. Check the path.{nearest(value, names)}")


def _beside(path: Path) -> list[str]:
    """Return what lies in the folder of a path, written as the path is."""
    try:
        return [str(path.parent / name) for name in sorted(os.listdir(path.parent)) if name != path.name]
    except OSError:
        return []


def _split(raw: RawDataset, where: str, seed: int) -> tuple[Mask, str]:
    """Check labels, and return the validation mask with a sentence on how it was made."""
    counts = np.bincount(raw.labels, minlength=len(raw.class_names))
    if len(raw.class_names) < 2:
        found = f"one class ({raw.class_names[0]!r})" if raw.class_names else "no class"
        raise DataError(f"{where}: found {found}; at least 2 classes are needed. Add images of another class.")
    if raw.in_val is None:
        in_val = stratified(raw.labels, raw.class_names, seed=seed, where=where)
        share = in_val.sum() / len(in_val)
        return in_val, (
            f"No validation split was found: {in_val.sum()} of {len(in_val)} images "
            f"({share:.0%} of each class, seed {seed}) were set aside for validation."
        )
    val_counts = np.bincount(raw.labels[raw.in_val], minlength=len(raw.class_names))
    known = [name for name, count, val in zip(raw.class_names, counts, val_counts, strict=True) if count > val]
    unknown = [name for name in raw.class_names if name not in known]
    if unknown:
        raise DataError(
            f"{where}: class {unknown[0]!r} is in the validation split but not in the training split; "
            f"the training classes are: {', '.join(known) or 'none'}. Rename, move or remove its images."
        )
    if not raw.in_val.any():
        raise DataError(
            f"{where}: the validation split holds no image; at least one is needed. Add images to it, "
            f"or remove it so that one is made from the training images."
        )
    unseen = [name for name, val in zip(raw.class_names, val_counts, strict=True) if val == 0]
    absent = f" It has no image of: {', '.join(unseen)}." if unseen else ""
    return raw.in_val, f"The validation split is the source's own: {raw.in_val.sum()} images.{absent}"


import_folder("nas.data")
