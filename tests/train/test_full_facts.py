from __future__ import annotations

from dataclasses import replace

import numpy as np

from nas.data import Dataset, Split
from nas.train.full_facts import remarks
from nas.train.full_recipes import FULL_RECIPES


def said(data: Dataset, images: int, changes: dict[str, object]) -> str:
    many = Split(np.zeros((images, 1, 1, 3), np.uint8), np.zeros(images, np.int64))
    recipe = replace(FULL_RECIPES["timm"], batch_size=100, epochs=10, **changes)  # type: ignore[arg-type]
    return " ".join(remarks(recipe, replace(data, train=many)))


def test_an_average_that_keeps_its_initial_weights_is_remarked_upon(tiny_data: Dataset) -> None:
    """0.99 wants 300 steps."""
    assert "still hold 5% of the initial ones after all 290 steps" in said(
        tiny_data, 2900, {"ema_warmup": False, "ema_decay": 0.99}
    )
    for images, changes in ((3000, {"ema_warmup": False}), (2900, {}), (2900, {"ema_warmup": False, "ema_decay": 0.0})):
        assert "initial" not in said(tiny_data, images, {"ema_decay": 0.99, **changes})


def test_an_epoch_of_few_steps_is_remarked_upon(tiny_data: Dataset) -> None:
    assert "An epoch of 900 images has 9 steps of 100 images only" in said(tiny_data, 900, {})
    assert "has 1 step of 100" in said(tiny_data, 100, {}) and "is more than the 99" in said(tiny_data, 99, {})
    assert "step" not in said(tiny_data, 1000, {})
