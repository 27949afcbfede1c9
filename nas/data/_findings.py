"""What there is to say about the images of a data set: broken, animated and equal ones, and uneven classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from nas.data._types import Labels, Mask, RawDataset
from nas.errors import DataError

Digests = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]

NAMED = 3
UNEVEN = 10


@dataclass(frozen=True)
class Broken:
    """An image that cannot be used.

    Args:
        where: The image as an error message names it.
        reason: What is wrong with it.
        remedy: What can be done about it, as a verb.
        opened: Whether it was opened, so that decoding was what failed.
    """

    where: str
    reason: str
    remedy: str = "Repair"
    opened: bool = True


def broken_error(broken: Sequence[Broken], shown: int) -> DataError:
    """Return the error for images that cannot be read: the first one in full, the names of some others."""
    first, *others = broken
    also = f" Also broken: {', '.join(other.where for other in others[: shown - 1])}." if others else ""
    return DataError(
        f"{first.where}: cannot be {'decoded' if first.opened else 'opened'} ({first.reason}); every image must be "
        f"readable. {first.remedy} or remove it, or leave such images out with --skip-broken.{also}"
    )


def skipped_note(raw: RawDataset, in_val: Mask, path: str, broken: Sequence[Broken], skipped: Sequence[int]) -> str:
    """Return a sentence on the images that were left out.

    Args:
        raw: The images.
        in_val: bool, (N,), true for validation images.
        path: The data, as an error message names it.
        broken: The first few that are broken.
        skipped: Indices of all that are broken.

    Raises:
        DataError: too much is missing: more than half, all training images of a class, or all of validation.
    """
    total, named = len(raw.labels), ", ".join(f"{below(path, each.where)} ({each.reason})" for each in broken[:NAMED])
    listed = named + (", ..." if len(skipped) > NAMED else "")
    kept = np.ones(total, dtype=np.bool_)
    kept[list(skipped)] = False
    if 2 * len(skipped) > total:
        raise DataError(
            f"{path}: more than half of the {total:,} images cannot be read ({listed}); "
            f"--skip-broken leaves out less than that. Look whether the data is complete."
        )
    left = np.bincount(raw.labels[kept & ~in_val], minlength=len(raw.class_names))
    if not left.all():
        name = raw.class_names[int(left.argmin())]
        raise DataError(
            f"{path}: class {name!r} has no readable training image left ({listed}); every class needs one. "
            f"Repair some or remove the class."
        )
    if not (kept & in_val).any():
        raise DataError(
            f"{path}: no readable validation image is left ({listed}); at least one is needed. "
            f"Repair some or add others."
        )
    verb = "was" if len(skipped) == 1 else "were"
    others = f" and {len(skipped) - NAMED:,} more" if len(skipped) > NAMED else ""
    return f"{len(skipped):,} of {total:,} images could not be read and {verb} skipped: {named}{others}."


def below(path: str, where: str) -> str:
    """Return the name of an image without the path of its data set."""
    return where.removeprefix(path).lstrip("/: ") or where


def uneven_note(labels: Labels, class_names: tuple[str, ...]) -> tuple[str, ...]:
    """Return a sentence where the largest class has more than ten times the images of the smallest."""
    counts = np.bincount(labels, minlength=len(class_names))
    most, least = int(counts.argmax()), int(counts.argmin())
    if counts[most] <= UNEVEN * counts[least]:
        return ()
    return (
        f"The classes are uneven: {class_names[most]!r} has {counts[most]:,} images, {class_names[least]!r} "
        f"{counts[least]:,}. Accuracy mostly tells how the large classes do.",
    )


def duplicate_notes(
    raw: RawDataset, in_val: Mask, digests: Digests, skipped: Sequence[int], path: str
) -> tuple[str, ...]:
    """Return sentences on images that are equal pixel for pixel in their stored form.

    Args:
        raw: The images.
        in_val: bool, (N,), true for validation images.
        digests: uint8, (N, 16), a hash of the stored pixels of each image.
        skipped: Indices of the images that have none.
        path: The data, as an error message names it.
    """
    kept = np.delete(np.arange(len(digests)), list(skipped))
    labels, to_val = raw.labels[kept], in_val[kept]
    _, group = np.unique(digests[kept].view("S16").reshape(-1), return_inverse=True)
    group = group.reshape(-1)
    if len(group) == 0 or int(group.max()) + 1 == len(group):
        return ()
    in_train = np.bincount(group[~to_val], minlength=int(group.max()) + 1)
    leaked = np.flatnonzero(to_val & (in_train[group] > 0))
    # Groups of one split: a copy is an image whose group came before in the same split.
    _, first = np.unique(2 * group + to_val, return_index=True)
    copies = np.delete(np.arange(len(group)), first)
    some_label = np.zeros(len(in_train), dtype=np.int64)
    some_label[group] = labels
    disputed = np.flatnonzero(np.isin(group, group[labels != some_label[group]]))

    def pair(index: int, among: Mask) -> str:
        other = next(int(i) for i in np.flatnonzero((group == group[index]) & among) if i != index)
        names = _names(raw, [int(kept[index]), int(kept[other])])
        return " = ".join(below(path, name) for name in names)

    notes = []
    if len(leaked):
        notes.append(
            f"{_images(len(leaked), 'validation image')} also in the training split, pixel for pixel "
            f"({pair(int(leaked[0]), ~to_val)}): validation accuracy is too good. Remove the copies."
        )
    if len(copies):
        same = to_val == to_val[copies[0]]
        notes.append(
            f"{_images(len(copies), 'image')} a copy of another one in the same split, pixel for pixel "
            f"({pair(int(copies[0]), same)})."
        )
    if len(disputed):
        differs = labels != labels[disputed[0]]
        notes.append(
            f"{_images(len(disputed), 'image')} equal to one with another label, pixel for pixel "
            f"({pair(int(disputed[0]), differs)}): not all of them can be right. Correct the labels or remove them."
        )
    return tuple(notes)


def _images(count: int, what: str) -> str:
    return f"{count:,} {what} is" if count == 1 else f"{count:,} {what}s are"


def _names(raw: RawDataset, indices: list[int]) -> list[str]:
    """Return the names of some images, for which the source goes over its images once more, without decoding."""
    wanted = dict.fromkeys(indices, "")
    for index, image in enumerate(islice(raw.images(), max(indices) + 1)):
        if index in wanted:
            wanted[index] = image.where
    return [wanted[index] for index in indices]
