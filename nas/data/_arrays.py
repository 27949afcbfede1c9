"""Images and labels that come as arrays, by name: what they are called, which shapes and numbers are understood."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from nas.data._types import Labels, RawDataset, RawImage
from nas.data.decode import MAX_PIXELS
from nas.errors import DataError

Block = npt.NDArray[Any]

CHANNELS = (1, 3, 4)
BLOCK_BYTES = 1 << 20
IMAGE_WORDS = ("x", "images", "data")
LABEL_WORDS = ("y", "labels", "targets")
# Words for a split around those for its arrays; "" is the one that holds all there is.
SPLIT_WORDS = {"train": ("train", "training", ""), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
NAMES = "x_train and y_train, train_images and train_labels, images and labels, or x and y"


@dataclass(frozen=True)
class Array:
    """An array that is read in blocks, so that it may be larger than memory.

    Args:
        where: The array as an error message names it.
        shape: Its shape.
        dtype: The type of its elements.
        blocks: Yields its rows (along the first axis) in order, some at a time. May raise `DataError`.
    """

    where: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    blocks: Callable[[], Iterator[Block]]


def of_memory(where: str, value: object) -> Array:
    """Return what `numpy.asarray` makes of a value.

    Raises:
        DataError: it makes nothing of it, or an array of Python objects.
    """
    try:
        array = np.asarray(value)
    except Exception as error:  # ragged lists, tensors on a device and others, each with its own type
        raise DataError(
            f"{where}: {type(value).__name__} of which numpy.asarray makes no array; images of one shape are allowed. "
            f"Bring them to one size, or return a nas.data.RawDataset."
        ) from error
    check_plain(where, array.dtype)
    rows = max(1, BLOCK_BYTES // max(1, array.nbytes // max(1, len(array)))) if array.ndim else 1

    def blocks() -> Iterator[Block]:
        for start in range(0, len(array), rows):
            yield array[start : start + rows]

    return Array(where, array.shape, array.dtype, blocks)


def check_plain(where: str, dtype: np.dtype[Any]) -> None:
    """Refuse an array of Python objects: reading one can run code."""
    if dtype.hasobject:
        raise DataError(
            f"{where}: holds Python objects; numbers are allowed, as objects can run code when they are read. "
            f"Make one array of one shape and type, such as numpy.stack(images)."
        )


def stream(where: str, file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[Block]:
    """Yield the rows of an array from a file that stands at its first byte.

    Raises:
        DataError: the file ends before the array does.
    """
    row_bytes = math.prod(shape[1:]) * dtype.itemsize
    rows = max(1, BLOCK_BYTES // max(1, row_bytes))
    for start in range(0, shape[0], rows):
        count = min(rows, shape[0] - start)
        content = file.read(count * row_bytes)
        if len(content) < count * row_bytes:
            raise DataError(
                f"{where}: ends in row {start + len(content) // max(1, row_bytes)} of {shape[0]}; a whole array is "
                f"expected. Download or write it again."
            )
        yield np.frombuffer(content, dtype=dtype).reshape(count, *shape[1:])


def read_arrays(
    value: str,
    name: str,
    names: Iterable[str],
    get: Callable[[str], Array],
    *,
    files: tuple[tuple[str, int, int], ...] = (),
    notes: tuple[str, ...] = (),
) -> RawDataset:
    """Return a data set of named arrays. Those of a test split are not looked at.

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W) with C in 1, 3, 4. They are uint8, or floats: where all of
    them are in 0..1 they are multiplied by 255, where all are in 0..255 taken as they are, and rounded. Labels are
    (N,) or (N, 1), whole numbers from 0, or text. An array `class_names` of text names the numbers.

    Args:
        value: The data, as an error message names it.
        name: Short name for tables.
        names: The names of all arrays.
        get: Returns the array of a name; called for those that are needed only.
        files: As in `RawDataset`.
        notes: As in `RawDataset`.

    Raises:
        DataError: an array is missing, or has a shape, type or content that is not understood.
    """
    names = list(names)
    picked = {split: _pick(value, names, split) for split in ("train", "val")}
    if picked["train"] is None:
        raise DataError(
            f"{value}: found {_listed(names)}; arrays called {NAMES} are needed, val for train where there is a "
            f"validation split. Rename the arrays."
        )
    pairs = [(get(pair[0]), get(pair[1])) for pair in picked.values() if pair]
    for images, labels in pairs:
        _check_images(images)
        _check_lengths(images, labels)
    given = next((get(key) for key in names if key.lower() == "class_names"), None)
    class_names, labels_of_all, absent = _labels([labels for _, labels in pairs], given)
    test = _of_kind(names, "test", IMAGE_WORDS) + _of_kind(names, "test", LABEL_WORDS)
    used = {key for pair in picked.values() if pair for key in pair} | {*test}
    others = [key for key in names if key not in used and key.lower() != "class_names"]
    extra = [f"The test split ({', '.join(test)}) was left untouched: nothing in it was read."] if test else []
    extra += [f"Other arrays were not read: {', '.join(others)}."] if others else []
    return RawDataset(
        name=name,
        class_names=class_names,
        labels=labels_of_all,
        in_val=np.arange(len(labels_of_all)) >= pairs[0][0].shape[0] if len(pairs) > 1 else None,
        images=partial(_images, [images for images, _ in pairs]),
        files=files,
        notes=(*notes, *absent, *extra),
    )


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"the array{'' if len(names) == 1 else 's'} {shown}" if names else "no array"


def _pick(value: str, names: list[str], split: str) -> tuple[str, str] | None:
    """Return the names of the images and labels of a split, or None where it has no images."""
    images, labels = (_of_kind(names, split, words) for words in (IMAGE_WORDS, LABEL_WORDS))
    for keys in (images, labels):
        if len(keys) > 1:
            raise DataError(
                f"{value}: found {' and '.join(keys)}; one of them is allowed. Remove or rename the others."
            )
    if images and not labels:
        wanted = re.sub("data|images", "labels", images[0].lower().replace("x", "y"))
        raise DataError(f"{value}: {images[0]} has no labels beside it; {wanted} is needed. Add the labels.")
    return (images[0], labels[0]) if images else None


def _of_kind(names: list[str], split: str, words: tuple[str, ...]) -> list[str]:
    spelled = {f"{a}_{b}".strip("_") for s in SPLIT_WORDS[split] for w in words for a, b in ((s, w), (w, s))}
    return [name for name in names if name.lower() in spelled]


def _check_images(array: Array) -> None:
    shape = "x".join(str(length) for length in array.shape) or "a single value"
    if len(array.shape) not in (3, 4) or (len(array.shape) == 4 and _channel_axis(array.shape) is None):
        raise DataError(
            f"{array.where}: has shape {shape}; (N, H, W), (N, H, W, C) or (N, C, H, W) is allowed, where C is 1, 3 "
            f"or 4 and H and W are not. Reshape it."
        )
    if 0 in array.shape:
        raise DataError(f"{array.where}: has shape {shape}; at least one image of one pixel is needed. Add images.")
    if math.prod(array.shape[1:]) > 4 * MAX_PIXELS:
        raise DataError(f"{array.where}: has shape {shape}; {MAX_PIXELS:,} pixels an image are allowed. Shrink them.")
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise DataError(
            f"{array.where}: is {array.dtype}; uint8, or floats in 0..1 or 0..255, are allowed. "
            f"Convert it, so that black is 0 and white 255."
        )


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    """Return the axis of the channels of a four-dimensional array, or None where two or none could be it."""
    last, first = shape[3] in CHANNELS, shape[1] in CHANNELS
    return None if last == first else (3 if last else 1)


def _check_lengths(images: Array, labels: Array) -> None:
    flat = len(labels.shape) == 1 or (len(labels.shape) == 2 and labels.shape[1] == 1)
    if not flat or labels.dtype.kind not in "iuUS":
        raise DataError(
            f"{labels.where}: is {labels.dtype} of shape {'x'.join(map(str, labels.shape)) or 'a single value'}; one "
            f"whole number or text for each image is allowed. For one-hot labels, give labels.argmax(axis=1)."
        )
    if labels.shape[0] != images.shape[0]:
        raise DataError(
            f"{labels.where}: holds {labels.shape[0]} labels for the {images.shape[0]} images of {images.where}; "
            f"one for each is needed. Add or remove some."
        )


def _labels(parts: list[Array], given: Array | None) -> tuple[tuple[str, ...], Labels, tuple[str, ...]]:
    """Return class names, labels as indices into them, and a note on classes that nobody uses."""
    read = [np.concatenate([block.reshape(-1) for block in part.blocks()]) for part in parts]
    if len({part.dtype.kind in "US" for part in parts}) > 1:
        raise DataError(f"{parts[0].where}: is text in one split, numbers in the other; one is allowed. Convert one.")
    names = None if given is None else [str(name) for block in given.blocks() for name in block.reshape(-1)]
    if parts[0].dtype.kind not in "US":
        for part, labels in zip(parts, read, strict=True):
            _check_range(part.where, labels, names)
    used, labels = np.unique(np.concatenate(read), return_inverse=True)
    texts = [each.decode("utf-8", "replace") if isinstance(each, bytes) else str(each) for each in used.tolist()]
    if names is None or parts[0].dtype.kind in "US":
        return tuple(texts), labels.reshape(-1).astype(np.int64), ()
    absent = len(names) - len(used)
    note = f"{absent} class names have no image and were left out."
    return tuple(names[index] for index in used), labels.reshape(-1).astype(np.int64), (note,) if absent else ()


def _check_range(where: str, labels: Block, names: list[str] | None) -> None:
    limit = len(names) - 1 if names is not None else None
    wrong = np.flatnonzero((labels < 0) | (labels > limit if limit is not None else False))
    if len(wrong):
        allowed = f"0 to {limit}" if limit is not None else "0 and more"
        raise DataError(
            f"{where}: row {wrong[0]} has label {labels[wrong[0]]}; {allowed} are allowed. "
            f"Remove the row or correct its label."
        )


def _images(parts: list[Array]) -> Iterator[RawImage]:
    scale = cache(partial(_scale, [part for part in parts if part.dtype.kind == "f"]))
    for part in parts:
        first = len(part.shape) == 4 and _channel_axis(part.shape) == 1
        row = 0
        for block in part.blocks():
            for pixels in block:
                opened = partial(_picture, pixels, first, scale() if part.dtype.kind == "f" else None)
                yield RawImage(f"{part.where}: image {row}", opened)
                row += 1


def _scale(parts: list[Array]) -> float:
    """Return the factor from floats to 0..255, after looking at all of them once."""
    highest = 0.0
    for part in parts:
        row = 0
        for block in part.blocks():
            low, high = float(block.min()), float(block.max())  # NaN where there is one
            if not (low >= 0 and high <= 255):
                bad = next(i for i, image in enumerate(block) if not (image.min() >= 0 and image.max() <= 255))
                raise DataError(
                    f"{part.where}: image {row + bad} has pixels from {block[bad].min():g} to {block[bad].max():g}; "
                    f"floats in 0..1 or 0..255 are allowed. Undo the normalisation, or store uint8."
                )
            highest = max(highest, high)
            row += len(block)
    return 255.0 if highest <= 1 else 1.0


def _picture(pixels: Block, channels_first: bool, scale: float | None) -> Image.Image:
    if channels_first:
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if scale is not None:
        pixels = np.rint(pixels * scale)
    return Image.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8))


def of_mapping(value: str, arrays: Mapping[str, object]) -> Callable[[str], Array]:
    """Return what `read_arrays` calls to get an array of a mapping."""
    return lambda name: of_memory(f"{value}: {name}", arrays[name])
