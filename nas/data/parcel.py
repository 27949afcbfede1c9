"""A dataset on its way to another machine: all but its pixels, and the pixels in parts; there it is a pack of the cache."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nas.data._store import Emit, Facts, cache_folder, make_pack, open_pack
from nas.data._types import Dataset, Pixels, Split, reason
from nas.data.decode import Layout
from nas.data.pack import fingerprint_of
from nas.errors import DataError

PART_BYTES = 64 << 20

Part = tuple[Pixels, Pixels]
"""Some training and some validation images."""


@dataclass(frozen=True)
class Parcel:
    """What is told of a dataset before its pixels are sent.

    Args:
        shell: The dataset without its pixels: images (0, H, W, C).
        folder: Where its pack lies on this machine, and perhaps on others too; None where it is in memory.
    """

    shell: Dataset
    folder: Path | None


def parcel(data: Dataset) -> Parcel:
    """Return what is told of a dataset."""
    file = getattr(data.train.images, "filename", None)  # of a memory map
    empty = data.train.images[:0].copy()
    return Parcel(_with(data, empty, empty), None if file is None else Path(file).parent)


def parts(data: Dataset) -> Iterator[Part]:
    """Yield the pixels of a dataset, in order, in parts of about `PART_BYTES`."""
    train, val = data.train.images, data.val.images
    step = max(1, PART_BYTES // max(1, int(np.prod(train.shape[1:]))))
    for first in range(0, max(len(train), len(val)), step):
        yield np.ascontiguousarray(train[first : first + step]), np.ascontiguousarray(val[first : first + step])


def opened(sent: Parcel) -> Dataset | None:
    """Return the dataset of a parcel where this machine has its pack, in the sender's folder or in its own cache."""
    for folder in (sent.folder, _place(sent)):
        pack = None if folder is None else open_pack(folder)
        if pack is None:
            continue
        facts, train, val = pack
        fits = len(train) == len(sent.shell.train.labels) and len(val) == len(sent.shell.val.labels)
        if fits and _fingerprint(sent, facts) == sent.shell.fingerprint:
            return _with(sent.shell, train, val)
    return None


def received(sent: Parcel, fetch: Callable[[], Iterator[Part]]) -> Dataset:
    """Return the dataset of a parcel; its pixels are fetched unless another process of this machine has done so.

    Raises:
        DataError: the cache cannot be written, or other pixels came than were sent.
    """
    place = _place(sent)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = place.with_suffix(".lock").open("w")  # held below, where other errors have other remedies
    except OSError as error:
        raise DataError(
            f"{place.parent}: cannot be written ({reason(error)}), and the images are to be kept there. Set NAS_CACHE to "
            "another folder where Ray is started."
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return opened(sent) or _stored(sent, fetch, place)


def _stored(sent: Parcel, fetch: Callable[[], Iterator[Part]], place: Path) -> Dataset:
    shell = sent.shell
    in_val = np.repeat([False, True], [len(shell.train.labels), len(shell.val.labels)])

    def write(emit: Emit) -> Facts:
        hashes = hashlib.sha256(), hashlib.sha256()
        for part in fetch():
            for sha256, pixels in zip(hashes, part, strict=True):
                sha256.update(pixels.tobytes())
            emit(*part)
        train, val = (sha256.hexdigest() for sha256 in hashes)
        facts = Facts(train, val, shell.mean, shell.std, shell.enlarged, (), shell.notes)
        if (found := _fingerprint(sent, facts)) != shell.fingerprint:
            raise DataError(
                f"{shell.name}: images of fingerprint {found} arrived; {shell.fingerprint} were sent. Leave the images as "
                "they are while a search runs, and continue with --resume."
            )
        return facts

    _, train, val = make_pack(place, shell.name, in_val, Layout(shell.size, shell.in_channels, False), write)
    return _with(sent.shell, train, val)


def _place(sent: Parcel) -> Path:
    return cache_folder() / f"sent-{sent.shell.fingerprint}"


def _fingerprint(sent: Parcel, facts: Facts) -> str:
    shell = sent.shell
    return fingerprint_of(facts, shell.train.images.shape, shell.train.labels, shell.val.labels, shell.class_names)


def _with(data: Dataset, train: Pixels, val: Pixels) -> Dataset:
    return replace(data, train=Split(train, data.train.labels), val=Split(val, data.val.labels))
