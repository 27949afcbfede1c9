"""Images decoded in the order they come, by a pool of threads that works a few images ahead."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from nas.data._findings import Broken
from nas.data._types import RawImage, reason
from nas.data.decode import Decoded, Layout, TooLargeError, decode, whole_images

DIGEST_BYTES = 16
AHEAD = 32


@dataclass(frozen=True)
class Result:
    """What became of one image: pixels with their hash, or what is wrong with it.

    It has names of the image, not the image: that may hold its encoded bytes.
    """

    where: str
    folder: str
    image: Decoded | Broken
    digest: bytes = b""


@contextmanager
def decoding(images: Iterable[RawImage], layout: Layout) -> Iterator[Iterator[Result]]:
    """Yield what becomes of each image, in order; threads and undecoded images go when the body ends.

    Few undecoded images are in memory, however many there are.
    """
    # Pillow lets go of the interpreter lock while it decodes and resizes, which pays for photographs (2 cores,
    # 2,000 JPEG files of 160 px: 1.9 s against 3.4 s). Small images are mostly Python, which threads only slow
    # down (5,000 of 32 px: 1.3 s against 0.7 s), so those are decoded by the calling thread.
    with whole_images(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        decode_one = partial(_try_decode, layout=layout)
        yield _ahead(pool, decode_one, images) if layout.resize else map(decode_one, images)


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[RawImage], Result], images: Iterable[RawImage]
) -> Iterator[Result]:
    """Yield results in order while the pool works on the next few, so that few undecoded images are in memory."""
    waiting: deque[Future[Result]] = deque()
    for image in images:
        waiting.append(pool.submit(function, image))
        if len(waiting) >= AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _try_decode(image: RawImage, layout: Layout) -> Result:
    """Decode, or return what is wrong in words, so that one run can name several broken files."""
    try:
        decoded = decode(image, layout)
    except TooLargeError as error:
        return Result(image.where, image.folder, Broken(image.where, reason(error), "Shrink"))
    except Exception as error:
        # Pillow's decoders raise many types on broken files: OSError, SyntaxError, struct.error and others.
        opened = not (isinstance(error, OSError) and error.errno is not None)
        return Result(image.where, image.folder, Broken(image.where, reason(error), opened=opened))
    digest = hashlib.blake2b(decoded.pixels.tobytes(), digest_size=DIGEST_BYTES).digest()
    return Result(image.where, image.folder, decoded, digest)
