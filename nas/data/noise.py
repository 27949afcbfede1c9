"""Random images: for timing and checks that need a batch and no data."""

from __future__ import annotations

import numpy as np

from nas.data._types import Dataset, Split
from nas.spec import ArchSpec


def noise(spec: ArchSpec, images: int) -> Dataset:
    """Return random images of a network's own size, with its classes in turn; training and validation images are the same.

    Noise, not zeros: a device draws less power on zeros, and runs faster than it will on images.
    """
    size = spec.resolved().resolution
    pixels = np.random.default_rng(0).integers(0, 256, (images, size, size, spec.in_channels), dtype=np.uint8)
    split = Split(pixels, np.arange(images) % spec.num_classes)
    half = (0.5,) * spec.in_channels
    return Dataset("noise", split, split, tuple(map(str, range(spec.num_classes))), "", half, half, ())
