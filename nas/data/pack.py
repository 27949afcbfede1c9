"""Decode once: the images of a source as uint8 arrays, memory-mapped from a cache folder.

A pack is a folder `packs/<key>/` with `train.npy`, `val.npy` and `pack.json` under `$NAS_CACHE`, or
`~/.cache/phinas` where that is unset. It may be deleted at any time; it is made again when it is needed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from nas.data._types import Dataset, Labels, Mask, Pixels, RawDataset, RawImage, Split
from nas.data.decode import Layout, decode, plan
from nas.errors import DataError

FORMAT = 1
CHUNK = 128
BROKEN_MAX = 5
STALE_SECONDS = 24 * 3600.0

Progress = Callable[[int, int], None]
Emit = Callable[[Pixels, Pixels], None]


def pack_size(resolution: int) -> int:
    """Return the stored size for networks of up to `resolution` pixels: 8/7 of it, up to a multiple of 8.

    8/7 = 256/224, the customary margin of ImageNet pipelines between stored and shown size.
    """
    return -(-resolution // 7) * 8


def cache_folder() -> Path:
    """Return the folder of the packs: `packs` under `$NAS_CACHE`, or under `~/.cache/phinas`."""
    root = os.environ.get("NAS_CACHE")
    return (Path(root).expanduser() if root else Path.home() / ".cache" / "phinas") / "packs"


def pack_images(
    raw: RawDataset,
    in_val: Mask,
    *,
    path: str,
    source_name: str,
    resolution: int,
    seed: int,
    progress: Progress | None = None,
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

    Raises:
        DataError: an image cannot be decoded, or the cache cannot be written.
    """
    limit = pack_size(resolution)
    if not raw.files:
        chunks: list[tuple[Pixels, Pixels]] = []
        layout = plan(raw.images(), limit)
        facts = _decode_all(raw, in_val, layout, lambda *pair: chunks.append(pair), progress)
        train, val = (np.concatenate([pair[side] for pair in chunks]) for side in (0, 1))
        return _dataset(raw, in_val, facts, train, val, resolution)
    location = os.path.abspath(os.path.expanduser(path))
    identity = json.dumps([FORMAT, source_name, location, raw.files, limit, seed])
    folder = cache_folder() / hashlib.sha256(identity.encode()).hexdigest()[:24]
    kept = _open(folder)
    if kept is None:
        _write(folder, raw, in_val, plan(raw.images(), limit), progress)
        kept = _open(folder)
    if kept is None:
        raise DataError(
            f"{folder}: the packed images were written but cannot be read back; a complete pack is expected. "
            f"Delete the folder, or set NAS_CACHE to a folder on another disk."
        )
    facts, train, val = kept
    return _dataset(raw, in_val, facts, train, val, resolution)


@dataclass(frozen=True)
class _Facts:
    """What is seen while decoding, and kept in `pack.json`."""

    train_sha256: str
    val_sha256: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_enlarged: int


def _dataset(raw: RawDataset, in_val: Mask, facts: _Facts, train: Pixels, val: Pixels, resolution: int) -> Dataset:
    train_labels, val_labels = raw.labels[~in_val], raw.labels[in_val]
    size = train.shape[1]
    notes = list(raw.notes)
    if facts.num_enlarged:
        notes.append(f"{facts.num_enlarged} of {len(raw.labels)} images were smaller than {size} px and were enlarged.")
    if size < resolution:
        notes.append(f"All images are {size} px and are enlarged on the fly for networks of up to {resolution} px.")
    return Dataset(
        name=raw.name,
        train=Split(train, train_labels),
        val=Split(val, val_labels),
        class_names=raw.class_names,
        fingerprint=_fingerprint(facts, train.shape, train_labels, val_labels, raw.class_names),
        mean=facts.mean,
        std=facts.std,
        notes=tuple(notes),
    )


def _fingerprint(
    facts: _Facts,
    shape: tuple[int, ...],
    train_labels: Labels,
    val_labels: Labels,
    class_names: tuple[str, ...],
) -> str:
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


def _decode_all(raw: RawDataset, in_val: Mask, layout: Layout, emit: Emit, progress: Progress | None) -> _Facts:
    """Decode every image once, in order, handing (train, val) chunks to `emit`; at most one chunk is held."""
    total, done, num_enlarged = len(raw.labels), 0, 0
    hashes = hashlib.sha256(), hashlib.sha256()
    histogram = np.zeros((layout.channels, 256), dtype=np.int64)
    broken: list[tuple[str, str]] = []
    images = raw.images()
    # Pillow lets go of the interpreter lock while it decodes and resizes, which pays for photographs (2 cores,
    # 2,000 JPEG files of 160 px: 1.9 s against 3.4 s). Small images are mostly Python, which threads only slow
    # down (5,000 of 32 px: 1.3 s against 0.7 s), so those are decoded by the calling thread.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        decode_each = pool.map if layout.resize else map
        while chunk := list(islice(images, CHUNK)):
            results = list(decode_each(lambda image: _try_decode(image, layout), chunk))
            for image, result in zip(chunk, results, strict=True):
                if isinstance(result, str):
                    broken.append((image.where, result))
            if len(broken) >= BROKEN_MAX:
                break  # enough to see that it is not one bad file
            if not broken:
                good = [result for result in results if not isinstance(result, str)]
                pixels = np.stack([array for array, _ in good])
                num_enlarged += sum(enlarged for _, enlarged in good)
                to_val = in_val[done : done + len(chunk)]
                train, val = pixels[~to_val], pixels[to_val]
                emit(train, val)
                hashes[0].update(train.tobytes())
                hashes[1].update(val.tobytes())
                for channel in range(layout.channels):
                    histogram[channel] += np.bincount(train[..., channel].ravel(), minlength=256)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
    if broken:
        (first, reason), *others = broken
        also = f" Also broken: {', '.join(where for where, _ in others[: BROKEN_MAX - 1])}." if others else ""
        raise DataError(
            f"{first}: cannot be decoded ({reason}); every image must be readable. Repair or remove it.{also}"
        )
    mean, std = _moments(histogram)
    return _Facts(hashes[0].hexdigest(), hashes[1].hexdigest(), mean, std, num_enlarged)


def _try_decode(image: RawImage, layout: Layout) -> tuple[Pixels, bool] | str:
    """Decode, or return what is wrong in words, so that one run can name several broken files."""
    try:
        return decode(image, layout)
    except Exception as error:
        # Pillow's decoders raise many types on broken files: OSError, SyntaxError, struct.error and others.
        return " ".join(str(error).split()) or type(error).__name__


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


def _open(folder: Path) -> tuple[_Facts, Pixels, Pixels] | None:
    """Read a pack, or return None where it is absent or damaged (it is then made again)."""
    try:
        stored = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
        facts = _Facts(
            train_sha256=stored["train_sha256"],
            val_sha256=stored["val_sha256"],
            mean=tuple(stored["mean"]),
            std=tuple(stored["std"]),
            num_enlarged=stored["num_enlarged"],
        )
        # "c" is copy on write: torch takes the arrays without a warning, and nobody can change the file.
        return facts, np.load(folder / "train.npy", mmap_mode="c"), np.load(folder / "val.npy", mmap_mode="c")
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(folder: Path, raw: RawDataset, in_val: Mask, layout: Layout, progress: Progress | None) -> None:
    """Make a pack beside its place and move it there in one step, so that a half pack is never seen."""
    need = len(raw.labels) * layout.size**2 * layout.channels
    temporary = folder.with_name(f"{folder.name}.tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        temporary.mkdir(parents=True)
        _remove_stale(folder.parent)
        free = shutil.disk_usage(temporary).free
        if free < need:
            raise OSError(f"{free >> 20} MiB are free")
        _write_files(temporary, raw, in_val, layout, progress)
        _move(temporary, folder)
    except OSError as error:
        raise DataError(
            f"{folder.parent}: the packed images cannot be written ({error.strerror or error}); "
            f"{(need >> 20) + 1} MiB of writable space are needed. Make room, "
            f"or set NAS_CACHE to another folder."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_files(folder: Path, raw: RawDataset, in_val: Mask, layout: Layout, progress: Progress | None) -> None:
    num_val = int(in_val.sum())
    with ExitStack() as stack:
        # Plain writes, not a writable memory map: on a full disk a write is an OSError that can be explained,
        # a touched page of a map is a SIGBUS that kills the process.
        files = [stack.enter_context(open(folder / f"{name}.npy", "wb")) for name in ("train", "val")]
        for file, count in zip(files, (len(in_val) - num_val, num_val), strict=True):
            shape = (count, layout.size, layout.size, layout.channels)
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})

        def emit(train: Pixels, val: Pixels) -> None:
            for file, pixels in zip(files, (train, val), strict=True):
                file.write(pixels.tobytes())

        facts = _decode_all(raw, in_val, layout, emit, progress)
        files.append(stack.enter_context(open(folder / "pack.json", "wb")))
        files[-1].write(json.dumps({"format": FORMAT, "path_name": raw.name, **facts.__dict__}).encode())
        for file in files:
            file.flush()
            os.fsync(file.fileno())


def _move(temporary: Path, folder: Path) -> None:
    """Put a finished pack in place; where another process was faster, keep the other one's."""
    if folder.exists() and _open(folder) is None:
        shutil.rmtree(folder)
    try:
        os.replace(temporary, folder)
    except OSError:
        if _open(folder) is None:
            raise


def _remove_stale(packs: Path) -> None:
    """Delete what killed processes left behind a day ago or earlier."""
    for entry in packs.glob("*.tmp-*"):
        try:
            if time.time() - entry.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(entry, ignore_errors=True)
        except FileNotFoundError:
            continue  # its own process, or another one like this, was faster
