"""Decode once: the images of a source as uint8 arrays, memory-mapped from the cache folder (`_store.py`)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import numpy as np

from nas.data import _findings
from nas.data._findings import Broken
from nas.data._store import FORMAT, Emit, Facts, cache_folder, make_pack, open_pack
from nas.data._stream import DIGEST_BYTES, Result, decoding
from nas.data._types import Dataset, Labels, Mask, Pixels, RawDataset, RawImage, Split, one_line, reason
from nas.data.decode import Layout, plan
from nas.errors import DataError

CHUNK = 128
CHUNK_BYTES = 2 << 20
BROKEN_MAX = 5

Progress = Callable[[int, int], None]


def pack_size(resolution: int) -> int:
    """Return the stored size for networks of up to `resolution` pixels: 8/7 of it, up to a multiple of 8.

    8/7 = 256/224, the customary margin of ImageNet pipelines between stored and shown size.
    """
    return -(-resolution // 7) * 8


def pack_images(
    raw: RawDataset,
    in_val: Mask,
    *,
    path: str,
    source_name: str,
    resolution: int,
    seed: int,
    progress: Progress | None = None,
    skip_broken: bool = False,
) -> Dataset:
    """Return the images of a source as a dataset, decoded now or read from the cache.

    Args:
        raw: The labelled, undecoded images.
        in_val: bool, (N,), true for validation images.
        path: Where the images are, for the key of the cache and for messages.
        source_name: The source that read them.
        resolution: Largest input resolution of the networks, in pixels.
        seed: The seed of the split, for the key of the cache.
        progress: Called with (images decoded, all images) now and then while decoding.
        skip_broken: Leave out images that cannot be decoded.

    Raises:
        DataError: an image cannot be decoded, too many cannot, or the cache cannot be written.
    """
    limit = pack_size(resolution)

    def decode_into(layout: Layout, emit: Emit) -> Facts:
        return _decode_all(raw, in_val, layout, emit, path, progress, skip_broken)

    if not raw.files:
        return _in_memory(raw, in_val, plan(_counted(raw, path), limit), decode_into, resolution)
    location = os.path.abspath(os.path.expanduser(path))
    identity = json.dumps([FORMAT, source_name, location, raw.files, limit, seed, skip_broken])
    folder = cache_folder() / hashlib.sha256(identity.encode()).hexdigest()[:24]
    kept = open_pack(folder)
    if kept is None:
        layout = plan(_counted(raw, path), limit)
        kept = make_pack(folder, raw.name, in_val, layout, partial(decode_into, layout))
    return _dataset(raw, in_val, *kept, resolution)


def _in_memory(
    raw: RawDataset, in_val: Mask, layout: Layout, decode_into: Callable[[Layout, Emit], Facts], resolution: int
) -> Dataset:
    shape = (layout.size, layout.size, layout.channels)
    splits = [np.empty((int(mask.sum()), *shape), dtype=np.uint8) for mask in (~in_val, in_val)]
    filled = [0, 0]

    def emit(*chunks: Pixels) -> None:
        for side, pixels in enumerate(chunks):
            splits[side][filled[side] : filled[side] + len(pixels)] = pixels
            filled[side] += len(pixels)

    facts = decode_into(layout, emit)
    return _dataset(raw, in_val, facts, splits[0][: filled[0]], splits[1][: filled[1]], resolution)


def _dataset(raw: RawDataset, in_val: Mask, facts: Facts, train: Pixels, val: Pixels, resolution: int) -> Dataset:
    kept = np.ones(len(in_val), dtype=np.bool_)
    kept[list(facts.skipped)] = False
    train_labels, val_labels = raw.labels[kept & ~in_val], raw.labels[kept & in_val]
    size = train.shape[1]
    notes = [*raw.notes, *_findings.uneven_note(raw.labels[kept], raw.class_names), *facts.notes]
    if facts.num_enlarged:
        notes.append(f"{facts.num_enlarged} of {kept.sum()} images were smaller than {size} px and were enlarged.")
    if size < resolution:
        notes.append(f"All images are {size} px and are enlarged on the fly for networks of up to {resolution} px.")
    return Dataset(
        name=raw.name,
        train=Split(train, train_labels),
        val=Split(val, val_labels),
        class_names=raw.class_names,
        fingerprint=fingerprint_of(facts, train.shape, train_labels, val_labels, raw.class_names),
        mean=facts.mean,
        std=facts.std,
        notes=tuple(one_line(note) for note in notes),
        enlarged=facts.num_enlarged,
    )


def fingerprint_of(
    facts: Facts,
    shape: tuple[int, ...],
    train_labels: Labels,
    val_labels: Labels,
    class_names: tuple[str, ...],
) -> str:
    """Return the fingerprint of packed images: 16 hex digits over pixels, labels, split and class names."""
    content = [
        facts.train_sha256,
        facts.val_sha256,
        list(shape[1:]),
        # Little-endian on every machine: the fingerprint of one dataset is the same everywhere.
        hashlib.sha256(train_labels.astype("<i8").tobytes()).hexdigest(),
        hashlib.sha256(val_labels.astype("<i8").tobytes()).hexdigest(),
        list(class_names),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _decode_all(
    raw: RawDataset,
    in_val: Mask,
    layout: Layout,
    emit: Emit,
    path: str,
    progress: Progress | None,
    skip_broken: bool,
) -> Facts:
    """Decode every image once, in order, handing (train, val) chunks to `emit`; at most one chunk is held."""
    total, tally = len(raw.labels), _Tally(raw, in_val, layout.channels, path)
    with decoding(_counted(raw, path), layout) as results:
        size = max(1, min(CHUNK, CHUNK_BYTES // (layout.size**2 * layout.channels)))
        while chunk := list(islice(results, size)):
            chunks = tally.add(chunk)
            if tally.is_hopeless(skip_broken):
                break
            if chunks is not None and (skip_broken or not tally.skipped):
                emit(*chunks)
            if progress is not None:
                progress(tally.done, total)
    if tally.skipped and not skip_broken:
        raise _findings.broken_error(tally.broken, BROKEN_MAX)
    return tally.facts()


class _Tally:
    """What is gathered over the images of a data set while they are decoded: 16 bytes an image, and sums."""

    def __init__(self, raw: RawDataset, in_val: Mask, channels: int, path: str) -> None:
        self.raw, self.in_val, self.path = raw, in_val, path
        self.done, self.num_enlarged, self.num_animated, self.animated = 0, 0, 0, ""
        self.broken: list[Broken] = []
        self.skipped: list[int] = []
        self.hashes = hashlib.sha256(), hashlib.sha256()
        self.histogram = np.zeros((channels, 256), dtype=np.int64)
        self.digests = np.zeros((len(in_val), DIGEST_BYTES), dtype=np.uint8)

    def add(self, chunk: list[Result]) -> tuple[Pixels, Pixels] | None:
        """Take the next images; return the pixels of those of training and of validation, None for no image."""
        good: dict[int, Pixels] = {}
        for index, result in enumerate(chunk, start=self.done):
            image = result.image
            if isinstance(image, Broken):
                self.skipped.append(index)
                self.broken += [image] if len(self.broken) < BROKEN_MAX else []
                continue
            good[index] = image.pixels
            self.digests[index] = np.frombuffer(result.digest, dtype=np.uint8)
            self.num_enlarged += image.enlarged
            if image.animated:
                self.num_animated += 1
                self.animated = self.animated or _findings.below(self.path, result.where)
        self.done += len(chunk)
        if not good:
            return None
        pixels, to_val = np.stack(list(good.values())), self.in_val[list(good)]
        train, val = pixels[~to_val], pixels[to_val]
        self.hashes[0].update(train.tobytes())
        self.hashes[1].update(val.tobytes())
        for channel, counts in enumerate(self.histogram):
            counts += np.bincount(train[..., channel].ravel(), minlength=256)
        return train, val

    def is_hopeless(self, skip_broken: bool) -> bool:
        """Return whether there are so many broken images already that it is not one bad file."""
        return len(self.skipped) >= BROKEN_MAX and (not skip_broken or 2 * len(self.skipped) > len(self.in_val))

    def facts(self) -> Facts:
        """Return what was seen, after the last image. Raises `DataError` where too many of them are broken."""
        notes = []
        if self.skipped:
            notes.append(_findings.skipped_note(self.raw, self.in_val, self.path, self.broken, self.skipped))
        if self.num_animated:
            named = self.animated + (", ..." if self.num_animated > 1 else "")
            notes.append(
                f"The first frame or page was taken of images that hold several: {self.num_animated} ({named})."
            )
        notes += _findings.duplicate_notes(self.raw, self.in_val, self.digests, self.skipped, self.path)
        train, val = (sha256.hexdigest() for sha256 in self.hashes)
        return Facts(train, val, *_moments(self.histogram), self.num_enlarged, tuple(self.skipped), tuple(notes))


def _counted(raw: RawDataset, path: str) -> Iterator[RawImage]:
    """Yield the images of a source, and refuse more or fewer of them than there are labels."""
    total, count = len(raw.labels), 0
    try:
        for count, image in enumerate(raw.images(), start=1):
            if count > total:
                break
            yield image
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{path}: reading its images raised {type(error).__name__} after {count} of {total} ({reason(error)}); "
            f"an image for each label is needed. Repair or correct what yields them."
        ) from error
    if count != total:
        found = f"more than {total}" if count > total else str(count)
        raise DataError(f"{path}: found {found} images for {total} labels; one for each is needed. Correct the source.")


def _moments(
    histogram: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, in 0..1, from exact counts of the 256 levels."""
    levels = np.arange(256) / 255
    share = histogram / histogram.sum(axis=1, keepdims=True)
    mean = share @ levels
    variance = (share * (levels - mean[:, None]) ** 2).sum(axis=1)
    # A constant channel (a colour that no image uses) would divide by zero: one grey level is the floor.
    std = np.maximum(np.sqrt(variance), 1 / 255)
    return tuple(float(value) for value in mean), tuple(float(value) for value in std)
