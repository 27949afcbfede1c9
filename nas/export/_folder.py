"""A folder that is whole or absent: it is written under another name beside its place, and renamed at the end."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from nas.errors import ExportError
from nas.owner import TEMPORARY

MARK = "export.json"
"""The file by which an earlier export is known; only such a folder may be replaced."""


def check_target(target: Path, overwrite: bool) -> None:
    """Refuse a folder that is there already, unless it is an earlier export that may be replaced.

    Raises:
        ExportError: it is there.
    """
    if not os.path.lexists(target):
        return
    if not (target / MARK).is_file():
        raise ExportError(f"{target}: is there already, and is no earlier export. Name another folder with --out.")
    if not overwrite:
        raise ExportError(
            f"{target}: holds an export already. Replace it with --overwrite, or name another with --out."
        )


@contextmanager
def written(target: Path, overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder that takes the target's place when the body ends well, and is deleted when it does not.

    Raises:
        ExportError: the target is there already, or nothing can be written beside it.
    """
    check_target(target, overwrite)
    target = target.absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-", suffix=TEMPORARY))
    except OSError as error:
        raise ExportError(
            f"{target}: cannot be made ({error.strerror}). Give a folder that can be written with --out."
        ) from None
    lock = os.open(work, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        new = work / "new"
        new.mkdir()
        yield new
        check_target(target, overwrite)  # another export may have been faster
        if os.path.lexists(target):
            os.rename(target, work / "old")
        os.rename(new, target)
    except OSError as error:
        raise ExportError(
            f"{target}: cannot be written ({error.strerror}). Free space, or give another --out."
        ) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
        os.close(lock)


def _sweep(target: Path) -> None:
    """Delete what killed exports to this place have left; a living one holds the lock of its folder."""
    for left in target.parent.glob(f".{escape(target.name)}-*{TEMPORARY}"):
        with suppress(OSError):
            handle = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(handle)
