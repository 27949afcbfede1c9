"""A validation split for sources that come without one."""

from __future__ import annotations

import numpy as np

from nas.data._types import Labels, Mask
from nas.errors import DataError

VAL_SHARE = 0.15
VAL_MAX_IMAGES = 10_000


def stratified(labels: Labels, class_names: tuple[str, ...], *, seed: int, where: str) -> Mask:
    """Choose the validation images: 15 % of every class, at least one, and about 10,000 at most together.

    Args:
        labels: int64, (N,).
        class_names: Names in label order.
        seed: Fixes which images are chosen.
        where: The data, as an error message names it.

    Returns:
        bool, (N,), true for validation images. Every class keeps at least one training image.

    Raises:
        DataError: a class has fewer than two images.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    for name, count in zip(class_names, counts, strict=True):
        if count < 2:
            raise DataError(
                f"{where}: class {name!r} has {count} image{'' if count == 1 else 's'}; at least 2 are "
                f"needed, one to train on and one to score on. Add images or remove the class."
            )
    share = min(VAL_SHARE, VAL_MAX_IMAGES / len(labels))
    # RandomState, not default_rng: NumPy guarantees its stream for ever (NEP 19), and the split is part
    # of the fingerprint, so it must not move with a NumPy release.
    random = np.random.RandomState(seed)
    in_val = np.zeros(len(labels), dtype=np.bool_)
    for label, count in enumerate(counts):
        chosen = random.permutation(np.flatnonzero(labels == label))
        in_val[chosen[: max(1, round(share * count))]] = True
    return in_val
