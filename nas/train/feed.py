"""Images on their way to the device: gathered there, or on the host ahead of the step that wants them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from nas.train.loop import Images

AHEAD = 2
"""Batches that are gathered on the host before they are wanted."""


def feed(indices: Iterable[Tensor], images: Images) -> Iterator[Tensor]:
    """Yield the images at some indices, on the device: uint8, (B, H, W, C).

    Images that lie on the host beside a CUDA device are gathered ahead by a thread, into memory from which the device copies
    while it computes; their indices are to be on the host too.
    """
    if images.pixels.device == images.device:
        yield from (images[index] for index in indices)
        return

    def gathered(index: Tensor) -> Tensor:
        torch.cuda.set_device(images.device)  # of this thread: the memory is pinned for it
        rows = index if images.rows is None else images.rows[index]
        pinned = torch.empty((len(rows), *images.pixels.shape[1:]), dtype=torch.uint8, pin_memory=True)
        return torch.index_select(images.pixels, 0, rows, out=pinned)

    waiting: deque[Future[Tensor]] = deque()
    with ThreadPoolExecutor(1) as pool:
        for index in indices:
            waiting.append(pool.submit(gathered, index))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result().to(images.device, non_blocking=True)
        while waiting:
            yield waiting.popleft().result().to(images.device, non_blocking=True)
