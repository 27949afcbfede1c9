"""The cache folder of packs: reading one, making one beside its place, and removing what nobody uses.

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
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import numpy as np

from nas.data._types import Mask, Pixels, reason
from nas.data.decode import Layout
from nas.errors import DataError

FORMAT = 2
STALE_SECONDS = 24 * 3600.0
UNUSED_SECONDS = 60 * 24 * 3600.0

Emit = Callable[[Pixels, Pixels], None]


@dataclass(frozen=True)
class Facts:
    """What is seen while decoding, and kept in `pack.json`.

    Args:
        train_sha256: Of the training pixels.
        val_sha256: Of the validation pixels.
        mean: Of each channel of the training images, in 0..1.
        std: Likewise.
        num_enlarged: Images that were smaller than they are stored.
        skipped: Indices of the images that could not be read and were left out, in order.
        notes: Sentences for people about the images.
    """

    train_sha256: str
    val_sha256: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_enlarged: int
    skipped: tuple[int, ...]
    notes: tuple[str, ...]


Pack = tuple[Facts, Pixels, Pixels]
Decode = Callable[[Emit], Facts]


def cache_folder() -> Path:
    """Return the folder of the packs: `packs` under `$NAS_CACHE`, or under `~/.cache/phinas`."""
    root = os.environ.get("NAS_CACHE")
    return Path(os.path.expanduser(root) if root else Path.home() / ".cache" / "phinas") / "packs"


def open_pack(folder: Path) -> Pack | None:
    """Read a pack and mark it as used, or return None where it is absent or damaged (it is then made again).

    All of it is read and held against its hashes, about a second for each GB: a search on pixels that a disk has changed would
    tell the fingerprint of others.
    """
    try:
        stored = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
        facts = Facts(
            train_sha256=stored["train_sha256"],
            val_sha256=stored["val_sha256"],
            mean=tuple(stored["mean"]),
            std=tuple(stored["std"]),
            num_enlarged=stored["num_enlarged"],
            skipped=tuple(stored["skipped"]),
            notes=tuple(stored["notes"]),
        )
        with suppress(OSError):  # a cache that is shared read-only
            os.utime(folder / "pack.json")
        # Read-only: the kernel refuses to map a file larger than memory for writing, even copy on write.
        train, val = (np.load(folder / f"{split}.npy", mmap_mode="r") for split in ("train", "val"))
        if (_hash(folder / "train.npy", train), _hash(folder / "val.npy", val)) != (
            facts.train_sha256,
            facts.val_sha256,
        ):
            return None
        return facts, train, val
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def _hash(path: Path, pixels: Pixels) -> str:
    """Return the hash of the pixels in a file, read plainly: pages of a map would count as this process's memory."""
    with open(path, "rb") as file:
        file.seek(path.stat().st_size - pixels.nbytes)
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_pack(folder: Path, name: str, in_val: Mask, layout: Layout, decode: Decode) -> Pack:
    """Make a pack beside its place and move it there in one step, so that a half pack is never seen.

    Args:
        folder: Its place.
        name: The name of the data, for people who look into the cache.
        in_val: bool, (N,), true for validation images.
        layout: The form of the images.
        decode: Hands (training, validation) images to the function it is given, and returns what it saw.

    Raises:
        DataError: the cache cannot be written, or what `decode` raises.
    """
    need = len(in_val) * layout.size**2 * layout.channels
    temporary = folder.with_name(f"{folder.name}.tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        temporary.mkdir(parents=True)
        _remove_unused(folder.parent)
        free = shutil.disk_usage(temporary).free
        if free < need:
            raise OSError(f"{free >> 20} MiB are free")
        _write(temporary, name, in_val, layout, decode)
        _move(temporary, folder)
    except OSError as error:
        raise DataError(
            f"{folder.parent}: the packed images cannot be written ({reason(error)}); "
            f"{(need >> 20) + 1} MiB of writable space are needed. Make room, "
            f"or set NAS_CACHE to another folder."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    made = open_pack(folder)
    if made is None:
        raise DataError(
            f"{folder}: the packed images were written but cannot be read back; a complete pack is expected. "
            f"Delete the folder, or set NAS_CACHE to a folder on another disk."
        )
    return made


def _write(folder: Path, name: str, in_val: Mask, layout: Layout, decode: Decode) -> None:
    counts = [int((~in_val).sum()), int(in_val.sum())]
    with ExitStack() as stack:
        # Plain writes, not a writable memory map: on a full disk a write is an OSError that can be explained,
        # a touched page of a map is a SIGBUS that kills the process.
        files = [stack.enter_context(open(folder / f"{split}.npy", "wb")) for split in ("train", "val")]
        for file, count in zip(files, counts, strict=True):
            _write_header(file, count, layout)

        def emit(*splits: Pixels) -> None:
            for file, pixels in zip(files, splits, strict=True):
                file.write(pixels.tobytes())

        facts = decode(emit)
        for index in facts.skipped:
            counts[int(in_val[index])] -= 1
        for file, count in zip(files, counts, strict=True):
            # NumPy pads headers so that the number of rows can change in place.
            file.seek(0)
            _write_header(file, count, layout)
        files.append(stack.enter_context(open(folder / "pack.json", "wb")))
        files[-1].write(json.dumps({"format": FORMAT, "path_name": name, **asdict(facts)}).encode())
        for file in files:
            file.flush()
            os.fsync(file.fileno())


def _write_header(file: IO[bytes], count: int, layout: Layout) -> None:
    shape = (count, layout.size, layout.size, layout.channels)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _move(temporary: Path, folder: Path) -> None:
    """Put a finished pack in place; where another process was faster, keep the other one's."""
    if folder.exists() and open_pack(folder) is None:
        shutil.rmtree(folder)
    try:
        os.replace(temporary, folder)
    except OSError:
        if open_pack(folder) is None:
            raise


def _remove_unused(packs: Path) -> None:
    """Delete what killed processes left behind a day ago, and packs that nobody has opened for 60 days.

    A pack is renamed first, so that nobody meets half of one; a process that has it mapped keeps its pages.
    """
    now = time.time()
    for entry in packs.iterdir():
        with suppress(OSError):  # its own process, or another one like this, was faster
            if ".tmp-" in entry.name:
                if now - entry.stat().st_mtime > STALE_SECONDS:
                    shutil.rmtree(entry, ignore_errors=True)
            elif now - (entry / "pack.json").stat().st_mtime > UNUSED_SECONDS:
                doomed = entry.with_name(f"{entry.name}.tmp-{uuid.uuid4().hex[:8]}")
                entry.rename(doomed)
                shutil.rmtree(doomed, ignore_errors=True)
