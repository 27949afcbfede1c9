"""Where runs and packed images go: whether that can be written, and how much room there is."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nas.doctor._check import Check, Level

LEAST_RESULTS = 50 * 2**20
"""Bytes under which a search cannot be started: its database, tables and one checkpoint."""

LITTLE = 2**30


def results(folder: Path = Path("results")) -> Iterator[Check]:
    """Yield whether runs can be written, and the room for them."""
    place = folder.absolute()
    refused = _refuses(place)
    if refused is not None:
        advice = "Make it writable, work in another folder, or give --out."
        yield Check("folders", "results", "problem", f"{place}: cannot be written ({refused})", advice)
        return
    free = shutil.disk_usage(_existing(place)).free
    level: Level = "problem" if free < LEAST_RESULTS else "warning" if free < LITTLE else "ok"
    advice = "" if level == "ok" else "Free space, or give --out a folder on another disk."
    yield Check("folders", "results", level, f"{place}: writable, {_size(free)} free", advice, {"free": free})


def cache() -> Iterator[Check]:
    """Yield whether images can be packed, the room for them, and what lies there."""
    from nas.data._store import cache_folder

    place = cache_folder()
    refused = _refuses(place)
    if refused is not None:
        advice = "Own images cannot be packed there (the built-in ones need no cache). Set NAS_CACHE to another folder."
        yield Check("folders", "cache", "warning", f"{place}: cannot be written ({refused})", advice)
        return
    packs = [entry for entry in place.iterdir() if entry.is_dir()] if place.is_dir() else []
    held = sum(file.stat().st_size for pack in packs for file in pack.iterdir() if file.is_file())
    free = shutil.disk_usage(_existing(place)).free
    packed = f"{len(packs)} pack{'' if len(packs) == 1 else 's'} of images" + (
        f" ({_size(held)}; may be deleted)" if packs else ""
    )
    found = f"{place}: writable, {_size(free)} free, {packed}"
    advice = "" if free >= LITTLE else "Free space, or set NAS_CACHE to a folder on another disk."
    values = {"free": free, "packs": len(packs), "bytes": held}
    yield Check("folders", "cache", "ok" if free >= LITTLE else "warning", found, advice, values)


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def _refuses(folder: Path) -> str | None:
    """Return why a folder cannot be written, or made in the one above it, or None where it can. Leaves nothing behind."""
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            return None
    except OSError as error:
        return error.strerror or str(error)


def _size(count: float) -> str:
    """Write bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:,.3g} TiB"
