"""Archives that may be damaged or meant to do harm: what zip and tar have in common, and a careful reader of tar."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from nas.data._types import reason
from nas.data.decode import MAX_BYTES, TooLargeError
from nas.errors import DataError

# Images are compressed already, so an archive of them is about as large as what it holds. Flat drawings may shrink
# much; beyond a GiB, 200 times the size of the archive is a bomb.
FREE_BYTES = 2**30
MAX_EXPANSION = 200
COMPRESSIONS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}


@contextmanager
def explained(path: Path, kind: str) -> Iterator[None]:
    """Turn what `zipfile`, `tarfile` and the decompressors raise on damaged archives into a `DataError`."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{path}: cannot be read as {kind} ({reason(error)}); a whole, readable archive is expected. "
            f"Download or pack it again."
        ) from error


def check_expansion(path: Path, expanded: int) -> None:
    """Refuse an archive that unpacks to so many bytes that it is a bomb."""
    packed = path.stat().st_size
    if expanded > max(FREE_BYTES, MAX_EXPANSION * packed):
        raise DataError(
            f"{path}: {packed:,} bytes unpack to {expanded:,} or more; {MAX_EXPANSION} times the size is allowed beyond "
            f"{FREE_BYTES >> 20} MiB (a decompression bomb is suspected). Unpack it and give the folder if you trust it."
        )


def is_compressed(path: Path) -> bool:
    """Return whether a tar archive is compressed, so that it can only be read from its beginning."""
    return _opener(path) is not open


@contextmanager
def open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """Open a tar archive to be read from beginning to end. At its end, see that nothing is missing.

    Raises:
        DataError: the archive is damaged; also raised while it is read.
    """
    with explained(path, "tar"), _opener(path)(path, "rb") as stream:
        with _started(stream) as archive:
            yield archive
            # tarfile takes a damaged header for the end. The end is a block of zeros, or of the file.
            stream.seek(archive.offset)
            if stream.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"damaged at byte {archive.offset}")
        while stream.read(1 << 20):
            pass  # to the checksum, which is behind the last byte of the archive


def members(path: Path, archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members in order, and stop at one that would unpack to too much."""
    for member in archive:
        check_expansion(path, archive.offset)
        yield member


def first_member(path: Path) -> str:
    """Return the name of the first member of a tar archive, or "" where there is none or it is damaged."""
    try:
        with _opener(path)(path, "rb") as stream, _started(stream) as archive:
            first = archive.next()
            return first.name if first is not None else ""
    except Exception:
        return ""


class _Bounded:
    """A file that reads no more at once than an image may take: the header of a tar may ask for any number."""

    def __init__(self, file: IO[bytes]) -> None:
        self.tell, self.seek, self._file = file.tell, file.seek, file

    def read(self, size: int) -> bytes:
        if size > MAX_BYTES + 1:
            raise TooLargeError(f"a header of {size:,} bytes")
        return self._file.read(size)


def _opener(path: Path) -> Callable[..., Any]:
    with open(path, "rb") as file:
        start = file.read(6)
    return next((opener for magic, opener in COMPRESSIONS.items() if start.startswith(magic)), open)


def _started(stream: IO[bytes]) -> tarfile.TarFile:
    bounded: Any = _Bounded(stream)
    return tarfile.open(fileobj=bounded, mode="r:")
